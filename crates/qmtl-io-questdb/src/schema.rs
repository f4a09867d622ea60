//! Tables: what QuestDB says of one, how one is made, and which Arrow types its columns hold.

use qmtl_history_api::arrow_schema::{DataType, SchemaRef, TimeUnit};
use qmtl_history_api::{Error, ErrorKind, Interval, Result, SeriesKey, TimeRange, frame};
use tokio_postgres::types::Type;

use crate::naming::{literal, quoted};
use crate::transport::{Statement, Wire};

/// The column that names a row's node.
pub(crate) const NODE_ID: &str = "node_id";
/// The column of a row's interval, in seconds.
pub(crate) const INTERVAL: &str = "interval";

/// What a column of QuestDB holds, as far as it concerns us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Double,
    Float,
    Long,
    Int,
    Boolean,
    Varchar,
    Timestamp,
    /// Read, never made by us: it has no null.
    Short,
    /// Read, never made by us: it has no null.
    Byte,
    Date,
    /// Read as text: SYMBOL, STRING, CHAR, UUID, IPv4.
    Text,
    /// Not read.
    Other,
}

impl Kind {
    fn of(name: &str) -> Self {
        match name {
            "DOUBLE" => Self::Double,
            "FLOAT" => Self::Float,
            "LONG" => Self::Long,
            "INT" => Self::Int,
            "BOOLEAN" => Self::Boolean,
            "VARCHAR" => Self::Varchar,
            "TIMESTAMP" => Self::Timestamp,
            "SHORT" => Self::Short,
            "BYTE" => Self::Byte,
            "DATE" => Self::Date,
            "SYMBOL" | "STRING" | "CHAR" | "UUID" | "IPv4" => Self::Text,
            _ => Self::Other,
        }
    }

    /// The column that a payload of this Arrow type is written into.
    pub(crate) fn for_type(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Float64 => Self::Double,
            DataType::Float32 => Self::Float,
            DataType::Int64 => Self::Long,
            DataType::Int32 => Self::Int,
            DataType::Boolean => Self::Boolean,
            DataType::Utf8 => Self::Varchar,
            other if *other == frame::ts_type() => Self::Timestamp,
            _ => return None,
        })
    }

    /// What the column is read as.
    pub(crate) fn data_type(self) -> Option<DataType> {
        Some(match self {
            Self::Double => DataType::Float64,
            Self::Float => DataType::Float32,
            Self::Long => DataType::Int64,
            Self::Int => DataType::Int32,
            Self::Short => DataType::Int16,
            Self::Byte => DataType::Int8,
            Self::Boolean => DataType::Boolean,
            Self::Varchar | Self::Text => DataType::Utf8,
            Self::Timestamp => frame::ts_type(),
            Self::Date => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            Self::Other => return None,
        })
    }

    /// What a column that is made by us is over the PostgreSQL wire.
    pub(crate) fn wire_type(self) -> Option<Type> {
        Some(match self {
            Self::Double => Type::FLOAT8,
            Self::Float => Type::FLOAT4,
            Self::Long => Type::INT8,
            Self::Int => Type::INT4,
            Self::Boolean => Type::BOOL,
            Self::Timestamp => Type::TIMESTAMP,
            Self::Varchar => Type::VARCHAR,
            Self::Short | Self::Byte | Self::Date | Self::Text | Self::Other => return None,
        })
    }

    fn ddl(self) -> &'static str {
        match self {
            Self::Double => "DOUBLE",
            Self::Float => "FLOAT",
            Self::Long => "LONG",
            Self::Int => "INT",
            Self::Boolean => "BOOLEAN",
            Self::Timestamp => "TIMESTAMP",
            _ => "VARCHAR",
        }
    }
}

/// Whether every payload column of this type comes back bit for bit. Integers are written too,
/// except for the smallest one, which is QuestDB's null: so not every column of them is held.
pub(crate) fn holds(data_type: &DataType) -> bool {
    !matches!(Kind::for_type(data_type), None | Some(Kind::Long | Kind::Int))
}

/// A payload column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// What QuestDB calls its type.
    pub(crate) type_name: String,
}

/// How a table tells time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    /// `ts` is the designated timestamp.
    Designated,
    /// `ts` is a number of seconds, as in tables of the Python original.
    Seconds,
}

/// What QuestDB says of a table that can hold series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) time: Time,
    /// Rows of one time, node and interval replace each other.
    pub(crate) dedup: bool,
    pub(crate) columns: Vec<Column>,
}

