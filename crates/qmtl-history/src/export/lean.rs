//! The files of LEAN: hours and days stand in one, shorter bars in a zip a day.

use std::path::{Path, PathBuf};

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::TimestampMicrosecondType;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{Error, Interval, Timestamp};
use tempfile::NamedTempFile;

use super::place::{beside, cannot_write};
use super::{Form, Sink};
use crate::outcome::Result;
use crate::table_writer::TableWriter;

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// How LEAN calls bars of an interval; an error for those that it does not have.
pub(crate) fn resolution(interval: Interval) -> Result<&'static str> {
    match (interval.as_secs(), interval.phase_secs()) {
        (1, 0) => Ok("second"),
        (60, 0) => Ok("minute"),
        (3_600, 0) => Ok("hour"),
        (86_400, 0) => Ok("daily"),
        _ => {
            let message = "LEAN has bars of 1s, 1m, 1h and 1d, and makes all others of them by itself";
            Err(Error::invalid(message).with("interval", interval).into())
        }
    }
}

/// Whether bars of an interval stand in a file a day.
pub(crate) fn has_days(interval: Interval) -> bool {
    interval.as_secs() < 3_600
}

/// The name of the file in a zip of hours or days: `btcusdt.csv` in `btcusdt_trade.zip`.
pub(crate) fn entry(zip: &Path) -> String {
    let name = zip.file_stem().unwrap_or_default().to_string_lossy();
    format!("{}.csv", name.strip_suffix("_trade").unwrap_or(&name))
}

/// A folder of a zip a day, each of which appears whole or not at all.
pub(crate) struct Days {
    folder: PathBuf,
    /// The folder's name, which is that of the symbol.
    symbol: String,
    resolution: &'static str,
    form: Form,
    schema: SchemaRef,
    day: Option<(i64, NamedTempFile, TableWriter)>,
}

impl Days {
    /// Into a folder, which is made where it is not there.
    pub(crate) fn new(folder: &Path, interval: Interval, form: &Form, schema: &SchemaRef) -> Result<Self> {
        let name = std::path::absolute(folder).ok();
        let name = name.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        Ok(Self {
            folder: folder.to_owned(),
            symbol: name.to_lowercase(),
            resolution: resolution(interval)?,
            form: form.of_day(),
            schema: SchemaRef::clone(schema),
            day: None,
        })
    }

    /// Adds rows, which go on in time.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let times = batch.columns().first().and_then(|ts| ts.as_primitive_opt::<TimestampMicrosecondType>());
        let times =
            times.ok_or_else(|| Error::unexpected("the first column of an export is no time"))?.values();
        let mut first = 0;
        while let Some(ts) = times.get(first) {
            let day = ts.div_euclid(DAY);
            let rows = times[first..].partition_point(|ts| ts.div_euclid(DAY) <= day);
            if self.day.as_ref().is_none_or(|(open, ..)| *open != day) {
                self.begin(day)?;
            }
            if let Some((_, _, table)) = &mut self.day {
                table.write(&batch.slice(first, rows))?;
            }
            first += rows;
        }
        Ok(())
    }

    fn begin(&mut self, day: i64) -> Result<()> {
        self.end()?;
        let name = self.date(day)?;
        let entry = format!("{name}_{}_{}_trade.csv", self.symbol, self.resolution);
        let file = beside(&self.path(&name)).map_err(|e| cannot_write(&self.folder, e))?;
        let out = file
            .reopen()
            .and_then(|out| Sink::zip(out, &entry))
            .map_err(|e| cannot_write(&self.folder, e))?;
        self.day = Some((day, file, TableWriter::new(self.form.table(false), &self.schema, out)?));
        Ok(())
    }

    /// Ends the last day.
    pub(crate) fn end(&mut self) -> Result<()> {
        if let Some((day, file, table)) = self.day.take() {
            table.finish()?;
            let path = self.path(&self.date(day)?);
            file.persist(&path).map_err(|e| cannot_write(&path, e.error))?;
        }
        Ok(())
    }

    fn path(&self, date: &str) -> PathBuf {
        self.folder.join(format!("{date}_trade.zip"))
    }

    fn date(&self, day: i64) -> Result<String> {
        let (year, month, day) = Timestamp::from_micros(day * DAY)?.date();
        Ok(format!("{year:04}{month:02}{day:02}"))
    }
}
