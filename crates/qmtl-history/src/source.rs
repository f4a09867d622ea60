//! Sources of missing bars: what `--source` names, and the fetchers behind it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qmtl_history_api::{DataFetcher, Error, Interval, NodeId, Result};
use qmtl_io_exchange::{ColumnType, FileConfig, FileFetcher, FileFormat, TsUnit};

/// A file and what of it cannot be told from its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSource {
    pub(crate) path: PathBuf,
    pub(crate) format: Option<FileFormat>,
    pub(crate) ts_column: Option<String>,
    pub(crate) ts_unit: Option<TsUnit>,
    pub(crate) symbol_column: Option<String>,
    /// The interval that the user vouches for, when the file is sparse.
    pub(crate) vouched: Option<Interval>,
    pub(crate) column_types: Vec<(String, ColumnType)>,
    /// How many bytes a compressed file may unpack to.
    pub(crate) max_unpacked: Option<u64>,
}

/// The path of a source such as `file:candles.csv`; a path alone will do when the file is there.
///
/// Relative paths are taken from `base`. `InvalidInput` for anything that this build cannot read.
pub(crate) fn file_path(text: &str, base: &Path) -> Result<PathBuf> {
    let named = text.strip_prefix("file:").map(|path| match path.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        _ => path,
    });
    match named {
        Some("") => Err(Error::invalid("a file source needs a path, such as file:candles.csv")),
        Some(path) => Ok(base.join(path)),
        None if base.join(text).is_file() => Ok(base.join(text)),
        None => Err(Error::invalid(
            "no such source: this build reads file:PATH (CSV, its gzip or zip, Parquet, Arrow)",
        )
        .with("source", format_args!("{text:?}"))),
    }
}

/// Opens the fetcher of a file that serves these nodes under these symbols.
pub(crate) async fn open(source: &FileSource, symbols: &[(NodeId, String)]) -> Result<Arc<dyn DataFetcher>> {
    let mut config = FileConfig::new(&source.path);
    if let Some(format) = source.format {
        config = config.with_format(format);
    }
    if let Some(column) = &source.ts_column {
        config = config.with_ts_column(column);
    }
    if let Some(unit) = source.ts_unit {
        config = config.with_ts_unit(unit);
    }
    if let Some(column) = &source.symbol_column {
        config = config.with_symbol_column(column);
    }
    if let Some(interval) = source.vouched {
        config = config.with_interval(interval);
    }
    for (column, column_type) in &source.column_types {
        config = config.with_column_type(column, *column_type);
    }
    if let Some(bytes) = source.max_unpacked {
        config = config.with_max_unpacked_bytes(bytes);
    }
    for (node, symbol) in symbols {
        config = config.with_symbol(node.clone(), symbol);
    }
    Ok(Arc::new(FileFetcher::open(config).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_file_by_its_scheme_or_by_being_there() {
        let base = Path::new("/data");
        assert_eq!(file_path("file:a b.csv", base).unwrap(), Path::new("/data/a b.csv"));
        assert_eq!(file_path("file:/x/a.csv", base).unwrap(), Path::new("/x/a.csv"));
        assert_eq!(file_path("file:///x/a.csv", base).unwrap(), Path::new("/x/a.csv"));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.csv"), "ts\n").unwrap();
        assert_eq!(file_path("a.csv", folder.path()).unwrap(), folder.path().join("a.csv"));
    }

    #[test]
    fn another_source_is_refused_with_what_there_is() {
        for text in ["binance", "https://x/y.csv", "missing.csv", ""] {
            let error = file_path(text, Path::new("/nowhere")).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "no such source: this build reads file:PATH (CSV, its gzip or zip, Parquet, Arrow) (source: {text:?})"
                )
            );
        }
        assert!(file_path("file:", Path::new("/")).is_err());
    }
}
