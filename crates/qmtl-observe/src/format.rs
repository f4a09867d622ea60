//! Log layers for programs: lines for people, `EVENT {json}` lines, JSON lines.

use std::fmt;
use std::str::FromStr;

use qmtl_history_api::Error;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// For people: time, level, message, fields.
    #[default]
    Human,
    /// The message, which is the event's name, a blank, and the fields as one JSON object.
    Event,
    /// One JSON object a line with `timestamp`, `level`, `message`, `target` and the fields.
    Json,
}

impl LogFormat {
    /// A layer that writes such lines to `writer`; `ansi` colours those for people.
    pub fn layer<S, W>(self, writer: W, ansi: bool) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(ansi);
        match self {
            Self::Human => lines.with_target(false).boxed(),
            Self::Event => lines.event_format(EventLines).boxed(),
            Self::Json => {
                lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
            }
        }
    }
}

/// Reads `human`, `event` or `json`.
impl FromStr for LogFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "human" => Ok(Self::Human),
            "event" => Ok(Self::Event),
            "json" => Ok(Self::Json),
            _ => Err(Error::invalid("not a log format: use human, event or json")
                .with("value", format_args!("{text:?}"))),
        }
    }
}

/// Formats an event as `EVENT {json}`, the fields in the order of the event.
struct EventLines;

impl<S, N> FormatEvent<S, N> for EventLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        // A message is free text outside the lifecycle events: escaped, so that a line stays a line.
        for c in line.message.chars() {
            if c.is_control() { write!(writer, "{}", c.escape_default())? } else { writer.write_char(c)? }
        }
        for (index, (name, value)) in line.fields.iter().enumerate() {
            let lead = if index == 0 { " {" } else { ", " };
            write!(writer, "{lead}{}: {value}", Value::from(*name))?;
        }
        writer.write_str(if line.fields.is_empty() { " {}\n" } else { "}\n" })
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.fields.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.push((field.name(), value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.push((field.name(), value.into()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.push((field.name(), value.into()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.fields.push((field.name(), text.into()));
        }
    }
}
