//! The columns of an export: which of the series', under which names, in which order and types.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use qmtl_history_api::arrow_array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use qmtl_history_api::arrow_cast::cast;
use qmtl_history_api::arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use qmtl_history_api::{Error, SeriesKey, frame};

use super::form::Form;
use super::readers::{Column, Expected, From};
use crate::cli::ExportArgs;
use crate::outcome::{Failure, Result};
use crate::text;

/// The column that marks bars that were made up.
pub(crate) const FILLED: &str = "filled";

/// What is read, and what becomes of it.
#[derive(Debug)]
pub(crate) struct Layout {
    /// What is read: the time, and the columns that are needed.
    pub(crate) read: SchemaRef,
    /// What is written.
    pub(crate) schema: SchemaRef,
    columns: Vec<Source>,
}

/// Where a column is taken from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The column of this name in the rows.
    Rows(usize),
    /// 0 everywhere.
    Zero,
}

/// A column on its way out.
#[derive(Clone, Debug)]
struct Given {
    /// Its stored name; none is that of the mark of bars that were made up.
    stored: Option<String>,
    name: String,
    field: Field,
}

impl Layout {
    /// Of a series with these columns.
    pub(crate) fn new(key: &SeriesKey, stored: &SchemaRef, args: &ExportArgs, form: &Form) -> Result<Self> {
        let expected = form.expected;
        // A series that has no rows yet has no columns: its file is empty, with those that are expected of it.
        let assumed = (!has_columns(stored)).then(|| expected.and_then(Expected::empty)).flatten();
        let given = given(key, assumed.as_ref().unwrap_or(stored), args)?;
        // In text, times have a form and no unit.
        let time = expected
            .filter(|_| !form.is_text())
            .and_then(|expected| expected.unit)
            .map(|unit| (unit, Arc::from("UTC")));
        let mut columns = match expected.and_then(|expected| Some((expected, expected.columns?))) {
            Some((expected, columns)) => {
                columns.iter().map(|column| found(*column, &given, expected)).collect::<Result<Vec<_>>>()?
            }
            None => given.iter().map(|given| (given.name.clone(), Some(given.clone()))).collect(),
        };
        distinct(&columns)?;
        if let (Some((unit, zone)), Some((_, Some(first)))) = (time, columns.first_mut()) {
            first.field = first.field.clone().with_data_type(DataType::Timestamp(unit, Some(zone)));
        }
        let read = Arc::new(needed(stored, args, &columns)?);
        let sources = columns.iter().map(|(_, given)| match given {
            // The mark stands behind what is read.
            Some(given) => {
                let at = given.stored.as_deref().and_then(|name| read.index_of(name).ok());
                Source::Rows(at.unwrap_or(read.fields().len()))
            }
            None => Source::Zero,
        });
        let sources = sources.collect();
        let fields = columns.into_iter().map(|(name, given)| match given {
            Some(given) => given.field.with_name(name),
            None => Field::new(name, DataType::Int64, false),
        });
        let schema = Schema::new(fields.collect::<Vec<_>>());
        let has_index = expected.is_some_and(|expected| expected.has_index);
        let schema = if has_index { with_index(schema) } else { schema };
        Ok(Self { read, schema: Arc::new(schema), columns: sources })
    }

    /// Rows as they are written.
    pub(crate) fn apply(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let fault = |e| Error::unexpected("the columns of the export were not made").caused_by(e);
        let columns = self.columns.iter().zip(self.schema.fields()).map(|(source, field)| match source {
            Source::Zero => Ok(Arc::new(Int64Array::from(vec![0; rows.num_rows()])) as ArrayRef),
            Source::Rows(index) => match rows.columns().get(*index) {
                Some(column) if column.data_type() == field.data_type() => Ok(ArrayRef::clone(column)),
                Some(column) => cast(column, field.data_type()).map_err(fault),
                None => Err(Error::unexpected("the rows lack a column of the export")),
            },
        });
        let columns = columns.collect::<Result<Vec<_>, Error>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(fault)?)
    }
}

/// Whether a series has columns besides the time.
pub(crate) fn has_columns(stored: &SchemaRef) -> bool {
    stored.fields().len() > 1
}

/// The columns that the flags choose, under the names that they get.
fn given(key: &SeriesKey, stored: &SchemaRef, args: &ExportArgs) -> Result<Vec<Given>> {
    let is_mark = |name: &String| args.fill.is_some() && name == FILLED && stored.index_of(FILLED).is_err();
    let wanted = args
        .columns
        .as_ref()
        .map(|names| -> Vec<_> { names.iter().filter(|name| !is_mark(name)).cloned().collect() });
    let chosen = frame::project(key, stored, wanted.as_deref())?;
    let of = |field: &Field, stored: Option<&str>| Given {
        stored: stored.map(str::to_owned),
        name: field.name().clone(),
        field: field.clone(),
    };
    let mut given: Vec<_> = chosen.fields().iter().map(|field| of(field, Some(field.name()))).collect();
    if args.fill.is_some() {
        given.push(of(&Field::new(FILLED, DataType::Boolean, false), None));
    }
    let known = |given: &[Given]| given.iter().map(|given| given.name.clone()).collect::<Vec<_>>().join(", ");
    let before = given.clone();
    let mut renamed = BTreeSet::new();
    for (old, new) in &args.rename {
        let Some(at) = before.iter().position(|given| given.name == *old) else {
            let swapped = before.iter().any(|given| given.name == *new);
            let error = Error::invalid("--rename names a column that the export does not have")
                .with("series", key)
                .with("column", old)
                .with("columns", known(&before));
            let failure = Failure::from(error);
            return Err(if swapped {
                failure.hint(format!(
                    "the stored name comes first: {}",
                    text::option("--rename", &format!("{new}={old}"))
                ))
            } else {
                failure
            });
        };
        if !renamed.insert(old) {
            return Err(Error::invalid("--rename gives a column two names").with("column", old).into());
        }
        given[at].name.clone_from(new);
    }
    Ok(given)
}

