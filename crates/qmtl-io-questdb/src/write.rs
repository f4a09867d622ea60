//! Writing: check, compare the columns, keep what exists, send, wait until it is visible.

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::{
    Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use qmtl_history_api::arrow_array::{Array, BooleanArray, RecordBatch};
use qmtl_history_api::arrow_select::filter::filter_record_batch;
use qmtl_history_api::{
    Error, ErrorKind, OnConflict, RangeSet, Result, SeriesKey, TimeRange, Timestamp, WriteReceipt,
    WriteRequest, frame,
};
use tokio_postgres::types::{ToSql, Type};

use crate::naming::{self, quoted};
use crate::schema::{self, Column, INTERVAL, Kind, NODE_ID, Table, Time, schema_of};
use crate::store::Store;
use crate::transport::{Micros, Statement, ts_of};
use crate::values;

impl Store {
    pub(crate) async fn write(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        let key = &request.key;
        frame::check(key, &rows)?;
        if let Some(span) = span(&rows)? {
            self.capabilities().check_range(key, span)?;
        }
        let columns = values::columns(key, &rows)?;
        let (rows, lost) = values::storable(key, &rows, self.config.nan_as_null)?;
        if lost > 0 {
            tracing::warn!(series = %key, values = lost, "NaN and infinities are stored as null");
        }
        let _turn = self.turn(key).await;
        let receipt = match span(&rows)? {
            Some(span) => self.write_batch(request, rows, &columns, span).await?,
            None => WriteReceipt::default(),
        };
        if !request.empty.is_empty() {
            self.record(key, &request.empty).await?;
        }
        Ok(receipt)
    }

    async fn write_batch(
        &self,
        request: &WriteRequest,
        rows: RecordBatch,
        columns: &[Column],
        span: TimeRange,
    ) -> Result<WriteReceipt> {
        let key = &request.key;
        let name = naming::table(&self.config, &key.node_id);
        let table = self.table_for(&name, key, columns).await?;
        self.check_writable(&table, key, request.on_conflict)?;
        if table.time == Time::Designated {
            // What was acknowledged and is not visible yet exists too.
            self.transport.settle(&name).await?;
        }
        let existing = self.present_in(&table, key, span).await?;
        let (new, is_new) = new_rows(&rows, &existing)?;
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let (written, known) = (count(new), count(rows.num_rows() - new));
        let (rows, receipt) = match request.on_conflict {
            OnConflict::Replace => (rows, WriteReceipt::new(written, known, 0)),
            OnConflict::KeepExisting => {
                let receipt = WriteReceipt::new(written, 0, known);
                (if known == 0 { rows } else { filtered(&rows, &is_new)? }, receipt)
            }
        };
        if rows.num_rows() == 0 {
            return Ok(receipt);
        }
        match table.time {
            Time::Designated => {
                self.transport.send(&name, key, &rows).await?;
                self.transport.settle(&name).await?;
            }
            Time::Seconds => self.insert_legacy(&name, key, &rows).await?,
        }
        self.remember(key);
        Ok(receipt)
    }

    /// The table with all of the columns, made or widened where it may be.
    pub(crate) async fn table_for(&self, name: &str, key: &SeriesKey, columns: &[Column]) -> Result<Table> {
        let wire = &self.transport.wire;
        let table = match Table::load(wire, name).await? {
            Some(table) => table,
            None => {
                let sql = schema::create(name, key.interval, columns, !name.ends_with(naming::EVENTS));
                wire.run("make a table", name, &sql).await?;
                Table::load(wire, name).await?.ok_or_else(|| {
                    Error::unexpected("QuestDB said that it made a table and has none").with("table", name)
                })?
            }
        };
        let missing = compared(&table, key, columns)?;
        if missing.is_empty() {
            return Ok(table);
        }
        if !self.config.add_columns {
            return Err(Error::schema(
                "the table lacks a column; allow it to be added with add_columns=true",
            )
            .with("series", key)
            .with("table", name)
            .with("column", &missing[0].name));
        }
        for column in missing {
            wire.run("add a column", name, &schema::add_column(name, column)).await?;
        }
        self.transport.settle(name).await?;
        let table = Table::load(wire, name).await?;
        table.ok_or_else(|| {
            Error::new(ErrorKind::Conflict, "the table was dropped meanwhile").with("table", name)
        })
    }

    fn check_writable(&self, table: &Table, key: &SeriesKey, on_conflict: OnConflict) -> Result<()> {
        let fault = |message: &str| {
            Error::new(ErrorKind::Unsupported, message).with("series", key).with("table", &table.name)
        };
        match table.time {
            Time::Seconds if !self.config.allow_legacy => Err(fault(
                "the table tells time in seconds, as the Python original made it: it is written only with allow_legacy=true",
            )),
            Time::Seconds if key.interval.phase_secs() > 0 => {
                Err(fault("a table that tells time in seconds cannot hold an interval with a phase"))
            }
            Time::Seconds if on_conflict == OnConflict::Replace => {
                Err(fault("a table that tells time in seconds cannot replace rows"))
            }
            Time::Designated if !table.dedup => Err(fault("the table would hold repeated rows twice").with(
                "remedy",
                format_args!(
                    "ALTER TABLE {} DEDUP ENABLE UPSERT KEYS(ts, {NODE_ID}, {INTERVAL})",
                    quoted(&table.name)
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Rows into a table that tells time in seconds, which HTTP cannot write.
    async fn insert_legacy(&self, name: &str, key: &SeriesKey, rows: &RecordBatch) -> Result<()> {
        let payload = rows.schema();
        let payload: Vec<_> = payload.fields().iter().skip(1).collect();
        let names: String = payload.iter().map(|field| format!(", {}", quoted(field.name()))).collect();
        let places: String = (0..payload.len()).map(|index| format!(", ${}", index + 4)).collect();
        let sql = format!(
            "insert into {} (ts, {NODE_ID}, {INTERVAL}{names}) values ($1, $2, $3{places})",
            quoted(name)
        );
        let mut types = vec![Type::INT8, Type::VARCHAR, Type::INT8];
        let wire_type = |of| Kind::for_type(of).and_then(Kind::wire_type).unwrap_or(Type::VARCHAR);
        types.extend(payload.iter().map(|field| wire_type(field.data_type())));
        let statement = Statement { doing: "insert rows", table: name, sql: &sql, types: &types };
        let ts = ts_of(rows)?;
        let values = (0..rows.num_rows()).map(|row| {
            let mut values: Vec<Box<dyn ToSql + Sync + Send>> = vec![
                Box::new(ts[row].div_euclid(1_000_000)),
                Box::new(naming::stored(&key.node_id).into_owned()),
                Box::new(naming::interval_number(key.interval)),
            ];
            values.extend(rows.columns()[1..].iter().map(|column| sql_value(column.as_ref(), row)));
            values
        });
        self.transport.wire.insert(statement, values).await
    }
}

/// The columns that the table lacks; `Schema` where one has another type or another case.
fn compared<'a>(table: &Table, key: &SeriesKey, columns: &'a [Column]) -> Result<Vec<&'a Column>> {
    frame::check_types(key, &schema_of(columns), &schema_of(&table.columns))
        .map_err(|e| e.with("table", &table.name))?;
    let mut missing = Vec::new();
    for column in columns {
        match table.column(&column.name) {
            None => missing.push(column),
            Some(stored) if stored.name == column.name && stored.kind != Kind::Other => {}
            Some(stored) => {
                return Err(Error::schema("the table has another column of this name")
                    .with("series", key)
                    .with("table", &table.name)
                    .with("column", &column.name)
                    .with("stored", format_args!("{} {}", stored.name, stored.type_name)));
            }
        }
    }
    Ok(missing)
}

/// From the first row to just behind the last.
fn span(rows: &RecordBatch) -> Result<Option<TimeRange>> {
    let ts = ts_of(rows)?;
    let (Some(first), Some(last)) = (ts.first(), ts.last()) else { return Ok(None) };
    let first = Timestamp::from_micros(*first)?;
    Ok(Timestamp::from_micros(*last)?.checked_add_micros(1).and_then(|end| TimeRange::checked(first, end)))
}

/// How many rows stand where none is stored, and which.
fn new_rows(rows: &RecordBatch, existing: &RangeSet) -> Result<(usize, BooleanArray)> {
    let is_new = ts_of(rows)?
        .iter()
        .map(|micros| Ok(!existing.contains(Timestamp::from_micros(*micros)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok((is_new.iter().filter(|new| **new).count(), BooleanArray::from(is_new)))
}

fn filtered(rows: &RecordBatch, keep: &BooleanArray) -> Result<RecordBatch> {
    filter_record_batch(rows, keep).map_err(|e| Error::unexpected("cannot leave out rows").caused_by(e))
}

/// One value of a column that `Kind::for_type` knows.
fn sql_value(column: &dyn Array, row: usize) -> Box<dyn ToSql + Sync + Send> {
    let valid = column.is_valid(row);
    match Kind::for_type(column.data_type()) {
        Some(Kind::Double) => Box::new(valid.then(|| column.as_primitive::<Float64Type>().value(row))),
        Some(Kind::Float) => Box::new(valid.then(|| column.as_primitive::<Float32Type>().value(row))),
        Some(Kind::Long) => Box::new(valid.then(|| column.as_primitive::<Int64Type>().value(row))),
        Some(Kind::Int) => Box::new(valid.then(|| column.as_primitive::<Int32Type>().value(row))),
        Some(Kind::Boolean) => Box::new(valid.then(|| column.as_boolean().value(row))),
        Some(Kind::Timestamp) => {
            Box::new(valid.then(|| Micros(column.as_primitive::<TimestampMicrosecondType>().value(row))))
        }
        _ => Box::new(valid.then(|| column.as_string::<i32>().value(row).to_owned())),
    }
}