impl Table {
    /// Asks the server; `None` when there is no such table.
    pub(crate) async fn load(wire: &Wire, name: &str) -> Result<Option<Self>> {
        let sql = format!(
            "select \"column\", \"type\", designated, upsertKey from table_columns({})",
            literal(name)
        );
        let statement =
            Statement { doing: "read the columns of a table", table: name, sql: &sql, types: &[] };
        let rows = match wire.query(statement, &[]).await {
            Ok(rows) => rows,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let facts: Vec<_> = rows
            .iter()
            .map(|row| Fact {
                name: row.get(0),
                type_name: row.get(1),
                designated: row.get(2),
                key: row.get(3),
            })
            .collect();
        Self::of(name, &facts).map(Some)
    }

    fn of(name: &str, facts: &[Fact]) -> Result<Self> {
        let find = |column: &str| facts.iter().find(|fact| fact.name.eq_ignore_ascii_case(column));
        let fault =
            |message: &str, column: &str| Error::schema(message).with("table", name).with("column", column);
        let ts = find(frame::TS).ok_or_else(|| fault("the table has no time column", frame::TS))?;
        let time = match (Kind::of(&ts.type_name), ts.designated) {
            (Kind::Timestamp, true) => Time::Designated,
            (Kind::Long | Kind::Int, false) => Time::Seconds,
            _ => {
                return Err(fault(
                    "the time column is neither the designated TIMESTAMP nor a number of seconds",
                    frame::TS,
                )
                .with("type", &ts.type_name));
            }
        };
        for column in [NODE_ID, INTERVAL] {
            find(column).ok_or_else(|| fault("the table cannot hold series: it lacks a column", column))?;
        }
        let interval = find(INTERVAL).map(|fact| Kind::of(&fact.type_name));
        if !matches!(interval, Some(Kind::Long | Kind::Int)) {
            return Err(fault("the interval must be a whole number of seconds", INTERVAL));
        }
        let dedup =
            [frame::TS, NODE_ID, INTERVAL].iter().all(|column| find(column).is_some_and(|fact| fact.key))
                && facts.iter().filter(|fact| fact.key).count() == 3;
        let payload = facts.iter().filter(|fact| !is_reserved(&fact.name));
        let columns = payload
            .map(|fact| Column {
                name: fact.name.clone(),
                kind: Kind::of(&fact.type_name),
                type_name: fact.type_name.clone(),
            })
            .collect();
        Ok(Self { name: name.to_owned(), time, dedup, columns })
    }

    /// The stored columns of the names that were asked for, or all of them.
    pub(crate) fn projected(&self, key: &SeriesKey, names: Option<&[String]>) -> Result<Vec<Column>> {
        let wanted = frame::project(key, &schema_of(&self.columns), names)?;
        let named = |name: &str| self.columns.iter().find(|column| column.name == name).cloned();
        let chosen: Vec<_> = wanted.fields().iter().filter_map(|field| named(field.name())).collect();
        match chosen.iter().find(|column| column.kind == Kind::Other) {
            None => Ok(chosen),
            Some(column) => Err(Error::new(
                ErrorKind::Unsupported,
                "a column has a type that cannot be read; name the columns that are wanted",
            )
            .with("series", key)
            .with("table", &self.name)
            .with("column", &column.name)
            .with("type", &column.type_name)),
        }
    }

    /// The column of this name; QuestDB does not tell case apart.
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name.to_lowercase() == name.to_lowercase())
    }

    /// The rows of a series in a range, as SQL with `$1` to `$4`.
    pub(crate) fn filter(&self) -> String {
        format!("\"{NODE_ID}\" = $1 and \"{INTERVAL}\" = $2 and \"ts\" >= $3 and \"ts\" < $4")
    }

    /// The types of [`Table::filter`]'s values.
    pub(crate) fn filter_types(&self) -> [Type; 4] {
        let time = match self.time {
            Time::Designated => Type::TIMESTAMP,
            Time::Seconds => Type::INT8,
        };
        [Type::VARCHAR, Type::INT8, time.clone(), time]
    }

    /// `ts` and these columns, as they are read over either transport.
    pub(crate) fn select_list(&self, columns: &[Column]) -> String {
        let ts = match self.time {
            Time::Designated => "\"ts\"",
            Time::Seconds => "\"ts\"::long",
        };
        columns.iter().fold(ts.to_owned(), |list, column| {
            let name = quoted(&column.name);
            let cast = if column.kind == Kind::Text { "::varchar" } else { "" };
            format!("{list}, {name}{cast}")
        })
    }
}

/// A row of `table_columns`.
struct Fact {
    name: String,
    type_name: String,
    designated: bool,
    key: bool,
}

