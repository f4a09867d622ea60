//! The one place where this program writes to stdout and stderr.

use std::io::{self, IsTerminal, Write};

use indicatif::{MultiProgress, ProgressDrawTarget};
use qmtl_history_api::{Clock, Error, ErrorKind};
use qmtl_observe::TokioClock;
use qmtl_observe::format::LogFormat;
use serde::Serialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::{ColorWhen, Global};
use crate::outcome::{self, ErrorReport, Failure, Outcome, Result};
use crate::text;

/// Results go to stdout; progress, notes, logs and errors to stderr.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    json: bool,
    quiet: bool,
    /// Whether stdout takes colours.
    color: bool,
    /// Whether stderr does.
    color_err: bool,
    /// Whether shades and lines beyond ASCII can be shown.
    unicode: bool,
    /// How log lines are written.
    log_format: LogFormat,
    progress: MultiProgress,
}

/// What a piece of text is; the terminal's theme decides how it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A heading or a command to type.
    Bold,
    /// Of lesser weight.
    Dim,
    /// Well.
    Green,
    /// Worth a look.
    Yellow,
    /// Wrong.
    Red,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "31",
        }
    }
}

/// Prints an object on one line of stdout.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value)
        .map_err(|e| Error::unexpected("cannot write the result as JSON").caused_by(e))?;
    print_line(&text::json(&text))
}

fn print_line(text: &str) -> Result<()> {
    print(format!("{text}\n").as_bytes())
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut out = stdout()?.lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| Failure::output("stdout", e))
}

/// Tells why arguments do not parse, on stderr; as a log line where those are JSON.
pub(crate) fn refused(error: &clap::Error, report: &ErrorReport, log_is_json: bool) {
    if log_is_json {
        let _ = io::stderr().write_all(log_line("ERROR", report.message(), Some(report)).as_bytes());
        return;
    }
    let text = error.render();
    let text = if has_color(io::stderr().is_terminal()) { text.ansi().to_string() } else { text.to_string() };
    // Nobody is left to be told when stderr is gone.
    let _ = write!(io::stderr(), "{}", outcome::bounded(text::without_secrets(&text)));
    if let Some(hint) = report.hint() {
        let _ = writeln!(io::stderr(), "  hint: {hint}");
    }
}

/// Prints help or the version; how the program ends.
pub(crate) fn answered(asked: &clap::Error) -> Outcome {
    let printed = stdout().and_then(|_| asked.print().map_err(|e| Failure::output("stdout", e)));
    if let Err(Failure::Error { error, outcome, .. }) = printed {
        let _ = writeln!(io::stderr(), "error: {}", outcome::chain(&error));
        return outcome;
    }
    Outcome::Done
}

/// Where results go; an error where the program was started without.
pub(crate) fn stdout() -> Result<io::Stdout> {
    if is_closed() {
        return Err(Error::new(ErrorKind::Storage, "cannot write: stdout is closed").into());
    }
    Ok(io::stdout())
}

/// The result of telling what was done, where the work itself is not on stdout: that there is none is no failure. A
/// supervisor's /dev/null may look the same.
pub(crate) fn told_or_not(printed: Result<()>) -> Result<()> {
    if is_closed() { Ok(()) } else { outcome::read_or_not(printed) }
}

/// Whether the program was started without a stdout. Rust opens /dev/null in its place, for reading and writing, where
/// results would vanish without an error; whoever wants that opens it for writing alone.
#[cfg(unix)]
fn is_closed() -> bool {
    use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, stat};

    let out = io::stdout();
    let (Ok(own), Ok(null), Ok(flags)) = (fstat(&out), stat("/dev/null"), fcntl_getfl(&out)) else {
        return false;
    };
    let is_null =
        FileType::from_raw_mode(own.st_mode) == FileType::CharacterDevice && own.st_rdev == null.st_rdev;
    is_null && flags.contains(OFlags::RDWR)
}

#[cfg(not(unix))]
fn is_closed() -> bool {
    false
}

/// Whether a terminal, or what is none, takes colours, as far as its user says.
fn has_color(is_terminal: bool) -> bool {
    let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    is_terminal && !is_refused && !is_dumb()
}

/// Whether the terminal can do nothing but take lines.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// A log line of JSON, with its end.
fn log_line(level: &'static str, message: &str, report: Option<&ErrorReport>) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        timestamp: String,
        level: &'static str,
        message: &'a str,
        target: &'static str,
        #[serde(flatten)]
        report: Option<&'a ErrorReport>,
    }
    let timestamp = TokioClock::new().now().to_string();
    let line = Line { timestamp, level, message, target: "qmtl_history", report };
    // A text and what an error report holds are JSON always.
    let line = serde_json::to_string(&line).unwrap_or_default();
    format!("{}\n", text::json(&line))
}

fn paint(color: bool, style: Style, text: &str) -> String {
    if color { format!("\u{1b}[{}m{text}\u{1b}[0m", style.code()) } else { text.to_owned() }
}

