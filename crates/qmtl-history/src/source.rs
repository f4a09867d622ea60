//! Sources of missing bars: what `--source` names, and the fetchers behind it.

#[cfg(any(feature = "binance", feature = "coinbase"))]
pub(crate) mod exchange;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use qmtl_history_api::frame::Rules;
use qmtl_history_api::{Clock, DataFetcher, Error, Interval, NodeId, Result, SeriesKey, TimeRange};
use qmtl_io_exchange::{FileConfig, FileSet};

use crate::cli::SourceArgs;
use crate::outcome::{in_own_words, not_built};

/// Where missing bars come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Files of the same series, the preferred first; never empty.
    Files(Vec<FileSource>),
    Exchange(ExchangeSource),
}

/// Sources in their order, in which files that are named next to each other are one source: what lies between
/// two of them is known only by both.
pub(crate) fn join(sources: impl IntoIterator<Item = Source>) -> Vec<Source> {
    let mut joined: Vec<Source> = Vec::new();
    for source in sources {
        match (joined.last_mut(), source) {
            (Some(Source::Files(files)), Source::Files(more)) => {
                for file in more {
                    if !files.contains(&file) {
                        files.push(file);
                    }
                }
            }
            (_, source) => joined.push(source),
        }
    }
    joined
}

/// An exchange, at its own address or another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExchangeSource {
    pub(crate) venue: Venue,
    pub(crate) base_url: Option<String>,
    /// What becomes of its odd rows.
    pub(crate) rules: Rules,
}

/// Whose API it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Venue {
    Binance,
    BinanceArchive,
    Coinbase,
}

impl Source {
    /// The source as it is told of while it is opened; nothing where that takes no time.
    pub(crate) fn opened(&self) -> Option<String> {
        let Self::Files(files) = self else { return None };
        let names: Vec<_> = files.iter().map(|file| file.path.display().to_string()).collect();
        Some(names.join(", "))
    }
}

impl Venue {
    const ALL: [Self; 3] = [Self::Binance, Self::BinanceArchive, Self::Coinbase];

    fn name(self) -> &'static str {
        match self {
            Self::Binance => "binance",
            Self::BinanceArchive => "binance-archive",
            Self::Coinbase => "coinbase",
        }
    }

    /// The feature that builds it in, and whether this build has it.
    fn feature(self) -> (&'static str, bool) {
        match self {
            Self::Binance | Self::BinanceArchive => ("binance", cfg!(feature = "binance")),
            Self::Coinbase => ("coinbase", cfg!(feature = "coinbase")),
        }
    }

    fn not_built(self) -> Error {
        not_built(&format!("source {}", self.name()), self.feature().0)
    }
}

/// A source as it is written, before the options of files are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    File(PathBuf),
    Exchange(ExchangeSource),
}

/// Reads `binance`, `binance+http://host:port`, `binance-archive`, `coinbase` (each with another address
/// when one follows a plus), `file:candles.csv`, `file:data/`, `file:data/BTCUSDT-*.zip`, `file:-` or `-` for stdin, or
/// the path of a file or a folder that is there.
/// `Unsupported`, with the feature to turn on, for an exchange that this build lacks.
pub(crate) fn place(text: &str, base: &Path) -> Result<Place> {
    for venue in Venue::ALL {
        let base_url = match text.strip_prefix(venue.name()) {
            Some("") => None,
            Some(url) if url.starts_with('+') => Some(url[1..].to_owned()),
            _ => continue,
        };
        if !venue.feature().1 {
            return Err(venue.not_built());
        }
        if base_url.as_deref().is_some_and(|url| !url.contains("//")) {
            // What follows the plus may hold a password, and is not repeated.
            return Err(Error::invalid(format!(
                "an address needs its scheme: write {0}+http://host:port, or {0}+https://host",
                venue.name()
            )));
        }
        return Ok(Place::Exchange(ExchangeSource { venue, base_url, rules: Rules::default() }));
    }
    file_path(text, base).map(Place::File)
}

