//! Which series a command is about: `--node` and `--interval`, or a TOML file that lists them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use qmtl_history_api::frame::Rules;
use qmtl_history_api::{Error, Interval, NodeId, Result, SeriesKey};
use serde::Deserialize;
use toml::{Table, Value};

use crate::cli::{
    SeriesArgs, SourceArgs, column_type, parse_bytes, parse_decimal, parse_delimiter, parse_format,
    parse_nan, parse_off_grid, parse_profile, parse_stamp, parse_time_format, parse_unit, parse_zone,
};
use crate::console::Console;
use crate::source::{self, ExchangeSource, FileSource, Place, Source, join};
use crate::text;
use crate::waits::Waits;

/// A series and where its missing bars come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) key: SeriesKey,
    /// In order of preference; none where none is named.
    pub(crate) sources: Vec<Source>,
    /// The symbol on an exchange or in a file's symbol column, when it is not the node id.
    pub(crate) symbol: Option<String>,
    /// The product on Coinbase, when it is not the symbol.
    pub(crate) product: Option<String>,
}

/// The series that the arguments name, in their order; `None` when they name none.
///
/// `InvalidInput` for a node id, an interval or a file that cannot be, or a series named twice.
pub(crate) async fn select(
    series: &SeriesArgs,
    source: &SourceArgs,
    console: &Console,
) -> Result<Option<Vec<Wanted>>> {
    if let Some(folder) = &source.archive_folder {
        text::must_be_path(
            folder,
            "archives are kept in a folder, and not at an address: use --archive-folder DIR",
        )?;
    }
    let wanted = match (&series.nodes, &series.interval) {
        (Some(file), _) => {
            told_by_list(source).map_err(|e| e.with("nodes", file.display()))?;
            // Nobody may ever write to a pipe.
            let what = format!("the list {} has not been read to its end yet", file.display());
            let path = file.clone();
            let reading = tokio::task::spawn_blocking(move || from_file(&path));
            let read = Waits::new(console).during(&what, reading).await;
            read.map_err(|e| Error::unexpected("the list of series was not read").caused_by(e))??
        }
        (None, Some(interval)) => from_args(&series.node, interval, source)?,
        (None, None) => return Ok(None),
    };
    stdin_once(series.nodes.as_deref(), &wanted)?;
    let mut keys: Vec<_> = wanted.iter().map(|wanted| &wanted.key).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::invalid("a series is named twice").with("series", pair[0])),
        None => Ok(Some(wanted)),
    }
}

/// Whether a flag is given, its name, and what says the same in a list of series.
type Flag = (bool, &'static str, &'static str);

/// Refuses flags beside a list of series that says the same of each: they would go unheard.
fn told_by_list(args: &SourceArgs) -> Result<()> {
    let flags = [
        (!args.source.is_empty(), "--source", "source = \"binance\""),
        (!args.symbol.is_empty(), "--symbol", "symbol = \"BTCUSDT\""),
        (!args.product.is_empty(), "--product", "product = \"BTC-USD\""),
        (args.off_grid.is_some(), "--off-grid", "off_grid = \"floor\""),
        (args.nan.is_some(), "--nan", "nan = \"missing\""),
    ];
    match flags.into_iter().chain(of_files(args)).find(|(is_given, ..)| *is_given) {
        Some((_, flag, entry)) => Err(Error::invalid(format!(
            "with --nodes, the file takes the place of {flag}: write {entry} there"
        ))),
        None => Ok(()),
    }
}

