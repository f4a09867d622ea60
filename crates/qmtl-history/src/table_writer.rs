//! Bars as CSV, Parquet or Arrow, batch by batch.

use std::fmt::Write as _;
use std::io::{self, Write};

use arrow_ipc::writer::{FileWriter, StreamWriter};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use qmtl_history_api::arrow_array::{Array, RecordBatch};
use qmtl_history_api::arrow_cast::display::{ArrayFormatter, FormatOptions};
use qmtl_history_api::arrow_schema::{ArrowError, DataType, SchemaRef};
use qmtl_history_api::{Error, Timestamp, frame};

use crate::cli::{ExportFormat, TsFormat};
use crate::outcome::{Failure, Result};

/// Rows in a row group of Parquet: the part of a file that is held in memory to write or read it.
const ROW_GROUP_ROWS: usize = 100_000;

/// Where the bytes go.
pub(crate) type Output = Box<dyn Write + Send>;

/// Writes batches of one schema.
pub(crate) enum TableWriter {
    /// Text: a header, then a line a row.
    Csv { out: Output, ts: TsFormat },
    /// Row groups as they fill.
    Parquet(Box<ArrowWriter<Output>>),
    /// With a footer: for a file.
    ArrowFile(Box<FileWriter<Output>>),
    /// Without one: for a pipe.
    ArrowStream(Box<StreamWriter<Output>>),
}

impl TableWriter {
    /// Starts a table of these columns on `out`; a pipe cannot be given an Arrow file.
    pub(crate) fn new(
        (format, ts): (ExportFormat, TsFormat),
        schema: &SchemaRef,
        out: Output,
        is_pipe: bool,
    ) -> Result<Self> {
        Ok(match format {
            ExportFormat::Csv => {
                let mut out = out;
                let names: Vec<_> = schema.fields().iter().map(|field| quoted(field.name())).collect();
                writeln!(out, "{}", names.join(",")).map_err(|e| Failure::output("the export", e))?;
                Self::Csv { out, ts }
            }
            ExportFormat::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                    .build();
                let writer = ArrowWriter::try_new(out, SchemaRef::clone(schema), Some(properties));
                Self::Parquet(Box::new(writer.map_err(parquet_failure)?))
            }
            ExportFormat::Arrow if is_pipe => {
                Self::ArrowStream(Box::new(StreamWriter::try_new(out, schema).map_err(arrow_failure)?))
            }
            ExportFormat::Arrow => {
                Self::ArrowFile(Box::new(FileWriter::try_new(out, schema).map_err(arrow_failure)?))
            }
        })
    }

    /// Adds rows.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Csv { out, ts } => {
                let text = csv_lines(batch, *ts)?;
                out.write_all(text.as_bytes()).map_err(|e| Failure::output("the export", e))
            }
            Self::Parquet(writer) => writer.write(batch).map_err(parquet_failure),
            Self::ArrowFile(writer) => writer.write(batch).map_err(arrow_failure),
            Self::ArrowStream(writer) => writer.write(batch).map_err(arrow_failure),
        }
    }

    /// Ends the table; without this a file of Parquet or Arrow cannot be read.
    pub(crate) fn finish(self) -> Result<()> {
        let flush = |mut out: Output| out.flush().map_err(|e| Failure::output("the export", e));
        match self {
            Self::Csv { out, .. } => flush(out),
            Self::Parquet(writer) => flush(writer.into_inner().map_err(parquet_failure)?),
            Self::ArrowFile(mut writer) => {
                writer.finish().map_err(arrow_failure)?;
                flush(writer.into_inner().map_err(arrow_failure)?)
            }
            Self::ArrowStream(mut writer) => {
                writer.finish().map_err(arrow_failure)?;
                flush(writer.into_inner().map_err(arrow_failure)?)
            }
        }
    }
}

fn parquet_failure(error: parquet::errors::ParquetError) -> Failure {
    match error {
        parquet::errors::ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(error) => Failure::output("the export", *error),
            Err(cause) => Error::unexpected("cannot write the export as Parquet").caused_by(cause).into(),
        },
        error => Error::unexpected("cannot write the export as Parquet").caused_by(error).into(),
    }
}

fn arrow_failure(error: ArrowError) -> Failure {
    match error {
        ArrowError::IoError(_, error) => Failure::output("the export", error),
        error => Error::unexpected("cannot write the export as Arrow").caused_by(error).into(),
    }
}

/// A line a row. A null is an empty cell, an empty text is quoted, a double is written in the
/// shortest form that reads back as the same bits.
fn csv_lines(batch: &RecordBatch, form: TsFormat) -> Result<String> {
    let fault =
        |e: ArrowError| Failure::from(Error::unexpected("cannot write the export as CSV").caused_by(e));
    let options = FormatOptions::default();
    let schema = batch.schema();
    let payload = batch.columns().iter().zip(schema.fields()).skip(1);
    let columns = payload
        .map(|(column, field)| {
            let is_text =
                matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
            let is_plain = field.data_type().is_primitive() || *field.data_type() == DataType::Boolean;
            let formatter = ArrayFormatter::try_new(column.as_ref(), &options).map_err(fault)?;
            Ok((column, formatter, is_plain && !is_text))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut text = String::with_capacity(batch.num_rows() * 64);
    for (row, micros) in frame::timestamps(batch)?.values().iter().enumerate() {
        let ts = Timestamp::from_micros(*micros)?;
        let _ = match form {
            TsFormat::Iso => write!(text, "{ts}"),
            TsFormat::S => write!(text, "{}", micros / 1_000_000),
            TsFormat::Ms => write!(text, "{}", micros / 1_000),
            TsFormat::Us => write!(text, "{micros}"),
        };
        for (column, formatter, is_plain) in &columns {
            text.push(',');
            if column.is_null(row) {
                continue;
            }
            if *is_plain {
                formatter.value(row).write(&mut text).map_err(fault)?;
            } else {
                text.push_str(&quoted(&formatter.value(row).try_to_string().map_err(fault)?));
            }
        }
        text.push('\n');
    }
    Ok(text)
}

/// A cell of text, in quotes where it needs them.
fn quoted(text: &str) -> String {
    if text.is_empty() || text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qmtl_history_api::arrow_array::{Float64Array, Int64Array, StringArray};

    use super::*;

    #[test]
    fn csv_keeps_every_bit_and_tells_null_from_empty() {
        let points = [60, 120, 180].map(|secs| Timestamp::from_secs(secs).unwrap());
        let doubles = [Some(5.33e-5), Some(-0.0), Some(f64::NAN)];
        let batch = RecordBatch::try_new(
            frame::schema_of([("x", DataType::Float64), ("n", DataType::Int64), ("s, t", DataType::Utf8)]),
            vec![
                Arc::new(frame::ts_array(points)),
                Arc::new(Float64Array::from(doubles.to_vec())),
                Arc::new(Int64Array::from(vec![Some(1), None, Some(-3)])),
                Arc::new(StringArray::from(vec![Some("a,\"b\""), Some(""), None])),
            ],
        )
        .unwrap();
        let text = csv_lines(&batch, TsFormat::Ms).unwrap();
        assert_eq!(text, "60000,0.0000533,1,\"a,\"\"b\"\"\"\n120000,-0.0,,\"\"\n180000,NaN,-3,\n");
        assert!(csv_lines(&batch, TsFormat::Iso).unwrap().starts_with("1970-01-01T00:01:00Z,"));
        assert_eq!(quoted("s, t"), "\"s, t\"");
    }
}
