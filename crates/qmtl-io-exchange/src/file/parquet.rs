//! Parquet files: a block is a slice of a row group.

use std::sync::Arc;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
    RowSelection, RowSelector,
};
use parquet::file::metadata::PageIndexPolicy;
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{Error, Result};

use super::bytes::FileBytes;
use super::config::FileConfig;
use super::frame::Columns;
use super::index::IndexBuilder;
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
}

/// A scanned Parquet file.
#[derive(Debug)]
struct ParquetTable {
    bytes: FileBytes,
    metadata: ArrowReaderMetadata,
    columns: Columns,
    extents: Vec<Extent>,
    unit: TsUnit,
    output: SchemaRef,
}

/// Reads the footer and the time column.
pub(super) fn open(bytes: &FileBytes, config: &FileConfig) -> Result<Opened> {
    let damaged = |e| {
        bytes.corrupt("cannot read the footer of the Parquet file: it is damaged or cut off").caused_by(e)
    };
    // The offset index lets a window inside a large row group skip to its pages.
    let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
    let metadata = ArrowReaderMetadata::load(bytes, options).map_err(damaged)?;
    let columns = Columns::new(bytes, config, metadata.schema())?;
    let mut builder = IndexBuilder::default();
    let mut extents = Vec::new();
    let mut first_row = 0;
    for group in 0..metadata.metadata().num_row_groups() {
        let mask = ProjectionMask::roots(metadata.parquet_schema(), columns.scanned());
        let mut skip = 0;
        for batch in reader(bytes, &metadata, group)?
            .with_projection(mask)
            .build()
            .map_err(|e| unreadable(bytes, e))?
        {
            let batch = batch.map_err(|e| unreadable(bytes, e))?;
            columns.index(&mut builder, &batch, first_row).map_err(|e| e.with("file", bytes.shown()))?;
            let rows = batch.num_rows();
            if builder.end_block() {
                extents.push(Extent { group, skip, rows });
            }
            skip += rows;
            first_row += rows as u64;
        }
    }
    let index = builder.finish();
    let unit = columns.unit(config, &index).map_err(|e| e.with("file", bytes.shown()))?;
    let output = columns.output(unit);
    let table = ParquetTable { bytes: bytes.clone(), metadata, columns, extents, unit, output };
    Ok(Opened { table: Arc::new(table), index, unit })
}

fn reader(
    bytes: &FileBytes,
    metadata: &ArrowReaderMetadata,
    group: usize,
) -> Result<ParquetRecordBatchReaderBuilder<FileBytes>> {
    Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), metadata.clone())
        .with_row_groups(vec![group])
        .with_batch_size(BLOCK_ROWS))
}

fn unreadable(bytes: &FileBytes, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    bytes
        .corrupt("cannot read the rows of the Parquet file: it is damaged or compressed in an unknown way")
        .caused_by(cause)
}

impl Table for ParquetTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn read(&self, block: usize, rows: &Selection) -> Result<Vec<RecordBatch>> {
        let Extent { group, skip, rows: count } = self.extents[block];
        let selection = RowSelection::from(vec![RowSelector::skip(skip), RowSelector::select(count)]);
        let reader: ParquetRecordBatchReader = reader(&self.bytes, &self.metadata, group)?
            .with_row_selection(selection)
            .build()
            .map_err(|e| unreadable(&self.bytes, e))?;
        reader
            .map(|batch| {
                let batch = batch.map_err(|e| unreadable(&self.bytes, e))?;
                self.columns
                    .select(&batch, rows, (self.unit, &self.output))
                    .map_err(|e| e.with("file", self.bytes.shown()))
            })
            .collect()
    }
}