/// The column of the series that a program's column is filled from.
fn found(column: Column, given: &[Given], expected: &Expected) -> Result<(String, Option<Given>)> {
    let name = column.name.to_owned();
    let own = match column.from {
        From::Zero => return Ok((name, None)),
        From::Time => given.first(),
        From::Series(own) => given
            .iter()
            .skip(1)
            .find(|given| given.name == own)
            .or_else(|| given.iter().skip(1).find(|given| given.name.eq_ignore_ascii_case(own))),
    };
    let known = || given.iter().map(|given| given.name.clone()).collect::<Vec<_>>().join(", ");
    let Some(mut own) = own.cloned() else {
        let From::Series(needed) = column.from else {
            return Err(Error::unexpected("a series has no time").into());
        };
        let error = Error::invalid(format!("{} needs a column that the series does not have", expected.name))
            .with("column", needed)
            .with("columns", known());
        return Err(Failure::from(error).hint(format!("if another column holds it: --rename OLD={needed}")));
    };
    if column.from != From::Time {
        if !own.field.data_type().is_numeric() {
            let error = Error::invalid(format!("{} needs numbers in this column", expected.name));
            return Err(error.with("column", &own.name).with("type", own.field.data_type()).into());
        }
        if let Some(numbers) = &expected.numbers {
            own.field = own.field.with_data_type(numbers.clone());
        }
    }
    Ok((name, Some(own)))
}

/// Refuses two columns of one name.
fn distinct(columns: &[(String, Option<Given>)]) -> Result<()> {
    let mut owners: HashMap<&str, &str> = HashMap::new();
    for (name, given) in columns {
        let stored = given.as_ref().and_then(|given| given.stored.as_deref()).unwrap_or("the mark of --fill");
        if let Some(first) = owners.insert(name, stored) {
            let error = Error::invalid(
                "two columns of the export would have one name; give one of them another with --rename",
            )
            .with("name", name)
            .with("columns", format_args!("{first}, {stored}"));
            return Err(error.into());
        }
    }
    Ok(())
}

/// What is read for these columns: they themselves and, where bars are made up, the close that those are made from.
fn needed(stored: &SchemaRef, args: &ExportArgs, columns: &[(String, Option<Given>)]) -> Result<Schema> {
    let mut names: Vec<&str> =
        columns.iter().filter_map(|(_, given)| given.as_ref()?.stored.as_deref()).collect();
    names.retain(|name| *name != frame::TS);
    if args.fill.is_some() {
        let close = if has_columns(stored) { Some(close(stored, args)?) } else { None };
        names.extend(close.filter(|close| !names.contains(close)));
    }
    let fields = names.iter().filter_map(|name| stored.field_with_name(name).ok());
    Ok(Schema::new(std::iter::once(frame::ts_field()).chain(fields.cloned()).collect::<Vec<_>>()))
}

/// The stored name of the column that holds closing prices.
fn close<'a>(stored: &'a SchemaRef, args: &ExportArgs) -> Result<&'a str> {
    let field = stored.fields().iter().find(|field| role(field.name(), args).eq_ignore_ascii_case("close"));
    match field {
        Some(field) if field.data_type().is_numeric() => Ok(field.name()),
        _ => {
            let known: Vec<_> = stored.fields().iter().map(|field| field.name().as_str()).collect();
            let error = Error::invalid(
                "--fill needs closing prices, and the series has no numbers in a column close",
            );
            Err(Failure::from(error.with("columns", known.join(", ")))
                .hint("if another column holds them: --rename OLD=close"))
        }
    }
}

/// What a stored column is by its name, or by the one that it gets where its own says nothing.
pub(crate) fn role<'a>(stored: &'a str, args: &'a ExportArgs) -> &'a str {
    const KNOWN: [&str; 5] = ["open", "high", "low", "close", "volume"];
    let is_known = |name: &str| KNOWN.iter().any(|known| name.eq_ignore_ascii_case(known));
    let renamed = args.rename.iter().find(|(old, new)| old == stored && is_known(new));
    match renamed {
        Some((_, new)) if !is_known(stored) => new,
        _ => stored,
    }
}

/// The note by which pandas, reading Parquet or Feather, takes the time as the index.
fn with_index(schema: Schema) -> Schema {
    let Some(time) = schema.fields().first() else { return schema };
    let unit = match time.data_type() {
        DataType::Timestamp(TimeUnit::Millisecond, _) => "ms",
        _ => "us",
    };
    let note = serde_json::json!({
        "index_columns": [time.name()],
        "column_indexes": [],
        "columns": [{
            "name": time.name(),
            "field_name": time.name(),
            "pandas_type": "datetimetz",
            "numpy_type": format!("datetime64[{unit}]"),
            "metadata": {"timezone": "UTC"},
        }],
        "pandas_version": "2.0.0",
    });
    schema.with_metadata(HashMap::from([("pandas".to_owned(), note.to_string())]))
}