/// The flags that say how a file is read.
fn of_files(args: &SourceArgs) -> [Flag; 17] {
    [
        (args.source_format.is_some(), "--source-format", "source_format = \"csv\""),
        (args.ts_column.is_some(), "--ts-column", "ts_column = \"time\""),
        (args.ts_unit.is_some(), "--ts-unit", "ts_unit = \"ms\""),
        (args.symbol_column.is_some(), "--symbol-column", "symbol_column = \"symbol\""),
        (!args.column_type.is_empty(), "--column-type", "column_types = { trades = \"int64\" }"),
        (args.max_unpacked.is_some(), "--max-unpacked", "max_unpacked = \"8GB\""),
        (args.delimiter.is_some(), "--delimiter", "delimiter = \";\""),
        (args.decimal.is_some(), "--decimal", "decimal = \"comma\""),
        (args.no_header, "--no-header", "header = false"),
        (!args.columns.is_empty(), "--columns", "columns = [\"ts\", \"close\"]"),
        (!args.rename.is_empty(), "--column", "rename = { close = \"Schluss\" }"),
        (args.skip_lines.is_some(), "--skip-lines", "skip_lines = 2"),
        (args.time_format.is_some(), "--time-format", "time_format = \"%d.%m.%Y %H:%M\""),
        (args.profile.is_some(), "--profile", "profile = \"kraken\""),
        (args.zone.is_some(), "--zone", "zone = \"America/New_York\""),
        (args.stamp.is_some(), "--stamp", "stamp = \"close\""),
        (args.sparse, "--sparse", "sparse = true"),
    ]
}

/// Refuses what says how a file is read where no source is one: it would go unheard. `given` names the first that is
/// given of these flags, or of their entries in a list.
fn heard(sources: &[Source], given: Option<&str>) -> Result<()> {
    let are_exchanges =
        !sources.is_empty() && sources.iter().all(|source| matches!(source, Source::Exchange(_)));
    match given.filter(|_| are_exchanges) {
        Some(name) => Err(Error::invalid(format!(
            "{name} applies to files only, and no source is a file; leave it out"
        ))),
        None => Ok(()),
    }
}

/// Refuses two nodes that would be filled from one file without anything that tells their series apart: both
/// would get the same rows. The same node at two intervals is fine, since a file holds one of them. `is_told` says of a
/// file whether something else tells its series apart.
pub(crate) fn told_apart<'a>(
    series: impl Iterator<Item = (&'a SeriesKey, &'a [Source])>,
    is_told: impl Fn(&Source, &FileSource) -> bool,
) -> Result<()> {
    let mut owners: BTreeMap<PathBuf, &NodeId> = BTreeMap::new();
    for (key, sources) in series {
        let files = sources.iter().filter_map(|source| match source {
            Source::Files(files) => Some(files.iter().map(move |file| (source, file))),
            Source::Exchange(_) => None,
        });
        let untold =
            files.flatten().filter(|(source, file)| !file.has_symbol_column && !is_told(source, file));
        for (_, file) in untold {
            // A file that is not there is refused when it is opened.
            let path = file.path.canonicalize().unwrap_or_else(|_| file.path.clone());
            let owner = *owners.entry(path).or_insert(&key.node_id);
            if *owner != key.node_id {
                return Err(Error::invalid(
                    "two nodes would get the same rows of one file; say which of its columns tells their series apart \
                     (--symbol-column, or symbol_column in a list of series), or give each node a file of its own in a \
                     list of series (--nodes)",
                )
                .with("file", file.path.display())
                .with("nodes", format_args!("{owner}, {}", key.node_id)));
            }
        }
    }
    Ok(())
}

/// Refuses to read stdin twice: the second time there is nothing left of it.
fn stdin_once(list: Option<&Path>, wanted: &[Wanted]) -> Result<()> {
    let mut readers: Vec<&FileSource> = Vec::new();
    for source in wanted.iter().flat_map(|wanted| &wanted.sources) {
        let Source::Files(files) = source else { continue };
        for file in files.iter().filter(|file| is_stdin(&file.path)) {
            // Nodes that share a source share what was read of it.
            if !readers.contains(&file) {
                readers.push(file);
            }
        }
    }
    let is_list = list.is_some_and(is_stdin);
    if readers.len() + usize::from(is_list) < 2 {
        return Ok(());
    }
    let first = if is_list { "the list of series" } else { "a source" };
    Err(Error::invalid("stdin can be read only once; write one of the two to a file, and name that")
        .with("read_as", format_args!("{first}, a source")))
}

