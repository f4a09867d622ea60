//! Each check of `verify` finds what it is for, and nothing in a sound series.

use std::sync::Arc;

use qmtl_history_api::arrow_array::{ArrayRef, Int64Array};
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, EmptyProof, Interval, SourceId, WriteReceipt, WriteRequest,
    async_trait,
};

use super::*;

/// A store that shows these batches and claims this coverage, whatever they are.
#[derive(Debug)]
struct Shows(Vec<Result<RecordBatch>>, Coverage);

#[async_trait]
impl HistoryBackend for Shows {
    async fn read_range(&self, _: &ReadRequest) -> Result<BatchStream> {
        let schema = self
            .0
            .iter()
            .find_map(|batch| batch.as_ref().ok())
            .map_or_else(frame::ts_only_schema, RecordBatch::schema);
        Ok(BatchStream::new(schema, Box::pin(futures::stream::iter(self.0.clone()))))
    }

    async fn schema(&self, _: &SeriesKey) -> Result<SchemaRef> {
        Err(Error::unexpected("a check reads all columns"))
    }

    async fn write_rows(&self, _: &WriteRequest, _: RecordBatch) -> Result<WriteReceipt> {
        Err(Error::unexpected("a check never writes"))
    }

    async fn coverage(&self, _: &SeriesKey, _: TimeRange) -> Result<Coverage> {
        Ok(self.1.clone())
    }

    async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>> {
        Err(Error::unexpected("a check knows its series"))
    }

    async fn revision(&self, _: &SeriesKey) -> Result<Option<u64>> {
        Ok(Some(1))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("shows", |_| true)
    }
}

fn key() -> SeriesKey {
    SeriesKey::new("BTC", Interval::MINUTE).unwrap()
}

fn at_minute(minute: i64) -> Timestamp {
    Timestamp::from_secs(minute * 60).unwrap()
}

fn minutes(start: i64, end: i64) -> RangeSet {
    TimeRange::new(at_minute(start), at_minute(end)).unwrap().into()
}

/// An hour after the epoch.
fn terms(keep: usize) -> Terms<'static> {
    Terms { range: TimeRange::ALL, keep, now: at_minute(60), store: "--store ./history" }
}

type Candle = [Option<f64>; 4];
const SOUND: Candle = [Some(2.0), Some(3.0), Some(1.0), Some(2.5)];

fn candles(points: &[i64], rows: &[Candle]) -> RecordBatch {
    let points: Vec<_> = points.iter().map(|secs| Timestamp::from_secs(*secs).unwrap()).collect();
    let names = ["Open", "high", "low", "close"];
    let mut columns: Vec<ArrayRef> = vec![Arc::new(frame::ts_array(points))];
    columns.extend(
        (0..4).map(|index| Arc::new(rows.iter().map(|row| row[index]).collect::<Float64Array>()) as ArrayRef),
    );
    RecordBatch::try_new(frame::schema_of(names.map(|name| (name, DataType::Float64))), columns).unwrap()
}

async fn check(batches: Vec<Result<RecordBatch>>, coverage: Coverage) -> Verdict {
    verify(&Shows(batches, coverage), &key(), terms(50)).await
}

/// The findings as `check ts column value`, `-` for what a finding has not.
fn told(verdict: &Verdict) -> Vec<String> {
    assert_eq!(verdict.found, verdict.findings.len() as u64);
    let finding = |finding: &Finding| {
        let ts = finding.ts.map_or_else(|| "-".into(), |ts| ts.as_secs().to_string());
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        format!("{} {ts} {} {}", finding.check, or_dash(&finding.column), or_dash(&finding.value))
    };
    verdict.findings.iter().map(finding).collect()
}

#[tokio::test]
async fn a_sound_series_has_no_finding() {
    let batches = vec![Ok(candles(&[60, 120], &[SOUND; 2])), Ok(candles(&[240], &[[None; 4]]))];
    let mut coverage = Coverage::of_present(minutes(1, 3).union(&minutes(4, 5)));
    let proof = EmptyProof::new(SourceId::new("x").unwrap(), minutes(3, 4), "none", at_minute(59));
    coverage.add_empty(&proof);
    let verdict = check(batches, coverage).await;
    assert_eq!((verdict.rows, told(&verdict)), (3, vec![]));
}

#[tokio::test]
async fn rows_out_of_order_twice_or_off_the_grid_are_found_across_batches() {
    let batches = vec![Ok(candles(&[60, 120], &[SOUND; 2])), Ok(candles(&[120, 60, 150], &[SOUND; 3]))];
    let verdict = check(batches, Coverage::of_present(minutes(1, 3))).await;
    assert_eq!(
        told(&verdict),
        [
            "order 60 ts 1970-01-01T00:01:00Z",
            "duplicate 120 ts 1970-01-01T00:02:00Z",
            "grid 150 ts 1970-01-01T00:02:30Z"
        ]
    );
}