/// What the sources call a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) node: NodeId,
    /// In a file's symbol column, on Binance, and on Coinbase without a product.
    pub(crate) symbol: Option<String>,
    /// On Coinbase.
    pub(crate) product: Option<String>,
}

/// How exchanges are asked; what is not set is left to the exchange's defaults.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(any(feature = "binance", feature = "coinbase")),
    expect(dead_code, reason = "only exchanges are asked so")
)]
pub(crate) struct Asking {
    /// Requests a second to one host.
    pub(crate) rate: Option<f64>,
    /// Repetitions of a request.
    pub(crate) retries: Option<usize>,
    /// How long a host is waited for that has never answered.
    pub(crate) retry_for: Option<Duration>,
    /// Where archives are kept.
    pub(crate) archive_folder: Option<PathBuf>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// A file and what of it cannot be told from its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSource {
    pub(crate) path: PathBuf,
    /// A column tells the series in it apart.
    pub(crate) has_symbol_column: bool,
    /// All but the symbols of nodes.
    pub(crate) config: FileConfig,
}

impl FileSource {
    /// Whether it may be many files, whose names tell their series: a folder, a pattern, or an archive.
    pub(crate) fn may_be_several(&self) -> bool {
        let name = self.path.to_string_lossy().to_ascii_lowercase();
        let is_archive =
            [".zip", ".tar", ".tgz"].iter().any(|end| name.ends_with(end)) || name.contains(".tar.");
        self.path.is_dir() || is_archive || (name.contains(['*', '?']) && !self.path.exists())
    }

    /// A file as the options say. `interval` is vouched for where the file is said to be sparse.
    ///
    /// `InvalidInput` for a delimiter that cannot be.
    pub(crate) fn new(path: PathBuf, args: &SourceArgs, interval: Interval) -> Result<Self> {
        let is_stdin = path.as_os_str() == "-";
        let mut config = if is_stdin { FileConfig::stdin() } else { FileConfig::new(&path) };
        if let Some(format) = args.source_format {
            config = config.with_format(format);
        }
        if let Some(column) = &args.ts_column {
            config = config.with_ts_column(column);
        }
        if let Some(unit) = args.ts_unit {
            config = config.with_ts_unit(unit);
        }
        if let Some(column) = &args.symbol_column {
            config = config.with_symbol_column(column);
        }
        if args.sparse {
            config = config.with_interval(interval);
        }
        for (column, column_type) in &args.column_type {
            config = config.with_column_type(column, *column_type);
        }
        if let Some(bytes) = args.max_unpacked {
            config = config.with_max_unpacked_bytes(bytes);
        }
        if let Some(delimiter) = args.delimiter {
            config = config.with_delimiter(delimiter)?;
        }
        if let Some(decimal) = args.decimal {
            config = config.with_decimal(decimal);
        }
        if args.no_header {
            config = config.with_header(false);
        }
        if !args.columns.is_empty() {
            config = config.with_columns(&args.columns);
        }
        for (name, own) in &args.rename {
            config = config.with_column(name, own);
        }
        if let Some(lines) = args.skip_lines {
            config = config.with_skipped_lines(lines);
        }
        if let Some(format) = &args.time_format {
            config = config.with_time_format(format.clone());
        }
        if let Some(profile) = args.profile {
            config = config.with_profile(profile);
        }
        if let Some(zone) = args.zone {
            config = config.with_zone(zone);
        }
        if let Some(stamp) = args.stamp {
            config = config.with_stamp(stamp);
        }
        config = config.with_rules(args.rules());
        Ok(Self { path, has_symbol_column: args.symbol_column.is_some(), config })
    }
}