impl Console {
    /// Looks at the flags, the terminal and the environment.
    #[must_use]
    pub(crate) fn new(global: &Global) -> Self {
        let color = |is_terminal: bool| match global.color {
            ColorWhen::Auto => has_color(is_terminal),
            ColorWhen::Always => true,
            ColorWhen::Never => false,
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(std::env::var_os);
        let utf8 = locale.is_some_and(|name| {
            let name = name.to_string_lossy().to_ascii_lowercase();
            name.contains("utf-8") || name.contains("utf8")
        });
        let silent = global.quiet || !io::stderr().is_terminal() || is_dumb();
        Self {
            json: global.json,
            quiet: global.quiet,
            color: color(io::stdout().is_terminal()),
            color_err: color(io::stderr().is_terminal()),
            log_format: global.log_format,
            unicode: (utf8 || cfg!(windows)) && color(io::stdout().is_terminal()),
            progress: MultiProgress::with_draw_target(if silent {
                ProgressDrawTarget::hidden()
            } else {
                ProgressDrawTarget::stderr()
            }),
        }
    }

    /// Whether results are printed as JSON.
    #[must_use]
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether log lines are read by programs, which do not read notes.
    #[must_use]
    pub(crate) fn logs_for_machines(&self) -> bool {
        !matches!(self.log_format, LogFormat::Human)
    }

    /// Whether people read stdout directly.
    #[must_use]
    pub(crate) fn is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Whether shades and colours can be used on stdout.
    #[must_use]
    pub(crate) fn is_rich(&self) -> bool {
        self.unicode
    }

    /// Where progress bars are drawn.
    #[must_use]
    pub(crate) fn bars(&self) -> &MultiProgress {
        &self.progress
    }

    /// `text` in a style, when stdout takes colours.
    #[must_use]
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        paint(self.color, style, text)
    }

    /// Prints a line of a result for people; nothing with `--json`.
    pub(crate) fn line(&self, text: impl AsRef<str>) -> Result<()> {
        if self.json { Ok(()) } else { self.progress.suspend(|| print_line(&text::line(text.as_ref()))) }
    }

    /// Prints a result for machines.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<()> {
        self.progress.suspend(|| print_json(value))
    }

    /// Prints bytes as they are: a script, a file.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        print(bytes)
    }

    /// Tells what goes on, on stderr; nothing with `--quiet`.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.say("INFO", "", text.as_ref(), None);
        }
    }

    /// Tells what deserves attention, on stderr.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        self.say("WARN", "warning: ", text.as_ref(), Some(Style::Yellow));
    }

    /// Tells of something that failed beside what went well, on stderr.
    pub(crate) fn error(&self, text: impl AsRef<str>) {
        self.say("ERROR", "error: ", text.as_ref(), Some(Style::Red));
    }

    /// Reports a failure: for people on stderr, with `--json` as an object on stdout besides.
    pub(crate) fn fail(&self, failure: &Failure) {
        let Failure::Error { error, hint, outcome } = failure else { return };
        let report = ErrorReport::new(error, hint.as_deref(), *outcome);
        if matches!(self.log_format, LogFormat::Json) {
            self.log("ERROR", report.message(), Some(&report));
        } else {
            for (label, text) in report.lines() {
                let style = if label == "error" { Style::Red } else { Style::Bold };
                self.say("ERROR", &format!("{label}: "), text, Some(style));
            }
        }
        if self.json {
            // A reader that has gone cannot be told so.
            let _ = self.json(&report);
        }
    }

    fn say(&self, level: &'static str, label: &str, text: &str, style: Option<Style>) {
        if matches!(self.log_format, LogFormat::Json) {
            return self.log(level, &text::without_secrets(text), None);
        }
        let label = style.map_or_else(String::new, |style| paint(self.color_err, style, label));
        // Nobody is left to be told when stderr is gone.
        let text = text::for_terminal(&text::without_secrets(text));
        let _ = self.progress.suspend(|| writeln!(io::stderr(), "{label}{text}"));
    }

    /// Says something as a log line of JSON, among which no other text must stand; whatever is logged is no note.
    fn log(&self, level: &'static str, message: &str, report: Option<&ErrorReport>) {
        let line = log_line(level, message, report);
        let _ = self.progress.suspend(|| io::stderr().write_all(line.as_bytes()));
    }

    /// Sends log lines to stderr, above the progress bars. Only the first call of a process counts.
    pub(crate) fn start_logging(&self, global: &Global) {
        let level = match global.verbose {
            // What the lifecycle events tell of failures stands in the results.
            0 => "warn,qmtl::lifecycle=off",
            1 => "qmtl=info,info",
            2 => "qmtl=debug,info",
            _ => "trace",
        };
        let wish = std::env::var("RUST_LOG").ok().filter(|wish| global.verbose == 0 && !wish.is_empty());
        let filter = match wish.map(|wish| EnvFilter::builder().parse(wish)) {
            Some(Ok(filter)) => filter,
            Some(Err(_)) => {
                self.warn("RUST_LOG is no filter of log lines and is ignored; write levels and targets as in qmtl=debug,info");
                EnvFilter::new(level)
            }
            None => EnvFilter::new(level),
        };
        let (progress, is_json) = (self.progress.clone(), self.logs_for_machines());
        let writer = move || AboveBars { progress: progress.clone(), is_json };
        let lines = global.log_format.layer(writer, self.color_err);
        // A second subscriber in one process is a test's, whose first one stays.
        let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    }
}

/// Writes to stderr without tearing the progress bars.
struct AboveBars {
    progress: MultiProgress,
    is_json: bool,
}

impl Write for AboveBars {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let line = outcome::in_own_words(&String::from_utf8_lossy(buffer));
        let line = if self.is_json { text::json(&line) } else { text::line(&line) };
        self.progress.suspend(|| io::stderr().write_all(line.as_bytes())).map(|()| buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
