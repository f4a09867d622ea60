//! Parquet files: a block is a slice of a row group.

mod claims;

use std::sync::Arc;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};
use parquet::file::metadata::PageIndexPolicy;
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{Error, Result};

use super::bytes::{FileBytes, corrupt, decoded};
use super::config::FileConfig;
use super::frame::{Columns, Scanned};
use super::table::{Opened, Selection, Table};
use super::time::TsUnit;

/// The most rows of a block and of a batch.
const BLOCK_ROWS: usize = 32 * 1024;

/// Rows `skip..skip + rows` of a row group.
#[derive(Clone, Copy, Debug)]
struct Extent {
    group: usize,
    skip: usize,
    rows: usize,
    /// The place of the first of them in the file.
    first_row: u64,
}

/// A scanned Parquet file.
#[derive(Debug)]
struct ParquetTable {
    file: ParquetFile,
    columns: Columns,
    extents: Vec<Extent>,
    unit: TsUnit,
    output: SchemaRef,
}

/// A Parquet file with its footer read.
#[derive(Debug)]
struct ParquetFile {
    bytes: FileBytes,
    metadata: ArrowReaderMetadata,
}

/// Reads the footer and the time column.
pub(super) fn open(bytes: &FileBytes, config: &FileConfig) -> Result<Opened> {
    let file = ParquetFile::open(bytes)?;
    let mut extents = Vec::new();
    let scanned = Columns::new(config, file.metadata.schema())?.scan(config, |places, take| {
        extents.clear();
        let mut first_row = 0;
        for group in 0..file.metadata.metadata().num_row_groups() {
            let mask = ProjectionMask::roots(file.metadata.parquet_schema(), places.iter().copied());
            let mut skip = 0;
            for batch in batches(file.group(group).with_projection(mask))? {
                let batch = batch?;
                let rows = batch.num_rows();
                if take(&batch)? {
                    extents.push(Extent { group, skip, rows, first_row });
                }
                skip += rows;
                first_row += rows as u64;
            }
        }
        Ok(())
    })?;
    let Scanned { columns, index, unit, bar, sole, notes } = scanned;
    let output = columns.output(unit);
    let (time, names) = (columns.time(config.zone), columns.names());
    let table = Arc::new(ParquetTable { file, columns, extents, unit, output });
    Ok(Opened { table, index, unit, bar, sole, time, names, read_of: None, notes })
}

impl ParquetFile {
    fn open(bytes: &FileBytes) -> Result<Self> {
        // The offset index lets a window inside a large row group skip to its pages.
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let damaged =
            |e| corrupt("cannot read the footer of the Parquet file: it is damaged or cut off").caused_by(e);
        claims::check_footer(bytes)?;
        let metadata = decoded(|| ArrowReaderMetadata::load(bytes, options).map_err(damaged))?;
        Ok(Self { bytes: bytes.clone(), metadata })
    }

    /// A reader of one row group.
    fn group(&self, group: usize) -> ParquetRecordBatchReaderBuilder<FileBytes> {
        ParquetRecordBatchReaderBuilder::new_with_metadata(self.bytes.clone(), self.metadata.clone())
            .with_row_groups(vec![group])
            .with_batch_size(BLOCK_ROWS)
    }
}

/// The batches of a reader, up to the first one that cannot be read.
fn batches(
    reader: ParquetRecordBatchReaderBuilder<FileBytes>,
) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
    let mut reader = decoded(|| reader.build().map_err(unreadable))?;
    Ok(std::iter::from_fn(move || decoded(|| reader.next().transpose().map_err(unreadable)).transpose()))
}

fn unreadable(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    corrupt("cannot read the rows of the Parquet file: it is damaged or compressed in an unknown way")
        .caused_by(cause)
}

impl Table for ParquetTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn read(&self, block: usize, rows: &Selection) -> Result<Vec<RecordBatch>> {
        let Extent { group, skip, rows: count, mut first_row } = self.extents[block];
        let selection = RowSelection::from(vec![RowSelector::skip(skip), RowSelector::select(count)]);
        batches(self.file.group(group).with_row_selection(selection))?
            .map(|batch| {
                let batch = batch?;
                let at = first_row;
                first_row += batch.num_rows() as u64;
                self.columns.select((&batch, at), rows, (self.unit, &self.output))
            })
            .collect()
    }
}