/// The path of a source such as `file:candles.csv`; a path alone will do when the file or folder is there, or when it is
/// a pattern.
///
/// Relative paths are taken from `base`. `InvalidInput` for anything that this build cannot read.
pub(crate) fn file_path(text: &str, base: &Path) -> Result<PathBuf> {
    if let Some(path) = text.strip_prefix("file://").filter(|path| path.starts_with('/')) {
        return Ok(decoded(path, base).unwrap_or_else(|| base.join(path)));
    }
    let is_there = || base.join(text).is_file() || (text.contains(['/', '.']) && base.join(text).is_dir());
    let is_pattern = || text.contains(['*', '?']) && !text.contains("://");
    match text.strip_prefix("file:") {
        Some("-") => Ok(PathBuf::from("-")),
        None if text == "-" => Ok(PathBuf::from("-")),
        Some(path) if path.starts_with("~/") && !base.join(path).exists() => Err(Error::invalid(
            "a shell does not expand ~ behind file:; leave file: out, or write $HOME",
        )
        .with("source", format_args!("{text:?}"))),
        Some("") => Err(Error::invalid("a file source needs a path, such as file:candles.csv")),
        Some(path) if path.starts_with("//") => Err(Error::invalid(
            "a path does not begin with two slashes: write file:candles.csv, or file:///data/candles.csv for an \
             absolute path",
        )
        .with("source", format_args!("{text:?}"))),
        Some(path) => match decoded(path, base) {
            None => Ok(base.join(path)),
            // Only an address with file:// is percent-encoded.
            Some(decoded) => Err(Error::invalid("there is no such file; write the characters of its name as they are")
                .with("source", format_args!("{text:?}"))
                .with("file", decoded.display())),
        },
        None if is_there() || is_pattern() => Ok(base.join(text)),
        None if looks_like_file(text) => {
            let path = base.join(text);
            Err(Error::invalid("there is no such file; check its path").with("source", path.display()))
        }
        None => Err(Error::invalid(
            "no such source: use binance, binance-archive, coinbase, one of them at another address \
             (binance+http://host:port), or file:PATH (CSV, JSON, Parquet, Arrow, also compressed; a folder, a pattern)",
        )
        .with("source", format_args!("{text:?}"))),
    }
}

/// The path with its percent-encoded characters decoded, where that one is there and the one as written is not.
fn decoded(path: &str, base: &Path) -> Option<PathBuf> {
    let decoded = percent_decode_str(path).decode_utf8().ok().filter(|decoded| decoded != path)?;
    let decoded = base.join(decoded.as_ref());
    (decoded.exists() && !base.join(path).exists()).then_some(decoded)
}

/// Whether a source without a scheme is more likely the name of a file than that of an exchange.
fn looks_like_file(text: &str) -> bool {
    const EXTENSIONS: [&str; 20] = [
        "csv", "tsv", "txt", "json", "jsonl", "ndjson", "gz", "gzip", "zst", "xz", "bz2", "zip", "tar",
        "tgz", "parquet", "pq", "arrow", "arrows", "feather", "ipc",
    ];
    let extension =
        Path::new(text).extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    let is_path = [".", "/", "~"].iter().any(|start| text.starts_with(start));
    let is_address = text.contains("://") || text.contains('@');
    !is_address && (is_path || extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str())))
}

/// A source that is open.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) fetcher: Arc<dyn DataFetcher>,
    /// Its files, where it has some.
    files: Option<FileSet>,
    /// What was left out, and how files were read that are not plain.
    pub(crate) notes: Vec<String>,
}

impl Opened {
    /// Whether it holds several series that the names of its files tell apart.
    pub(crate) fn tells_series(&self) -> bool {
        self.files.as_ref().is_some_and(FileSet::tells_series)
    }

    /// From the first to the last bar of a series in files; `None` where there are none.
    ///
    /// Fails as a fetch from them does: `NotFound` where no file has the series, `InvalidInput` where one says that it
    /// holds another interval or symbol.
    pub(crate) fn holds(&self, key: &SeriesKey) -> Result<Option<TimeRange>> {
        self.files.as_ref().map(|files| files.range(key)).transpose()
    }
}

