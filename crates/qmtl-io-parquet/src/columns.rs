//! The columns of a series: versions that only grow, each committed before the rows that need it.

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::{Field, Schema, SchemaRef};
use qmtl_history_api::{Coverage, Result, frame};

use crate::error;
use crate::file::StoredFile;
use crate::footer::{Footer, Kind, Link};
use crate::layout::{self, SeriesFolder};
use crate::store::{ATTEMPTS, ENTRY, Store, lost_races};

/// A version of a series' columns.
pub(crate) struct Columns {
    /// 0 for a series that has no payload column yet.
    pub(crate) version: u64,
    /// The id of that version's file.
    pub(crate) id: String,
    pub(crate) schema: SchemaRef,
}

impl Store {
    /// The newest columns of a series. Take the list of commits first: columns are committed before
    /// the rows that need them.
    pub(crate) fn columns(&self, series: &SeriesFolder) -> Result<Columns> {
        let folder = series.schemas();
        let none = || Columns { version: 0, id: String::new(), schema: frame::ts_only_schema() };
        let Some(stamp) = self.newest(&folder)? else { return Ok(none()) };
        let version = stamp.seq;
        let (id, schema) = match self.schemas.get(&folder, stamp) {
            Some(known) => known,
            None => {
                let path = folder.join(layout::commit_file(version));
                let Some(file) = self.open_checked(&path, series, None, version)? else {
                    return Ok(none());
                };
                let known = (file.link().id, plain(file.schema()));
                self.schemas.put(&folder, stamp, known.clone(), ENTRY + known.1.fields().len());
                known
            }
        };
        Ok(Columns { version, id, schema })
    }

    /// Makes sure that every column of `batch` stands in the series' schema with its type, and is on
    /// the disk before rows that need it. The version is taken by put-if-absent, so that of two
    /// processes which add one column with two types the second is refused before it stores a row.
    pub(crate) fn add_columns(&self, series: &SeriesFolder, batch: &Schema) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let Columns { version, id, schema } = self.columns(series)?;
            frame::check_types(&series.key, batch, &schema)?;
            let grown = frame::union(&schema, batch)?;
            if grown == schema {
                return self.settle_columns(series, version);
            }
            let footer = Footer {
                kind: Kind::Schema,
                key: series.key.clone(),
                partition: None,
                seq: version + 1,
                built_on: (version > 0).then_some(Link { seq: version, id }),
                base: None,
                rows: 0,
                coverage: Coverage::default(),
                inherits: false,
                attempt: self.disk.attempt(),
            };
            if self.commit(series, &footer, &RecordBatch::new_empty(grown))?.is_some() {
                return Ok(());
            }
        }
        Err(lost_races(&series.schemas()))
    }

    /// Makes sure that this version of the columns survives a power cut.
    pub(crate) fn settle_columns(&self, series: &SeriesFolder, version: u64) -> Result<()> {
        if version == 0 { Ok(()) } else { self.settle(series, &series.schemas(), version) }
    }
}

/// `Corrupt` unless every column of a file stands in its series' `columns`, listed after the file:
/// without them a read would leave the column out and say nothing.
pub(crate) fn check_listed(file: &StoredFile, columns: &Schema) -> Result<()> {
    let is_listed = |field: &Field| columns.field_with_name(field.name()).is_ok_and(|known| known == field);
    match file.schema().fields().iter().find(|field| !is_listed(field)) {
        Some(field) => Err(error::unlisted(file.path(), field.name()).with("type", field.data_type())),
        None => Ok(()),
    }
}

/// The canonical schema of a file's columns.
pub(crate) fn plain(schema: &Schema) -> SchemaRef {
    let payload = schema.fields().iter().filter(|field| field.name() != frame::TS);
    frame::schema_of(payload.map(|field| (field.name().as_str(), field.data_type().clone())))
}