/// Whether a path is that of stdin.
fn is_stdin(path: &Path) -> bool {
    ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|name| path == Path::new(name))
}

fn from_args(nodes: &[String], interval: &str, args: &SourceArgs) -> Result<Vec<Wanted>> {
    let interval: Interval = interval.parse().map_err(|e: Error| e.with("flag", "--interval"))?;
    let named = |flag: &'static str, pairs: &'_ [String]| {
        pairs.iter().map(|pair| symbol_of(nodes, flag, pair)).collect::<Result<Vec<_>>>()
    };
    let (symbols, products) = (named("--symbol", &args.symbol)?, named("--product", &args.product)?);
    let of = |names: &[(&str, String)], node: &str| {
        names.iter().find(|(of, _)| *of == node).map(|(_, name)| name.clone())
    };
    let source = |text: &String| -> Result<Source> {
        Ok(match source::place(text, Path::new(""))? {
            Place::Exchange(exchange) => Source::Exchange(ExchangeSource { rules: args.rules(), ..exchange }),
            Place::File(path) => Source::Files(vec![FileSource::new(path, args, interval)?]),
        })
    };
    let sources = join(args.source.iter().map(source).collect::<Result<Vec<_>>>()?);
    heard(&sources, of_files(args).into_iter().find(|(is_given, ..)| *is_given).map(|(_, flag, _)| flag))?;
    nodes
        .iter()
        .map(|node| {
            Ok(Wanted {
                key: key(node, interval)?,
                sources: sources.clone(),
                symbol: of(&symbols, node),
                product: of(&products, node),
            })
        })
        .collect()
}

/// The series of a node. An id is shown everywhere, so it must not be an address with a secret.
fn key(node: &str, interval: Interval) -> Result<SeriesKey> {
    if text::without_secrets(node) != node {
        return Err(Error::invalid("a node id cannot be an address with a user or a query in it"));
    }
    SeriesKey::new(node, interval)
}

/// Reads `NODE=SYMBOL` for one of `nodes`, any of which may contain an equals sign.
fn symbol_of<'a>(nodes: &'a [String], flag: &'static str, pair: &str) -> Result<(&'a str, String)> {
    nodes
        .iter()
        .filter_map(|node| Some((node.as_str(), pair.strip_prefix(node)?.strip_prefix('=')?.to_owned())))
        .filter(|(_, symbol)| !symbol.is_empty())
        .max_by_key(|(node, _)| node.len())
        .ok_or_else(|| {
            Error::invalid(format!(
                "this names no node of the command: use {flag} NODE=SYMBOL with the id of a --node"
            ))
            .with("value", format_args!("{pair:?}"))
        })
}

/// One entry of a nodes file, with the file's defaults filled in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    node: String,
    interval: String,
    source: Option<Texts>,
    source_format: Option<String>,
    ts_column: Option<String>,
    ts_unit: Option<String>,
    symbol_column: Option<String>,
    symbol: Option<String>,
    product: Option<String>,
    #[serde(default)]
    sparse: bool,
    #[serde(default)]
    column_types: BTreeMap<String, String>,
    max_unpacked: Option<String>,
    delimiter: Option<String>,
    decimal: Option<String>,
    header: Option<bool>,
    #[serde(default)]
    columns: Vec<String>,
    #[serde(default)]
    rename: BTreeMap<String, String>,
    skip_lines: Option<u64>,
    time_format: Option<String>,
    profile: Option<String>,
    zone: Option<String>,
    stamp: Option<String>,
    off_grid: Option<String>,
    nan: Option<String>,
}

/// One text or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