/// Opens the fetcher of a source that serves these nodes.
#[cfg_attr(
    not(any(feature = "binance", feature = "coinbase")),
    expect(unused_variables, reason = "only exchanges are asked in a certain way")
)]
pub(crate) async fn open(source: &Source, names: &[Names], asking: &Asking) -> Result<Opened> {
    match source {
        Source::Files(files) => {
            let files = FileSet::open(files.iter().map(|file| file_config(file, names))).await?;
            let (fetcher, notes) =
                (Arc::new(files.clone()), files.notes().iter().map(|note| in_own_words(note)).collect());
            Ok(Opened { fetcher, files: Some(files), notes })
        }
        #[cfg(any(feature = "binance", feature = "coinbase"))]
        Source::Exchange(exchange) => {
            let fetcher = exchange::open(exchange, names, asking)?;
            Ok(Opened { fetcher, files: None, notes: Vec::new() })
        }
        #[cfg(not(any(feature = "binance", feature = "coinbase")))]
        Source::Exchange(exchange) => Err(exchange.venue.not_built()),
    }
}

fn file_config(source: &FileSource, names: &[Names]) -> FileConfig {
    let named = names.iter().filter_map(|names| Some((names.node.clone(), names.symbol.as_ref()?)));
    named.fold(source.config.clone(), |config, (node, symbol)| config.with_symbol(node, symbol))
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
        assert_eq!(file_path("file:./a.csv", base).unwrap(), Path::new("/data/./a.csv"));
        let error = file_path("file://a.csv", base).unwrap_err().to_string();
        assert!(
            error.starts_with("a path does not begin with two slashes: write file:candles.csv"),
            "{error}"
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.csv"), "ts\n").unwrap();
        assert_eq!(file_path("a.csv", folder.path()).unwrap(), folder.path().join("a.csv"));
        assert_eq!(file_path("-", base).unwrap(), Path::new("-"));
        let error = file_path("file:~/a.csv", base).unwrap_err().to_string();
        assert_eq!(
            error,
            "a shell does not expand ~ behind file:; leave file: out, or write $HOME (source: \"file:~/a.csv\")"
        );
    }

    #[test]
    fn an_exchange_may_have_another_address() {
        let exchange = |text: &str| match place(text, Path::new("/nowhere")).unwrap() {
            Place::Exchange(ExchangeSource { venue, base_url, .. }) => (venue, base_url),
            Place::File(path) => panic!("{text} is read as the file {}", path.display()),
        };
        assert_eq!(exchange("binance"), (Venue::Binance, None));
        assert_eq!(exchange("binance-archive"), (Venue::BinanceArchive, None));
        let url = Some("http://127.0.0.1:8123".to_owned());
        assert_eq!(exchange("binance+http://127.0.0.1:8123"), (Venue::Binance, url.clone()));
        assert_eq!(exchange("coinbase+http://127.0.0.1:8123"), (Venue::Coinbase, url));
        for lacking in ["binance+127.0.0.1:9", "binance+localhost:9/x", "binance+http:127.0.0.1", "binance+"]
        {
            let error = place(lacking, Path::new("/x")).unwrap_err().to_string();
            assert!(error.ends_with("write binance+http://host:port, or binance+https://host"), "{error}");
        }
        assert_eq!(place("file:binance", Path::new("/x")).unwrap(), Place::File("/x/binance".into()));
    }

    #[test]
    fn a_source_that_is_not_built_in_names_its_feature() {
        let text = Venue::BinanceArchive.not_built().to_string();
        assert!(text.starts_with("this build has no source binance-archive; build it in: cargo"), "{text}");
        assert!(text.ends_with("--features binance"), "{text}");
        assert!(Venue::Coinbase.not_built().to_string().ends_with("--features coinbase"));
    }

    #[test]
    fn another_source_is_refused_with_what_there_is() {
        for text in ["okk.csv", "data/x.CSV.gz", "./data", "/data/x", "~/x"] {
            let error = place(text, Path::new("/nowhere")).unwrap_err().to_string();
            let path = Path::new("/nowhere").join(text);
            assert_eq!(error, format!("there is no such file; check its path (source: {})", path.display()));
        }
        for text in ["kraken", "https://x/y.csv", "", "binances"] {
            let error = place(text, Path::new("/nowhere")).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "no such source: use binance, binance-archive, coinbase, one of them at another address \
                     (binance+http://host:port), or file:PATH (CSV, JSON, Parquet, Arrow, also compressed; a folder, a pattern) \
                     (source: {text:?})"
                )
            );
        }
        assert!(place("file:", Path::new("/")).is_err());
    }
}
