//! Files that nobody wrote: whatever their bytes are, they are read or refused, and what is read stands where the file
//! said that it stands.

use qmtl_history_api::{Interval, frame};

use super::*;

/// Opens a file of these bytes, and reads all of its rows as bars of a minute.
pub(super) fn read(path: &Path, bytes: &[u8], symbol_column: Option<&str>) -> Result<u64> {
    std::fs::write(path, bytes).expect("the file is written");
    let mut config = FileConfig::new(path).with_max_unpacked_bytes(1 << 20);
    if let Some(column) = symbol_column {
        config = config.with_symbol_column(column);
    }
    let inner = Inner::open(config)?;
    let nodes: Vec<_> = match symbol_column {
        Some(_) => inner.opened.index.symbols().take(3).map(NodeId::new).filter_map(Result::ok).collect(),
        None => vec![NodeId::new("x")?],
    };
    let mut count = 0;
    for node in nodes {
        let key = SeriesKey { node_id: node, interval: Interval::MINUTE };
        let (symbol, extent) = inner.series(&key)?;
        let rows = Selection { span: inner.opened.unit.span(TimeRange::ALL), symbol };
        let mut batches = Vec::new();
        for block in inner.opened.index.blocks(&rows.symbol, &rows.span) {
            batches.extend(inner.read(block, &rows)?);
        }
        let read = batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        let normal = frame::normalize(&key, extent, &batches)?;
        assert_eq!(normal.dropped.outside, 0, "a row stands outside {extent}");
        assert_eq!(normal.rows.num_rows() as u64 + normal.dropped.total(), read, "a row is lost");
        count += read;
    }
    Ok(count)
}

/// Reads what the fuzzer, or its corpus, makes of a file of this name.
macro_rules! check {
    ($name:literal, $file:expr, $symbol_columns:expr) => {{
        let folder = tempfile::tempdir().expect("a folder for the file");
        bolero::check!(name = $name).with_iterations(0).for_each(|bytes: &[u8]| {
            let path = folder.path().join($file(bytes));
            for column in $symbol_columns {
                if let Err(error) = read(&path, bytes, column) {
                    let kind = error.kind();
                    assert!(!matches!(kind, ErrorKind::Unexpected | ErrorKind::Storage), "{error:?}");
                }
            }
        });
    }};
}

#[test]
fn arrow() {
    check!("arrow", |_: &[u8]| "x.arrow", [None]);
}

#[test]
fn parquet() {
    check!("parquet", |_: &[u8]| "x.parquet", [None, Some("symbol")]);
}

/// Also inside of gzip and zip.
#[test]
fn csv() {
    let name = |bytes: &[u8]| match bytes {
        [0x1f, 0x8b, ..] => "x.csv.gz",
        [b'P', b'K', ..] => "x.zip",
        _ => "x.csv",
    };
    check!("csv", name, [None, Some("symbol")]);
}

/// By rows, by columns, and objects that a key names.
#[test]
fn json() {
    check!("json", |_: &[u8]| "x.json", [None, Some("symbol")]);
}