/// The most bytes of a list of series: some hundred thousand of them.
const LONGEST_LIST: u64 = 16 << 20;

fn from_file(path: &Path) -> Result<Vec<Wanted>> {
    let at = |e: Error| e.with("nodes", path.display());
    let unread = |e| at(Error::invalid("cannot read the list of series").caused_by(e));
    let mut text = String::new();
    let (input, folder): (Box<dyn Read>, _) = if path == Path::new("-") {
        (Box::new(std::io::stdin()), None)
    } else {
        let file = std::fs::File::open(path).map_err(unread)?;
        // What comes out of a pipe is from no folder.
        let is_file = file.metadata().map_err(unread)?.is_file();
        (Box::new(file), path.parent().filter(|_| is_file))
    };
    // What has no end must not take all memory.
    input.take(LONGEST_LIST + 1).read_to_string(&mut text).map_err(unread)?;
    if text.len() as u64 > LONGEST_LIST {
        return Err(at(Error::invalid("the list of series is too long").with("cap_bytes", LONGEST_LIST)));
    }
    parse(&text, folder.unwrap_or(Path::new(""))).map_err(at)
}

/// Reads a nodes file: what stands at the top holds for every `[[series]]` that does not say otherwise.
pub(crate) fn parse(text: &str, base: &Path) -> Result<Vec<Wanted>> {
    let bad = |e: toml::de::Error| {
        Error::invalid("the list of series is not valid; backfill --help shows its form")
            .caused_by(told(&e, text))
    };
    let mut defaults: Table = text.parse().map_err(bad)?;
    let Some(Value::Array(entries)) =
        defaults.remove("series").filter(|list| *list != Value::Array(Vec::new()))
    else {
        return Err(Error::invalid("the list of series has no [[series]]"));
    };
    entries
        .into_iter()
        .enumerate()
        .map(|(index, entry)| {
            let mut merged = defaults.clone();
            let own = entry.as_table().cloned().unwrap_or_default();
            // What stands at the top is for the series that have files.
            let keys = of_files(&SourceArgs::default())
                .map(|(.., entry)| entry.split(' ').next().unwrap_or_default());
            let given = keys.into_iter().find(|key| own.contains_key(*key));
            merged.extend(own);
            Value::Table(merged)
                .try_into::<Entry>()
                .map_err(bad)
                .and_then(|entry| entry.wanted(base))
                .and_then(|wanted| heard(&wanted.sources, given).map(|()| wanted))
                .map_err(|e| e.with("entry", index + 1))
        })
        .collect()
}

/// What is wrong with a list, and where. The line itself is not quoted: a line that does not parse may hold a password
/// that nobody can tell from the rest of it.
fn told(error: &toml::de::Error, text: &str) -> String {
    const LONGEST: usize = 200;
    let what: String = error.message().chars().take(LONGEST).collect();
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return what };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: {what}")
}

impl Entry {
    fn wanted(self, base: &Path) -> Result<Wanted> {
        let interval: Interval = self.interval.parse()?;
        let texts = match &self.source {
            None => &[],
            Some(Texts::One(text)) => std::slice::from_ref(text),
            Some(Texts::Many(texts)) => texts.as_slice(),
        };
        let sources = texts.iter().map(|name| self.source(name, interval, base));
        let sources = join(sources.collect::<Result<Vec<_>>>()?);
        let Self { node, symbol, product, .. } = self;
        Ok(Wanted { key: key(&node, interval)?, sources, symbol, product })
    }

    /// What becomes of the odd rows of its sources.
    fn rules(&self) -> Result<Rules> {
        let off_grid = word("off_grid", self.off_grid.as_deref(), parse_off_grid)?.unwrap_or_default();
        let nan = word("nan", self.nan.as_deref(), parse_nan)?.unwrap_or_default();
        Ok(Rules::default().with_off_grid(off_grid).with_nan(nan))
    }

