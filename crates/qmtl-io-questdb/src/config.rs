//! Where a QuestDB is and how its tables are used.

use std::env;
use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use qmtl_history_api::{Error, Result};
use url::{Host, Url};

use crate::naming;

/// The port of the PostgreSQL wire.
const PG_PORT: u16 = 8812;
/// The port of HTTP: line protocol and exports.
const HTTP_PORT: u16 = 9000;

/// A password that no message shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a QuestDB is, and how its tables are used.
///
/// `Debug` and `Display` never show the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuestDbConfig {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: Secret,
    pub(crate) database: String,
    pub(crate) http_host: String,
    pub(crate) http_port: u16,
    pub(crate) table: Option<String>,
    pub(crate) prefix: String,
    pub(crate) add_columns: bool,
    pub(crate) nan_as_null: bool,
    pub(crate) allow_legacy: bool,
    pub(crate) connections: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) timeout: Duration,
}

impl QuestDbConfig {
    /// Reads `postgresql://user:pass@host:8812/qdb?http=9000&table=NAME`; `postgres://` and
    /// `questdb://` mean the same. What is left out is QuestDB's default: `admin`, `quest`, 8812,
    /// `qdb`, and HTTP at port 9000 of the same host.
    ///
    /// | parameter | meaning |
    /// |---|---|
    /// | `http=9000`, `http=host:9000` | where HTTP answers |
    /// | `table=NAME` | every series lives in this table, instead of a table for each node id |
    /// | `prefix=P` | leads the name of every table, so that stores share a database |
    /// | `add_columns=true` | a write may add columns to a table |
    /// | `nan_as_null=true` | NaN and infinities, which QuestDB cannot hold, are written as null |
    /// | `allow_legacy=true` | tables whose `ts` is a number of seconds may be written |
    /// | `connections=8`, `connect_timeout=5`, `timeout=60` | the pool's size, and seconds |
    ///
    /// `InvalidInput`, never repeating the password, for anything else.
    pub fn from_dsn(dsn: &str) -> Result<Self> {
        let url = Url::parse(dsn)
            .map_err(|e| Error::invalid("the address of QuestDB is not a URL").with("problem", e))?;
        if !["postgresql", "postgres", "questdb"].contains(&url.scheme()) {
            return Err(Error::invalid("an address of QuestDB starts with postgresql:// or questdb://")
                .with("scheme", url.scheme()));
        }
        if url.path().contains('@') || url.query().is_some_and(|query| query.contains('@')) {
            return Err(Error::invalid(
                "the address of QuestDB has an @ after its host: percent-encode the password (/ as %2F, ? as %3F, \
                 # as %23, @ as %40)",
            ));
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| Error::invalid("the address of QuestDB names no host"))?;
        let mut config = Self::new(host);
        config.port = url.port().unwrap_or(PG_PORT);
        if !url.username().is_empty() {
            config.user = decoded("user", url.username())?;
        }
        if let Some(password) = url.password() {
            config.password = Secret(decoded("password", password)?);
        }
        if let Some(database) = url.path().strip_prefix('/').filter(|path| !path.is_empty()) {
            config.database = decoded("database", database)?;
        }
        for (name, value) in url.query_pairs() {
            config = config.with_parameter(&name, &value)?;
        }
        config.validated()
    }

    /// Reads the address from `QMTL_QUESTDB_DSN`, else `QMTL_SEAMLESS_QUESTDB_DSN`; where it does
    /// not say where HTTP is, `QDB_CLIENT_CONF` (`http::addr=host:9000;…`) does.
    /// `NotFound` when neither variable is set.
    pub fn from_env() -> Result<Self> {
        let read = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        Self::from_variables(read)
    }

    fn from_variables(read: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let dsn =
            read("QMTL_QUESTDB_DSN").or_else(|| read("QMTL_SEAMLESS_QUESTDB_DSN")).ok_or_else(|| {
                Error::new(qmtl_history_api::ErrorKind::NotFound, "no QuestDB is named: set QMTL_QUESTDB_DSN")
            })?;
        let mut config = Self::from_dsn(&dsn)?;
        if let Some(client) = read("QDB_CLIENT_CONF")
            && !dsn.contains("http=")
        {
            (config.http_host, config.http_port) = client_address(&client)?;
        }
        Ok(config)
    }

    fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            port: PG_PORT,
            user: "admin".to_owned(),
            password: Secret("quest".to_owned()),
            database: "qdb".to_owned(),
            http_host: host.to_owned(),
            http_port: HTTP_PORT,
            table: None,
            prefix: String::new(),
            add_columns: false,
            nan_as_null: false,
            allow_legacy: false,
            connections: 8,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(60),
        }
    }

    /// Keeps every series in one table instead of a table for each node id.
    #[must_use]
    pub fn with_table(mut self, table: impl Into<String>) -> Self {
        self.table = Some(table.into());
        self
    }

    /// Leads the name of every table of this store, so that stores share a database.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Lets a write add the columns that its table lacks. They are null in older rows.
    #[must_use]
    pub fn with_add_columns(mut self, add: bool) -> Self {
        self.add_columns = add;
        self
    }

    /// Writes NaN and infinities as null, and says in the log how many, instead of refusing them.
    #[must_use]
    pub fn with_nan_as_null(mut self, nan_as_null: bool) -> Self {
        self.nan_as_null = nan_as_null;
        self
    }

    /// Lets tables be written whose `ts` is a number of seconds, as the Python original made them.
    #[must_use]
    pub fn with_allow_legacy(mut self, allow: bool) -> Self {
        self.allow_legacy = allow;
        self
    }

    /// The longest time that one statement may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The longest time that one statement may take: a minute unless it is set.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    fn with_parameter(mut self, name: &str, value: &str) -> Result<Self> {
        match name {
            "http" => (self.http_host, self.http_port) = http_address(value, &self.host)?,
            "table" => self.table = Some(value.to_owned()),
            "prefix" => value.clone_into(&mut self.prefix),
            "add_columns" => self.add_columns = flag(name, value)?,
            "nan_as_null" => self.nan_as_null = flag(name, value)?,
            "allow_legacy" => self.allow_legacy = flag(name, value)?,
            "connections" => self.connections = number(name, value)?,
            "connect_timeout" => self.connect_timeout = Duration::from_secs(number(name, value)?),
            "timeout" => self.timeout = Duration::from_secs(number(name, value)?),
            _ => {
                // What is no word may be part of a password that was not escaped.
                let is_word = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
                let name = if is_word { name } else { "***" };
                return Err(Error::invalid("the address of QuestDB has a parameter that nobody knows")
                    .with("parameter", format_args!("{name:?}"))
                    .with(
                        "known",
                        "http, table, prefix, add_columns, nan_as_null, allow_legacy, connections, \
                         connect_timeout, timeout",
                    ));
            }
        }
        Ok(self)
    }

    pub(crate) fn validated(self) -> Result<Self> {
        if let Some(table) = &self.table {
            naming::check_table(table)?;
        }
        if !self.prefix.is_empty() {
            naming::check_table(&self.prefix)?;
        }
        if self.connections == 0 || self.connections > 64 {
            return Err(Error::invalid("connections must be 1 to 64").with("connections", self.connections));
        }
        Ok(self)
    }
}

/// Prints `questdb://host:8812/qdb`: enough to know which server, and no secret.
impl fmt::Display for QuestDbConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "questdb://{}:{}/{}", self.host, self.port, self.database)?;
        match &self.table {
            Some(table) => write!(f, "?table={table}"),
            None if self.prefix.is_empty() => Ok(()),
            None => write!(f, "?prefix={}", self.prefix),
        }
    }
}

fn decoded(what: &'static str, text: &str) -> Result<String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(|text| text.into_owned())
        .map_err(|_| Error::invalid("a part of the address of QuestDB is not UTF-8").with("part", what))
}

fn flag(name: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Error::invalid("a parameter of QuestDB's address must be true or false")
            .with("parameter", name)
            .with("value", format_args!("{value:?}"))),
    }
}

fn number<N: std::str::FromStr>(name: &str, value: &str) -> Result<N> {
    value.parse().map_err(|_| {
        Error::invalid("a parameter of QuestDB's address must be a whole number")
            .with("parameter", name)
            .with("value", format_args!("{value:?}"))
    })
}

/// `9000`, `host`, `host:9000` or `[::1]:9000`.
fn http_address(value: &str, host: &str) -> Result<(String, u16)> {
    if let Ok(port) = value.parse() {
        return Ok((host.to_owned(), port));
    }
    let fault = || {
        // It may hold a password, where somebody wrote a whole address.
        let shown = if value.contains('@') { "***" } else { value };
        Error::invalid("http must be a port or host:port of QuestDB").with("http", format_args!("{shown:?}"))
    };
    let url = Url::parse(&format!("http://{value}")).map_err(|_| fault())?;
    match url.host() {
        Some(Host::Domain(_) | Host::Ipv4(_) | Host::Ipv6(_))
            if url.path() == "/" && url.username().is_empty() =>
        {
            let port = url.port().unwrap_or(if value.ends_with(":80") { 80 } else { HTTP_PORT });
            Ok((url.host_str().unwrap_or_default().to_owned(), port))
        }
        _ => Err(fault()),
    }
}

