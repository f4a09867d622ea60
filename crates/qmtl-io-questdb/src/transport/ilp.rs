//! The line protocol over HTTP: rows into one table, all of a request or none.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::{
    Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use qmtl_history_api::arrow_array::{
    Array, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use qmtl_history_api::{Error, Result, SeriesKey, frame};
use questdb::ingress::{Buffer, ColumnName, Protocol, Sender, SenderBuilder, TableName, TimestampMicros};

use crate::config::QuestDbConfig;
use crate::error::{self, On};
use crate::naming::{interval_number, stored};
use crate::schema::{INTERVAL, Kind, NODE_ID};

/// The most rows of one request, which is one commit of the server.
const REQUEST_ROWS: usize = 50_000;
/// The most bytes of one request's columns, which are some fewer than its text.
const REQUEST_BYTES: usize = 8 << 20;
/// Requests of one write that are under way at once: encoding one overlaps with sending another.
const AT_ONCE: usize = 2;

/// Connections to the line protocol of one server.
#[derive(Clone)]
pub(crate) struct Ilp {
    builder: Arc<SenderBuilder>,
    idle: Arc<Mutex<Vec<Sender>>>,
    address: String,
}

impl fmt::Debug for Ilp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ilp").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Ilp {
    pub(crate) fn new(config: &QuestDbConfig) -> Result<Self> {
        let address = format!("{}:{}", config.http_host, config.http_port);
        let builder = SenderBuilder::new(Protocol::Http, config.http_host.as_str(), config.http_port)
            .username(&config.user)
            .and_then(|builder| builder.password(&config.password.0))
            // Whoever calls knows whether a repeated request does harm.
            .and_then(|builder| builder.retry_timeout(Duration::ZERO))
            .and_then(|builder| builder.request_timeout(config.timeout))
            .map_err(|e| error::ingress(&e, &address, On("")))?;
        Ok(Self { builder: Arc::new(builder), idle: Arc::default(), address })
    }

    /// Sends the rows of a batch of a series; when it returns they are acknowledged, not visible.
    /// Rows go in requests of [`REQUEST_ROWS`] each; a failure leaves earlier ones stored.
    pub(crate) async fn send(&self, table: &str, key: &SeriesKey, rows: &RecordBatch) -> Result<()> {
        let size = rows.get_array_memory_size() / rows.num_rows().max(1);
        let step = (REQUEST_BYTES / size.max(1)).clamp(1, REQUEST_ROWS);
        let parts = (0..rows.num_rows()).step_by(step);
        let parts = parts.map(|at| rows.slice(at, step.min(rows.num_rows() - at)));
        stream::iter(parts)
            .map(|part| {
                let (ilp, table, key) = (self.clone(), table.to_owned(), key.clone());
                async move {
                    tokio::task::spawn_blocking(move || ilp.request(&table, &key, &part))
                        .await
                        .map_err(|e| Error::unexpected("writing rows failed").caused_by(e))?
                }
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    fn request(&self, table: &str, key: &SeriesKey, rows: &RecordBatch) -> Result<()> {
        let fail = |e: questdb::Error| error::ingress(&e, &self.address, On(table));
        let pooled = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut sender = match pooled {
            Some(sender) => sender,
            None => self.builder.build().map_err(fail)?,
        };
        let mut buffer = sender.new_buffer();
        encode(&mut buffer, table, key, rows).map_err(fail)?;
        // A sender whose request failed is not used again.
        sender.flush(&mut buffer).map_err(fail)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Ok(())
    }
}

/// The values of a column.
enum Values<'a> {
    F64(&'a Float64Array),
    F32(&'a Float32Array),
    I64(&'a Int64Array),
    I32(&'a Int32Array),
    Bool(&'a BooleanArray),
    Text(&'a StringArray),
    Micros(&'a TimestampMicrosecondArray),
}

impl<'a> Values<'a> {
    fn of(column: &'a dyn Array) -> Option<Self> {
        Some(match Kind::for_type(column.data_type())? {
            Kind::Double => Self::F64(column.as_primitive::<Float64Type>()),
            Kind::Float => Self::F32(column.as_primitive::<Float32Type>()),
            Kind::Long => Self::I64(column.as_primitive::<Int64Type>()),
            Kind::Int => Self::I32(column.as_primitive::<Int32Type>()),
            Kind::Boolean => Self::Bool(column.as_boolean()),
            Kind::Varchar => Self::Text(column.as_string()),
            Kind::Timestamp => Self::Micros(column.as_primitive::<TimestampMicrosecondType>()),
            _ => return None,
        })
    }

    fn put(&self, buffer: &mut Buffer, name: ColumnName<'_>, row: usize) -> questdb::Result<()> {
        match self {
            Self::F64(values) => buffer.column_f64(name, values.value(row))?,
            Self::F32(values) => buffer.column_f64(name, f64::from(values.value(row)))?,
            Self::I64(values) => buffer.column_i64(name, values.value(row))?,
            Self::I32(values) => buffer.column_i64(name, i64::from(values.value(row)))?,
            Self::Bool(values) => buffer.column_bool(name, values.value(row))?,
            Self::Text(values) => buffer.column_str(name, values.value(row))?,
            Self::Micros(values) => buffer.column_ts(name, TimestampMicros::new(values.value(row)))?,
        };
        Ok(())
    }
}

fn encode(buffer: &mut Buffer, table: &str, key: &SeriesKey, rows: &RecordBatch) -> questdb::Result<()> {
    let table = TableName::new(table)?;
    let (node, interval) = (ColumnName::new(NODE_ID)?, ColumnName::new(INTERVAL)?);
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns()).filter(|(field, _)| field.name() != frame::TS);
    let columns = columns.filter_map(|(field, column)| Some((field.name(), column, Values::of(column)?)));
    let columns = columns
        .map(|(name, column, values)| Ok((ColumnName::new(name)?, column, values)))
        .collect::<questdb::Result<Vec<_>>>()?;
    let node_id = stored(&key.node_id);
    let ts = rows.column(0).as_primitive::<TimestampMicrosecondType>();
    for (row, micros) in ts.values().iter().copied().enumerate() {
        buffer.table(table)?.symbol(node, &*node_id)?.column_i64(interval, interval_number(key.interval))?;
        for (name, column, values) in &columns {
            if column.is_valid(row) {
                values.put(buffer, *name, row)?;
            }
        }
        buffer.at(TimestampMicros::new(micros))?;
    }
    Ok(())
}