    fn source(&self, name: &str, interval: Interval, base: &Path) -> Result<Source> {
        text::learn_secrets(std::iter::once(Cow::Borrowed(name)));
        let path = match source::place(name, base)? {
            Place::Exchange(exchange) => {
                let rules = self.rules()?;
                return Ok(Source::Exchange(ExchangeSource { rules, ..exchange }));
            }
            Place::File(path) => path,
        };
        let column_types = self.column_types.iter().filter_map(|(column, name)| {
            let named = word("column_types", Some(name), column_type).transpose()?;
            Some(named.map(|column_type| (column.clone(), column_type)))
        });
        let args = SourceArgs {
            source_format: word("source_format", self.source_format.as_deref(), parse_format)?,
            ts_column: self.ts_column.clone(),
            ts_unit: word("ts_unit", self.ts_unit.as_deref(), parse_unit)?,
            symbol_column: self.symbol_column.clone(),
            sparse: self.sparse,
            column_type: column_types.collect::<Result<_>>()?,
            max_unpacked: word("max_unpacked", self.max_unpacked.as_deref(), parse_bytes)?,
            delimiter: word("delimiter", self.delimiter.as_deref(), parse_delimiter)?,
            decimal: word("decimal", self.decimal.as_deref(), parse_decimal)?,
            no_header: self.header == Some(false),
            columns: self.columns.clone(),
            rename: self.rename.iter().map(|(name, own)| (name.clone(), own.clone())).collect(),
            skip_lines: self.skip_lines,
            time_format: word("time_format", self.time_format.as_deref(), parse_time_format)?,
            profile: word("profile", self.profile.as_deref(), parse_profile)?,
            zone: word("zone", self.zone.as_deref(), parse_zone)?,
            stamp: word("stamp", self.stamp.as_deref(), parse_stamp)?,
            off_grid: Some(self.rules()?.off_grid),
            nan: Some(self.rules()?.nan),
            ..SourceArgs::default()
        };
        let mut file = FileSource::new(path, &args, interval)?;
        if self.header == Some(true) {
            file.config = file.config.with_header(true);
        }
        Ok(Source::Files(vec![file]))
    }
}

/// Reads a word of the file as the flag of that name is read.
fn word<T>(key: &'static str, text: Option<&str>, read: fn(&str) -> Result<T, String>) -> Result<Option<T>> {
    text.map(read).transpose().map_err(|message| Error::invalid(message).with("key", key))
}

#[cfg(test)]
mod tests {
    use qmtl_io_exchange::{ColumnType, Decimal, FileConfig, TimeFormat, TsUnit};

    use super::*;

    #[test]
    fn what_stands_at_the_top_holds_for_every_series() {
        let list = r#"
            interval = "1m"
            source = "file:all.csv"
            symbol_column = "symbol"

            [[series]]
            node = "a:b"
            symbol = "AB"

            [[series]]
            node = "c"
            interval = "5m"
            source = "file:/data/c.parquet"
            ts_unit = "ms"
            sparse = true
            column_types = { trades = "int64" }
            max_unpacked = "8GB"
        "#;
        let wanted = parse(list, Path::new("/lists")).unwrap();
        let [first, second] = wanted.as_slice() else { panic!("two series are listed: {wanted:?}") };
        assert_eq!((first.key.to_string(), first.symbol.as_deref()), ("a:b@1m".into(), Some("AB")));
        let file = |wanted: &Wanted| match &wanted.sources[..] {
            [Source::Files(files)] if files.len() == 1 => files[0].clone(),
            other => panic!("one file is named: {other:?}"),
        };
        let of = |path: &str| FileConfig::new(path).with_symbol_column("symbol");
        let source = file(first);
        assert_eq!(
            (source.path.as_path(), source.config),
            (Path::new("/lists/all.csv"), of("/lists/all.csv"))
        );
        let source = file(second);
        assert_eq!(second.key.to_string(), "c@5m");
        let config = of("/data/c.parquet")
            .with_ts_unit(TsUnit::Millisecond)
            .with_interval(second.key.interval)
            .with_column_type("trades", ColumnType::Int64)
            .with_max_unpacked_bytes(8 << 30);
        assert_eq!((source.path.as_path(), source.config), (Path::new("/data/c.parquet"), config));
    }