#[tokio::test]
async fn impossible_candles_are_found_with_column_and_value() {
    let rows = [
        [Some(2.0), Some(1.0), Some(3.0), Some(2.0)],
        [Some(0.5), Some(3.0), Some(1.0), Some(3.5)],
        [Some(2.0), Some(f64::NAN), Some(1.0), Some(f64::INFINITY)],
        SOUND,
    ];
    let batch = candles(&[60, 120, 180, 240], &rows);
    let verdict = check(vec![Ok(batch)], Coverage::of_present(minutes(1, 5))).await;
    assert_eq!(
        told(&verdict),
        [
            "high_low 60 high 1",
            "open_close 120 open 0.5",
            "open_close 120 close 3.5",
            "nan 180 high NaN",
            "infinite 180 close inf",
        ]
    );
    assert_eq!(verdict.findings[0].message, "high is below low, which is 3");
}

#[tokio::test]
async fn prices_in_whole_numbers_are_checked_too() {
    let column = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
    let columns = vec![Arc::new(frame::ts_array([at_minute(1)])) as ArrayRef, column(1), column(2)];
    let schema = frame::schema_of([("high", DataType::Int64), ("low", DataType::Int64)]);
    let batch = RecordBatch::try_new(schema, columns).unwrap();
    let verdict = check(vec![Ok(batch)], Coverage::of_present(minutes(1, 2))).await;
    assert_eq!(told(&verdict), ["high_low 60 high 1"]);
}

#[tokio::test]
async fn coverage_that_differs_from_the_rows_is_found_both_ways() {
    let batch = candles(&[60, 120, 300], &[SOUND; 3]);
    let verdict = check(vec![Ok(batch)], Coverage::of_present(minutes(1, 5))).await;
    assert_eq!(
        told(&verdict),
        [
            "coverage 180 - 1970-01-01T00:03:00Z..=1970-01-01T00:04:00Z",
            "coverage 300 - 1970-01-01T00:05:00Z..=1970-01-01T00:05:00Z"
        ]
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_a_finding_and_coverage_is_not_blamed() {
    let broken =
        Error::new(qmtl_history_api::ErrorKind::Corrupt, "the file is damaged").with("file", "x.parquet");
    let batches = vec![Ok(candles(&[60], &[SOUND])), Err(broken)];
    let verdict = check(batches, Coverage::of_present(minutes(1, 9))).await;
    assert_eq!((verdict.rows, told(&verdict)), (1, vec!["read - - -".into()]));
    assert_eq!(verdict.findings[0].message, "the file is damaged (file: x.parquet)");
}

#[tokio::test]
async fn all_findings_are_counted_and_the_first_ones_kept() {
    let batch = candles(&[60, 120, 180], &[[Some(f64::NAN); 4]; 3]);
    let store = Shows(vec![Ok(batch)], Coverage::of_present(minutes(1, 4)));
    let verdict = verify(&store, &key(), terms(2)).await;
    assert_eq!((verdict.found, verdict.findings.len()), (12, 2));
}

#[tokio::test]
async fn a_proof_dated_after_now_is_found_and_one_of_an_older_rule_noted_once_a_source() {
    let proof = |source: &str, from, answered_at| {
        EmptyProof::new(
            SourceId::new(source).unwrap(),
            minutes(from, from + 2),
            "none",
            at_minute(answered_at),
        )
    };
    let mut coverage = Coverage::default();
    for proof in [
        proof("binance", 1, 65),
        proof("binance", 3, 66),
        proof("binance", 8, 90),
        proof("coin base", 1, 50).with_rule(1),
        proof("coin base", 5, 51).with_rule(1),
        // What names its content is believed whatever rule decided.
        proof("file:x.csv#1", 1, 50).with_rule(1),
    ] {
        coverage.add_empty(&proof);
    }
    let verdict = check(Vec::new(), coverage).await;
    assert_eq!(told(&verdict), ["proof_from_the_future 180 - 1970-01-01T00:03:00Z..=1970-01-01T00:09:00Z"]);
    assert_eq!(
        verdict.findings[0].message,
        "the proof by binance about 4 bars is dated 1970-01-01T01:30:00Z, in the future: a clock was wrong, so it is \
         ignored; to remove it: qmtl-history forget-empty --store ./history --node BTC --interval 1m \
         --range 1970-01-01T00:03:00Z..=1970-01-01T00:09:00Z --from binance"
    );
    let [note] = verdict.notes.as_slice() else { panic!("{:?}", verdict.notes) };
    assert_eq!((note.check, note.ts), ("proof_of_an_older_rule", Some(at_minute(1))));
    assert_eq!(
        note.message,
        "the proof by coin base about 4 bars was made under an older rule and is ignored; run the backfill again to \
         renew it, or remove it: qmtl-history forget-empty --store ./history --node BTC --interval 1m \
         --range 1970-01-01T00:01:00Z..=1970-01-01T00:06:00Z --from 'coin base'"
    );
}