/// The address in a configuration of QuestDB's own clients, `http::addr=host:9000;username=…;`.
fn client_address(text: &str) -> Result<(String, u16)> {
    let fault = |message: &str| Error::invalid(message).with("variable", "QDB_CLIENT_CONF");
    let rest = text.strip_prefix("http::").ok_or_else(|| {
        fault("only http:: is supported in a configuration of QuestDB's clients; the open server has no TLS")
    })?;
    let address = rest.split(';').find_map(|pair| pair.strip_prefix("addr="));
    let address = address.ok_or_else(|| fault("a configuration of QuestDB's clients must have addr="))?;
    http_address(address, address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(dsn: &str) -> QuestDbConfig {
        QuestDbConfig::from_dsn(dsn).unwrap()
    }

    #[test]
    fn the_guides_address_is_read_and_the_rest_is_questdbs_default() {
        let config = parsed("postgresql://user:pass@localhost:8812/qdb");
        assert_eq!((config.user.as_str(), config.password.0.as_str()), ("user", "pass"));
        assert_eq!((config.port, config.http_host.as_str(), config.http_port), (8812, "localhost", 9000));
        assert_eq!(parsed("questdb://localhost").database, "qdb");
        assert_eq!(parsed("questdb://localhost").user, "admin");
        let odd = parsed("questdb://a%40b:p%2Fw%3A@h:1/my%20db?http=[::1]:2&table=bars&add_columns=true");
        assert_eq!(
            (odd.user.as_str(), odd.password.0.as_str(), odd.database.as_str()),
            ("a@b", "p/w:", "my db")
        );
        assert_eq!((odd.http_host.as_str(), odd.http_port, odd.table.as_deref()), ("[::1]", 2, Some("bars")));
        assert!(odd.add_columns && !odd.nan_as_null);
        assert_eq!(parsed("questdb://h?http=web:9001").http_host, "web");
        assert_eq!(parsed("questdb://h?http=9001").http_port, 9001);
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is_repeated() {
        for (dsn, named) in [
            ("mysql://u:canary@h/x", "mysql"),
            ("questdb://u:canary@h/x?tabel=y", "tabel"),
            ("questdb://u:canary@h/x?table=a/b", "a/b"),
            ("questdb://u:canary@h/x?connections=0", "connections"),
            ("questdb://u:canary@h/x?timeout=soon", "soon"),
            ("questdb://u:canary@h/x?add_columns=perhaps", "perhaps"),
            ("questdb://u:canary@h/x?http=a/b", "a/b"),
            ("questdb:///x", "host"),
            ("questdb//u:canary@h", "URL"),
        ] {
            let error = QuestDbConfig::from_dsn(dsn).unwrap_err();
            assert!(error.to_string().contains(named), "{dsn}: {error}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
        let config = parsed("questdb://u:canary@h:1/x?prefix=test_");
        assert!(!format!("{config:?} {config}").contains("canary"));
        assert_eq!(config.to_string(), "questdb://h:1/x?prefix=test_");
    }

    #[test]
    fn the_environment_names_the_server_and_where_http_is() {
        let from = |variables: &[(&str, &str)]| {
            let variables: Vec<_> = variables.to_vec();
            QuestDbConfig::from_variables(move |name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let old = ("QMTL_SEAMLESS_QUESTDB_DSN", "postgresql://u:p@old:8812/qdb");
        let new = ("QMTL_QUESTDB_DSN", "postgresql://u:p@new:8812/qdb");
        let client = ("QDB_CLIENT_CONF", "http::addr=web:9999;username=x;password=canary;");
        assert_eq!(from(&[old]).unwrap().host, "old");
        assert_eq!(from(&[old, new]).unwrap().host, "new");
        let both = from(&[new, client]).unwrap();
        assert_eq!((both.http_host.as_str(), both.http_port), ("web", 9999));
        let given = ("QMTL_QUESTDB_DSN", "postgresql://u:p@new:8812/qdb?http=7");
        assert_eq!(from(&[given, client]).unwrap().http_port, 7);
        assert!(from(&[]).unwrap_err().to_string().contains("QMTL_QUESTDB_DSN"));
        let error = from(&[new, ("QDB_CLIENT_CONF", "tcp::addr=x;password=canary;")]).unwrap_err();
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}
