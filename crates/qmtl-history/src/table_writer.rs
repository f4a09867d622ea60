//! Bars as text, Parquet or Arrow, batch by batch.

mod text;

use std::io::{self, Write};

use arrow_ipc::writer::{FileWriter, StreamWriter};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use qmtl_history_api::Error;
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::{ArrowError, SchemaRef};

use crate::export::Sink;
use crate::outcome::{Failure, Result};

pub(crate) use text::{TextForm, TimeForm};

/// Rows in a row group of Parquet: the part of a file that is held in memory to write or read it.
const ROW_GROUP_ROWS: usize = 100_000;

/// The form of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableForm {
    /// Lines of text, or JSON.
    Text(TextForm, TimeForm),
    Parquet,
    /// Arrow IPC with a footer: for a file.
    ArrowFile,
    /// Arrow IPC without one: for a pipe.
    ArrowStream,
}

/// Writes batches of one schema, whose first column is the time.
pub(crate) enum TableWriter {
    /// Line by line.
    Text {
        out: Sink,
        form: TextForm,
        time: TimeForm,
        /// Whether a row has been written, after which JSON has a comma.
        has_rows: bool,
    },
    /// Row groups as they fill.
    Parquet(Box<ArrowWriter<Sink>>),
    /// With a footer.
    ArrowFile(Box<FileWriter<Sink>>),
    /// Without one.
    ArrowStream(Box<StreamWriter<Sink>>),
}

impl TableWriter {
    /// Starts a table of these columns on `out`.
    pub(crate) fn new(form: TableForm, schema: &SchemaRef, out: Sink) -> Result<Self> {
        Ok(match form {
            TableForm::Text(form, time) => {
                let mut out = out;
                out.write_all(text::begin(form, schema).as_bytes()).map_err(not_written)?;
                Self::Text { out, form, time, has_rows: false }
            }
            TableForm::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                    .build();
                let writer = ArrowWriter::try_new(out, SchemaRef::clone(schema), Some(properties));
                Self::Parquet(Box::new(writer.map_err(parquet_failure)?))
            }
            TableForm::ArrowStream => {
                Self::ArrowStream(Box::new(StreamWriter::try_new(out, schema).map_err(arrow_failure)?))
            }
            TableForm::ArrowFile => {
                Self::ArrowFile(Box::new(FileWriter::try_new(out, schema).map_err(arrow_failure)?))
            }
        })
    }

    /// Adds rows.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Text { out, form, time, has_rows } => {
                let lines = text::rows(batch, (*form, *time), *has_rows)?;
                *has_rows |= batch.num_rows() > 0;
                out.write_all(&lines).map_err(not_written)
            }
            Self::Parquet(writer) => writer.write(batch).map_err(parquet_failure),
            Self::ArrowFile(writer) => writer.write(batch).map_err(arrow_failure),
            Self::ArrowStream(writer) => writer.write(batch).map_err(arrow_failure),
        }
    }

    /// Ends the table; without this a file cannot be read, or not be told from one that is whole.
    pub(crate) fn finish(self) -> Result<()> {
        let out = match self {
            Self::Text { mut out, form, has_rows, .. } => {
                out.write_all(text::end(form, has_rows).as_bytes()).map_err(not_written)?;
                out
            }
            Self::Parquet(writer) => writer.into_inner().map_err(parquet_failure)?,
            Self::ArrowFile(mut writer) => {
                writer.finish().map_err(arrow_failure)?;
                writer.into_inner().map_err(arrow_failure)?
            }
            Self::ArrowStream(mut writer) => {
                writer.finish().map_err(arrow_failure)?;
                writer.into_inner().map_err(arrow_failure)?
            }
        };
        out.finish().map_err(not_written)
    }
}

/// A batch, whose first column is the time, as text.
pub(crate) fn text_of(batch: &RecordBatch, form: TextForm, time: TimeForm) -> Result<String> {
    let rows = text::rows(batch, (form, time), false)?;
    let rows = String::from_utf8_lossy(&rows);
    Ok(format!("{}{rows}{}", text::begin(form, &batch.schema()), text::end(form, batch.num_rows() > 0)))
}

fn not_written(error: io::Error) -> Failure {
    Failure::output("the export", error)
}

fn parquet_failure(error: parquet::errors::ParquetError) -> Failure {
    match error {
        parquet::errors::ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(error) => not_written(*error),
            Err(cause) => Error::unexpected("cannot write the export as Parquet").caused_by(cause).into(),
        },
        error => Error::unexpected("cannot write the export as Parquet").caused_by(error).into(),
    }
}

fn arrow_failure(error: ArrowError) -> Failure {
    match error {
        ArrowError::IoError(_, error) => not_written(error),
        error => Error::unexpected("cannot write the export as Arrow").caused_by(error).into(),
    }
}
