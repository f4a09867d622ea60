//! An answer before it is sent: status, headers and the whole body.

use std::fmt::Write as _;
use std::num::NonZeroI32;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use lexical_core::WriteFloatOptions;
use lexical_core::format::STANDARD;

/// An answer in full.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
    /// Candles in the body.
    pub(crate) rows: usize,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, headers: Vec::new(), body: body.into(), rows: 0 }
    }

    pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::new(status, "application/json;charset=UTF-8", body)
    }

    /// The page that a proxy in front of an exchange shows.
    pub(crate) fn html(status: StatusCode, title: &str) -> Self {
        let body = format!("<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n");
        Self::new(status, "text/html", body)
    }

    pub(crate) fn with_rows(mut self, rows: usize) -> Self {
        self.rows = rows;
        self
    }

    /// Adds a header; a value that cannot be one is left out.
    pub(crate) fn with_header(mut self, name: HeaderName, value: &impl ToString) -> Self {
        self.headers.extend(HeaderValue::try_from(value.to_string()).ok().map(|value| (name, value)));
        self
    }
}

/// How rows are written: as they should be, or wrong in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Style {
    #[default]
    Right,
    WrongTimeUnit,
    HugeNumbers,
}

impl Style {
    /// Appends the shortest decimal that reads back as the same double, never with an exponent.
    pub(crate) fn number(self, out: &mut String, number: f64) {
        if self == Self::HugeNumbers {
            return push(out, format_args!("1{:0400}", 0));
        }
        let mut digits = [0; PLAIN.buffer_size_const::<f64, STANDARD>()];
        let digits = lexical_core::write_with_options::<f64, STANDARD>(number, &mut digits, &PLAIN);
        out.push_str(std::str::from_utf8(digits).expect("digits are ASCII"));
    }
}

/// No exponent for any double, and no `.0` at the end.
const PLAIN: WriteFloatOptions = WriteFloatOptions::builder()
    .positive_exponent_break(NonZeroI32::new(400))
    .negative_exponent_break(NonZeroI32::new(-400))
    .trim_floats(true)
    .build_strict();

/// Appends to a string, which cannot fail.
pub(crate) fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes every text");
}