    #[test]
    fn a_list_says_how_a_text_file_is_written() {
        let list = r#"
            interval = "1m"
            [[series]]
            node = "a"
            source = "file:/a.csv"
            delimiter = "tab"
            decimal = "comma"
            header = true
            columns = ["ts", "", "close"]
            rename = { close = "Schluss", volume = "Menge" }
            skip_lines = 3
            time_format = "%d.%m.%Y %H:%M"
        "#;
        let wanted = parse(list, Path::new("")).unwrap();
        let config = FileConfig::new("/a.csv")
            .with_delimiter('\t')
            .unwrap()
            .with_decimal(Decimal::Comma)
            .with_header(true)
            .with_columns(["ts", "", "close"])
            .with_column("close", "Schluss")
            .with_column("volume", "Menge")
            .with_skipped_lines(3)
            .with_time_format(TimeFormat::new("%d.%m.%Y %H:%M").unwrap());
        let file = FileSource { path: "/a.csv".into(), has_symbol_column: false, config };
        assert_eq!(wanted[0].sources, [Source::Files(vec![file])]);
        let bad = |line: &str| {
            let list =
                format!("interval = \"1m\"\n[[series]]\nnode = \"a\"\nsource = \"file:/a.csv\"\n{line}");
            parse(&list, Path::new("")).unwrap_err().to_string()
        };
        for (line, message) in [
            ("delimiter = \";;\"", "use one character such as ; or |, or tab (key: delimiter, entry: 1)"),
            (
                "delimiter = \"a\"",
                "not a sign between columns; use one such as , or ; or | or a tab (key: delimiter, entry: 1)",
            ),
            ("decimal = \".\"", "use point or comma (key: decimal, entry: 1)"),
            (
                "time_format = \"date\"",
                "not a time format: it has no specifier; use those of strftime, such as %d.%m.%Y %H:%M:%S (key: \
                 time_format, entry: 1)",
            ),
        ] {
            assert_eq!(bad(line), message);
        }
    }

    #[test]
    fn a_series_may_have_several_sources_and_names_on_them() {
        let list = r#"
            interval = "1m"
            source = ["binance-archive", "binance", "coinbase+http://127.0.0.1:1"]

            [[series]]
            node = "a"
            symbol = "BTCUSDT"
            product = "BTC-USD"

            [[series]]
            node = "b"
            source = "binance"
        "#;
        let wanted = parse(list, Path::new("")).unwrap();
        assert_eq!((wanted[0].sources.len(), wanted[1].sources.len()), (3, 1));
        assert_eq!(
            (wanted[0].symbol.as_deref(), wanted[0].product.as_deref()),
            (Some("BTCUSDT"), Some("BTC-USD"))
        );
    }

    #[test]
    fn files_next_to_each_other_are_one_source() {
        let list = r#"
            interval = "1h"
            [[series]]
            node = "a"
            source = ["file:1.csv", "file:2.csv", "file:1.csv", "coinbase", "file:3.csv"]
        "#;
        let wanted = parse(list, Path::new("/x")).unwrap();
        let names = |source: &Source| match source {
            Source::Files(files) => files.iter().map(|file| file.path.display().to_string()).collect(),
            Source::Exchange(_) => vec!["exchange".to_owned()],
        };
        let names: Vec<Vec<_>> = wanted[0].sources.iter().map(names).collect();
        assert_eq!(names, [vec!["/x/1.csv", "/x/2.csv"], vec!["exchange"], vec!["/x/3.csv"]]);
    }

