//! The server's Parquet export over HTTP.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use qmtl_history_api::arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use qmtl_history_api::arrow_cast::cast;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{Error, ErrorKind, Result};

use crate::config::QuestDbConfig;
use crate::error;

/// The most bytes of one export: far above what a window of rows needs.
const LIMIT: usize = 1 << 30;
/// Rows of a batch.
const BATCH_ROWS: usize = 65_536;
/// What a Parquet file ends with; an error midway can only cut the file.
const MAGIC: &[u8] = b"PAR1";

/// Asks one server for exports.
#[derive(Clone)]
pub(crate) struct Export {
    client: Client<HttpConnector, Empty<Bytes>>,
    address: String,
    authorization: HeaderValue,
    deadline: Duration,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Export {
    pub(crate) fn new(config: &QuestDbConfig) -> Result<Self> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(config.connect_timeout));
        connector.set_nodelay(true);
        let credentials = STANDARD.encode(format!("{}:{}", config.user, config.password.0));
        let mut authorization = HeaderValue::from_str(&format!("Basic {credentials}"))
            .map_err(|_| Error::unexpected("credentials make no header"))?;
        authorization.set_sensitive(true);
        Ok(Self {
            // A connection that has exported counts against the server's limit until it is closed:
            // an idle one would keep others from exporting.
            client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector),
            address: format!("{}:{}", config.http_host, config.http_port),
            authorization,
            deadline: config.timeout,
        })
    }

    /// The rows of a query in batches of `schema`, whose columns come in the query's order.
    ///
    /// `Unavailable` when the server exports nothing for now (HTTP is closed, or others export
    /// already), which is when the same rows can be had over the wire.
    pub(crate) async fn rows(&self, sql: &str, schema: SchemaRef) -> Result<Vec<RecordBatch>> {
        let bytes = tokio::time::timeout(self.deadline, self.fetch(sql))
            .await
            .map_err(|_| self.fault("the export did not end in time"))??;
        if !bytes.ends_with(MAGIC) {
            return Err(self.fault("the export was cut off"));
        }
        tokio::task::spawn_blocking(move || decode(bytes, &schema))
            .await
            .map_err(|e| Error::unexpected("decoding an export failed").caused_by(e))?
    }

    async fn fetch(&self, sql: &str) -> Result<Bytes> {
        let query: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("query", sql)
            .append_pair("fmt", "parquet")
            .append_pair("compression_codec", "uncompressed")
            .finish();
        let uri = format!("http://{}/exp?{query}", self.address).parse::<Uri>();
        let uri = uri.map_err(|e| Error::unexpected("an export makes no URL").caused_by(e))?;
        let request = Request::get(uri).header(AUTHORIZATION, self.authorization.clone()).body(Empty::new());
        let request = request.map_err(|e| Error::unexpected("an export makes no request").caused_by(e))?;
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|e| self.fault("HTTP cannot be reached").caused_by(e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LIMIT).collect().await;
        let body = body.map_err(|e| self.fault("the export broke off").caused_by(e))?.to_bytes();
        match status {
            StatusCode::OK => Ok(body),
            StatusCode::TOO_MANY_REQUESTS => Err(self.fault("the server is exporting already")),
            _ => {
                let answer: String = String::from_utf8_lossy(&body).chars().take(300).collect();
                let kind = match error::classify(&answer).0 {
                    ErrorKind::Unexpected => ErrorKind::Unavailable,
                    kind => kind,
                };
                Err(Error::new(kind, "QuestDB refused an export")
                    .with("address", &self.address)
                    .with("status", status)
                    .with("answer", answer))
            }
        }
    }

    fn fault(&self, message: &str) -> Error {
        Error::unavailable(message).with("address", &self.address)
    }
}

fn decode(bytes: Bytes, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let corrupt = |e| Error::new(ErrorKind::Corrupt, "an export is no Parquet that can be read").caused_by(e);
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(corrupt)?;
    let reader = reader.with_batch_size(BATCH_ROWS).build().map_err(corrupt)?;
    reader
        .map(|batch| {
            let batch = batch.map_err(|e| corrupt(e.into()))?;
            let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
                if column.data_type() == field.data_type() {
                    Ok(ArrayRef::clone(column))
                } else {
                    cast(column, field.data_type())
                }
            });
            let columns = columns.collect::<Result<Vec<_>, _>>();
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            columns
                .and_then(|columns| {
                    RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options)
                })
                .map_err(|e| {
                    Error::unexpected("an export does not fit the columns of its table").caused_by(e)
                })
        })
        .collect()
}