/// Whether a column is ours in every table, and no payload.
pub(crate) fn is_reserved(name: &str) -> bool {
    [frame::TS, NODE_ID, INTERVAL].iter().any(|column| name.eq_ignore_ascii_case(column))
}

/// The schema of `ts` and these columns.
pub(crate) fn schema_of(columns: &[Column]) -> SchemaRef {
    frame::schema_of(
        columns.iter().filter_map(|column| Some((column.name.as_str(), column.kind.data_type()?))),
    )
}

/// The statement that makes a table for bars of this interval, or for plain events.
pub(crate) fn create(name: &str, interval: Interval, columns: &[Column], dedup: bool) -> String {
    let payload: String =
        columns.iter().map(|column| format!(", {} {}", quoted(&column.name), column.kind.ddl())).collect();
    let keys = if dedup { " DEDUP UPSERT KEYS(ts, node_id, interval)" } else { "" };
    format!(
        "CREATE TABLE IF NOT EXISTS {} (ts TIMESTAMP, {NODE_ID} SYMBOL CAPACITY 256, {INTERVAL} LONG{payload}) \
         TIMESTAMP(ts) PARTITION BY {} WAL{keys}",
        quoted(name),
        partition(interval)
    )
}

/// The statement that adds a column.
pub(crate) fn add_column(table: &str, column: &Column) -> String {
    format!(
        "ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}",
        quoted(table),
        quoted(&column.name),
        column.kind.ddl()
    )
}

/// A partition holds some ten thousand bars: enough to scan fast, few enough to rewrite when an
/// old hole is filled.
fn partition(interval: Interval) -> &'static str {
    match interval.as_secs() {
        ..10 => "DAY",
        10..1_800 => "MONTH",
        _ => "YEAR",
    }
}

/// A range in the seconds of a [`Time::Seconds`] table: the whole seconds inside.
pub(crate) fn seconds_of(range: TimeRange) -> (i64, i64) {
    let ceil = |micros: i64| micros.div_euclid(1_000_000) + i64::from(micros.rem_euclid(1_000_000) > 0);
    (ceil(range.start().as_micros()), ceil(range.end().as_micros()))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn fact(name: &str, type_name: &str, designated: bool, key: bool) -> Fact {
        Fact { name: name.to_owned(), type_name: type_name.to_owned(), designated, key }
    }

    #[test]
    fn a_table_of_ours_and_one_of_the_original_are_told_apart() {
        let ours = [
            fact("ts", "TIMESTAMP", true, true),
            fact("node_id", "SYMBOL", false, true),
            fact("interval", "LONG", false, true),
            fact("close", "DOUBLE", false, false),
        ];
        let table = Table::of("bars", &ours).unwrap();
        assert_eq!((table.time, table.dedup, table.columns.len()), (Time::Designated, true, 1));
        let original = [
            fact("ts", "LONG", false, false),
            fact("node_id", "STRING", false, false),
            fact("interval", "INT", false, false),
            fact("close", "DOUBLE", false, false),
        ];
        let table = Table::of("bars", &original).unwrap();
        assert_eq!((table.time, table.dedup), (Time::Seconds, false));
    }

    #[test]
    fn a_table_that_cannot_hold_series_is_named_with_what_it_lacks() {
        let facts = [fact("ts", "TIMESTAMP", true, false), fact("symbol", "SYMBOL", false, false)];
        let error = Table::of("trades", &facts).unwrap_err().to_string();
        assert!(error.contains("trades") && error.contains("node_id"), "{error}");
        let error = Table::of("trades", &[fact("ts", "TIMESTAMP_NS", true, false)]).unwrap_err().to_string();
        assert!(error.contains("TIMESTAMP_NS"), "{error}");
    }

    #[test]
    fn a_table_is_made_with_quoted_names_and_keys() {
        let close = Column { name: "x; drop".to_owned(), kind: Kind::Double, type_name: String::new() };
        expect![[r#"CREATE TABLE IF NOT EXISTS "bars" (ts TIMESTAMP, node_id SYMBOL CAPACITY 256, interval LONG, "x; drop" DOUBLE) TIMESTAMP(ts) PARTITION BY MONTH WAL DEDUP UPSERT KEYS(ts, node_id, interval)"#]]
            .assert_eq(&create("bars", Interval::MINUTE, &[close], true));
    }

    #[test]
    fn seconds_are_those_inside_the_range() {
        let at = |micros| qmtl_history_api::Timestamp::from_micros(micros).unwrap();
        let range = |a, b| seconds_of(TimeRange::new(at(a), at(b)).unwrap());
        assert_eq!(range(60_000_000, 120_000_000), (60, 120));
        assert_eq!(range(60_000_001, 119_999_999), (61, 120));
    }
}