    #[test]
    fn two_nodes_on_one_file_need_something_that_tells_them_apart() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.csv"), "").unwrap();
        let judge = |first: &str, second: &str| {
            let list =
                format!("interval = \"1m\"\n[[series]]\nnode = \"A\"\n{first}\n[[series]]\n{second}\n");
            let wanted = parse(&list, folder.path()).unwrap();
            told_apart(wanted.iter().map(|wanted| (&wanted.key, wanted.sources.as_slice())), |_, _| false)
        };
        let file = "source = \"file:a.csv\"";
        let error = judge(file, "node = \"B\"\nsource = [\"coinbase\", \"file:./../x/../a.csv\"]");
        assert!(error.is_ok(), "no such folder, so no such file");
        let base = folder.path().display();
        for second in
            ["file:./a.csv".to_owned(), format!("file:{base}/a.csv"), format!("file:{base}/./a.csv")]
        {
            let error =
                judge(file, &format!("node = \"B\"\nsource = [\"coinbase\", \"{second}\"]")).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with("two nodes would get the same rows of one file"), "{text}");
            assert!(text.contains("a.csv, nodes: A, B)"), "{text}");
        }
        let with_column = format!("{file}\nsymbol_column = \"s\"");
        assert!(judge(&with_column, &format!("node = \"B\"\n{with_column}")).is_ok());
        assert!(judge(file, &format!("node = \"A\"\ninterval = \"5m\"\n{file}")).is_ok());
        assert!(judge(file, "node = \"B\"\nsource = \"file:b.csv\"").is_ok());
    }

    #[test]
    fn a_mistake_in_a_long_line_is_named_by_its_place() {
        let deep = format!("interval = \"1m\"\na = {}", "[".repeat(100_000));
        let error = parse(&deep, Path::new("")).unwrap_err();
        let cause = error.chain();
        assert!(cause.contains("line 2, column ") && cause.len() < 400, "{cause}");
        let unknown = format!("[[series]]\nnode = \"a\"\ninterval = \"1m\"\n{} = 1", "k".repeat(10_000));
        let cause = parse(&unknown, Path::new("")).unwrap_err().chain();
        assert!(cause.len() < 600 && cause.contains("unknown field"), "{cause}");
    }

    #[test]
    fn a_mistake_in_the_list_is_named() {
        for (list, message) in [
            ("interval = \"1m\"", "the list of series has no [[series]]"),
            ("series = []", "the list of series has no [[series]]"),
            ("x = 1\n[[series]]\nnode = \"a\"\ninterval = \"1m\"", "unknown field `x`"),
            ("[[series]]\nnode = \"a\"", "missing field `interval`"),
            ("[[series]]\nnode = \"a\"\ninterval = \"1M\"", "M would be a month"),
            ("[[series]]\nnode = \"\"\ninterval = \"1m\"", "a node id must not be empty (entry: 1)"),
            (
                "[[series]]\nnode = \"a\"\ninterval = \"1m\"\nsource = \"file:x\"\nts_unit = \"h\"",
                "use s, ms, us or ns (key: ts_unit, entry: 1)",
            ),
            ("[[series]", "the list of series is not valid"),
        ] {
            let error = parse(list, Path::new("")).unwrap_err().chain();
            assert!(error.contains(message), "{list}: {error}");
        }
    }

    #[test]
    fn a_symbol_is_told_from_a_node_id_with_equals_signs() {
        let nodes = ["a".to_owned(), "a=b".to_owned()];
        assert_eq!(symbol_of(&nodes, "--symbol", "a=b=c").unwrap(), ("a=b", "c".into()));
        assert_eq!(symbol_of(&nodes, "--symbol", "a=x").unwrap(), ("a", "x".into()));
        assert!(
            symbol_of(&nodes, "--symbol", "z=x").is_err()
                && symbol_of(&nodes, "--symbol", "a=b=").is_ok_and(|(node, _)| node == "a")
        );
    }
}
