//! The form of an export: its format, its compression and how times stand in it, by flags and by the name of the file.

use std::path::Path;

use qmtl_history_api::Error;

use super::readers::Expected;
use super::sink::Packing;
use crate::cli::{ExportArgs, ExportFormat};
use crate::outcome::Result;
use crate::table_writer::{TableForm, TextForm, TimeForm};

/// The form of an export.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) format: ExportFormat,
    pub(crate) packing: Packing,
    pub(crate) expected: Option<&'static Expected>,
    time: TimeForm,
}

/// Endings of a compressed file.
const PACKINGS: [(&str, Packing); 5] = [
    ("gz", Packing::Gzip),
    ("gzip", Packing::Gzip),
    ("zst", Packing::Zstd),
    ("zstd", Packing::Zstd),
    ("zip", Packing::Zip),
];
/// Endings of files that would be compressed as this program does not do it.
const FOREIGN: [&str; 5] = ["xz", "bz2", "lz4", "br", "7z"];

impl Form {
    /// The form that was asked for, or that the name of the file says; a folder says none.
    pub(crate) fn new(args: &ExportArgs, file: Option<&Path>) -> Result<Self> {
        let expected = args.reader.and_then(Expected::by);
        if let Some(Expected { name, columns: Some(_), .. }) = expected {
            let flag = if args.columns.is_some() {
                Some("--columns")
            } else {
                args.ts_format.map(|_| "--ts-format")
            };
            if let Some(flag) = flag {
                return Err(Error::invalid(format!("--for {name} decides that: leave out {flag}")).into());
            }
        }
        let (packing, extension) = file.map_or(Ok((Packing::Plain, String::new())), by_name)?;
        let named = match (args.format, file) {
            (None, Some(file)) => by_extension(&extension, file)?,
            (asked, _) => asked,
        };
        let default = expected.and_then(|expected| expected.formats.first()).copied();
        let format = named.or(default).unwrap_or(ExportFormat::Csv);
        let time = args.ts_format.map(TimeForm::from).or(expected.and_then(|expected| expected.time));
        let form = Self { format, packing, expected, time: time.unwrap_or(TimeForm::Iso) };
        form.check(file)?;
        Ok(form)
    }

    fn check(&self, file: Option<&Path>) -> Result<()> {
        let out = file.unwrap_or(Path::new("-")).display();
        if let Some(expected) = self.expected.filter(|expected| !expected.formats.contains(&self.format)) {
            let mut formats: Vec<_> = expected.formats.iter().map(|format| name(*format)).collect();
            let last = formats.pop().unwrap_or_default();
            let before =
                if formats.is_empty() { String::new() } else { format!("{} or ", formats.join(", ")) };
            let message = format!("{} reads {before}{last}, not {}", expected.name, name(self.format));
            return Err(Error::invalid(message).with("out", out).into());
        }
        let message = match self.packing {
            Packing::Plain => return Ok(()),
            _ if !self.is_text() => format!(
                "{} compresses by itself what it holds: name the file without the ending of a compressed one",
                name(self.format)
            ),
            Packing::Zip if self.expected.is_some_and(Expected::is_lean) => return Ok(()),
            Packing::Zip => "a zip is written for LEAN only (--for lean): use .gz or .zst".to_owned(),
            Packing::Gzip | Packing::Zstd => match self.expected {
                Some(expected) if !expected.reads_compressed => {
                    format!("{} reads no compressed file: leave out the .gz or .zst", expected.name)
                }
                _ => return Ok(()),
            },
        };
        Err(Error::invalid(message).with("out", out).into())
    }

    /// Whether it can be looked at.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self.format, ExportFormat::Csv | ExportFormat::Json | ExportFormat::Jsonl)
    }

    /// What an export of LEAN's shorter bars is, whose times are those of a day.
    pub(crate) fn of_day(self) -> Self {
        Self { time: TimeForm::OfDay, packing: Packing::Zip, ..self }
    }

    /// The form of the table in a file, or in a pipe, which cannot be given an Arrow file unless it is asked for.
    pub(crate) fn table(&self, is_pipe: bool) -> TableForm {
        let text = |own: fn(&Expected) -> TextForm, usual| {
            TableForm::Text(self.expected.map_or(usual, own), self.time)
        };
        match self.format {
            ExportFormat::Csv => text(|expected| expected.csv, TextForm::Csv),
            ExportFormat::Json => text(|expected| expected.json, TextForm::Json),
            ExportFormat::Jsonl => TableForm::Text(TextForm::JsonLines, self.time),
            ExportFormat::Parquet => TableForm::Parquet,
            ExportFormat::Arrow if is_pipe => TableForm::ArrowStream,
            ExportFormat::Arrow | ExportFormat::Feather => TableForm::ArrowFile,
        }
    }

    /// The extension of a file in this form.
    pub(crate) fn extension(&self) -> &'static str {
        name(self.format)
    }
}

fn name(format: ExportFormat) -> &'static str {
    match format {
        ExportFormat::Csv => "csv",
        ExportFormat::Parquet => "parquet",
        ExportFormat::Arrow => "arrow",
        ExportFormat::Feather => "feather",
        ExportFormat::Json => "json",
        ExportFormat::Jsonl => "jsonl",
    }
}

/// How a file of this name is compressed, and its extension without that.
fn by_name(file: &Path) -> Result<(Packing, String)> {
    let extension = |path: &Path| path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let last = extension(file);
    if FOREIGN.contains(&last.as_str()) {
        let error = Error::invalid("exports are compressed as .gz or .zst: use one of these endings");
        return Err(error.with("out", file.display()).into());
    }
    Ok(match PACKINGS.iter().find(|(ending, _)| *ending == last) {
        Some((_, packing)) => (*packing, extension(&file.with_extension(""))),
        None => (Packing::Plain, last),
    })
}

/// The format that an extension names; `None` where there is none.
fn by_extension(extension: &str, file: &Path) -> Result<Option<ExportFormat>> {
    Ok(Some(match extension {
        "" => return Ok(None),
        "csv" | "txt" => ExportFormat::Csv,
        "parquet" | "pq" => ExportFormat::Parquet,
        "arrow" | "ipc" => ExportFormat::Arrow,
        "feather" => ExportFormat::Feather,
        "json" => ExportFormat::Json,
        "jsonl" | "ndjson" => ExportFormat::Jsonl,
        _ => {
            let message =
                "the extension names no format: use --format csv, json, jsonl, parquet, arrow or feather";
            return Err(Error::invalid(message).with("out", file.display()).into());
        }
    }))
}
