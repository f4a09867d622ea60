//! What every format offers once it was scanned.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{Error, Result};

use super::index::Index;
use super::time::TsUnit;

/// Which rows of a block are wanted.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    /// The times wanted, in the file's unit.
    pub(super) span: Range<i64>,
    /// The symbol wanted; empty when the file has no symbol column.
    pub(super) symbol: String,
}

/// A symbol without the blanks around it, which no two symbols differ in.
pub(super) fn symbol_of(field: &[u8]) -> &[u8] {
    let field = field.trim_ascii();
    // Blanks of other scripts, such as the one that does not break.
    let is_odd = |byte: Option<&u8>| byte.is_some_and(|byte| !byte.is_ascii());
    if !is_odd(field.first()) && !is_odd(field.last()) {
        return field;
    }
    std::str::from_utf8(field).map_or(field, |text| text.trim().as_bytes())
}

/// Random access to the blocks of a scanned file.
pub(super) trait Table: Debug + Send + Sync {
    /// `ts`, then the payload columns in file order.
    fn schema(&self) -> SchemaRef;

    /// The selected rows of a block in file order. Blocking.
    fn read(&self, block: usize, rows: &Selection) -> Result<Vec<RecordBatch>>;
}

/// A scanned file.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) table: Arc<dyn Table>,
    pub(super) index: Index,
    pub(super) unit: TsUnit,
    /// How long its bars say that they last, in its unit: klines alone say so.
    pub(super) bar: Option<u64>,
    /// The only value of a column that is named as if it told series apart, and that column.
    pub(super) sole: Option<(String, String)>,
    /// The column that holds the time, and how it is read.
    pub(super) time: (String, String),
    /// The names of its payload columns, each with the one under which it comes out.
    pub(super) names: Vec<(String, String)>,
    /// Of how many bytes how many were read, where only its beginning and its end were.
    pub(super) read_of: Option<(u64, u64)>,
    /// What of it is not as in a plain file, for people.
    pub(super) notes: Vec<String>,
}

/// That a file has no byte that says anything.
pub(super) const EMPTY: &str = "the file is empty";

/// That a file ends behind its header.
pub(super) const NO_ROWS: &str = "the file has a header but no rows";

/// Whether a file was refused because it has no rows, which does no harm among others.
pub(super) fn is_empty(error: &Error) -> bool {
    [EMPTY, NO_ROWS].contains(&error.message())
}
