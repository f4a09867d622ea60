//! `export`: the bars of a series as a file or on stdout, streamed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use qmtl_history_api::{Error, ErrorKind, ReadRequest};
use serde::Serialize;
use tempfile::NamedTempFile;

use super::{Asked, Context, Target, must_exist};
use crate::cli::{ExportArgs, ExportFormat};
use crate::console;
use crate::outcome::{Failure, Outcome, Result};
use crate::shapes::Series;
use crate::store::Store;
use crate::table_writer::{Output, TableWriter};
use crate::text;
use crate::waits::Waits;

/// The result, when the bars go to a file.
#[derive(Debug, Serialize)]
struct Exported {
    #[serde(flatten)]
    series: Series,
    rows: u64,
    out: String,
}

pub(crate) async fn run(args: &ExportArgs, context: &Context) -> Result<Outcome> {
    let to_stdout = STDOUT.iter().any(|name| args.out == Path::new(name));
    if to_stdout && context.console.is_json() {
        return Err(Error::invalid("--json and bars cannot share stdout: use --out FILE").into());
    }
    text::must_be_path(&args.out, "an export is written to a file, and not to an address: use --out FILE")?;
    // An address is cut at its commas, and nobody can tell what of the parts is a password.
    let columns = args.columns.as_deref().unwrap_or_default().join(",");
    if text::without_secrets(&columns) != columns {
        return Err(Error::invalid("--columns takes names of columns, not an address").into());
    }
    let asked = Asked::new(&args.read, context).await?;
    let format = format(args)?;
    if to_stdout && format != ExportFormat::Csv && context.console.is_terminal() {
        return Err(Error::invalid("a terminal cannot show this format: use --out FILE or a pipe").into());
    }
    let store = context.store().await?;
    let targets = asked.targets(&store, context).await?;
    let ([target], []) = (targets.list.as_slice(), targets.damaged.as_slice()) else {
        let error = Error::invalid("an export is of one series: use --node ID --interval 5m")
            .with("series", targets.list.len() + targets.damaged.len());
        return Err(Failure::from(error).hint("`qmtl-history ls` lists what the store has"));
    };
    must_exist(&*store, &target.key).await?;
    if to_stdout {
        copy(args, &store, target, (Box::new(BufWriter::new(console::stdout()?)), true)).await?;
        return Ok(Outcome::Done);
    }
    let destination = Destination::of(&args.out)?;
    let names = match &destination {
        Destination::File(path) => Some(path.clone()),
        // A file that somebody has open has a name as well.
        Destination::Stream => fs::canonicalize(&args.out).ok().filter(|path| path.is_file()),
    };
    if names.is_some_and(|path| store.would_hold(&path)) {
        let error = Error::invalid("the export would lie among a store's own files; write it elsewhere");
        return Err(error.with("out", args.out.display()).with("store", store.shown()).into());
    }
    let rows = match destination {
        Destination::File(path) => to_file(args, &store, target, &path).await?,
        Destination::Stream => {
            let what = format!("nobody reads {} yet", args.out.display());
            let out = Waits::new(&context.console).during(&what, open(args.out.clone())).await?;
            let copied = copy(args, &store, target, (Box::new(BufWriter::new(out)), true)).await;
            copied.map_err(|failure| match failure {
                // Whoever reads our stdout may have seen enough; what was named is to hold all of it.
                Failure::ClosedPipe => cannot_write(&args.out, io::ErrorKind::BrokenPipe.into()).into(),
                failure => failure,
            })?
        }
    };
    if context.console.is_json() {
        let out = args.out.display().to_string();
        context.console.json(&Exported { series: Series::from(&target.key), rows, out })?;
    } else {
        context.console.note(format!("{} written to {}", text::counted(rows, "row"), args.out.display()));
    }
    Ok(Outcome::Done)
}

/// The format that was asked for, or that the file's extension names.
fn format(args: &ExportArgs) -> Result<ExportFormat> {
    let extension = args.out.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match (args.format, extension.as_str()) {
        (Some(format), _) => Ok(format),
        (None, "csv" | "txt" | "") => Ok(ExportFormat::Csv),
        (None, "parquet" | "pq") => Ok(ExportFormat::Parquet),
        (None, "arrow" | "feather" | "ipc") => Ok(ExportFormat::Arrow),
        (None, _) => Err(Error::invalid("the extension names no format: use --format csv, parquet or arrow")
            .with("out", args.out.display())
            .into()),
    }
}

/// What stdout is called.
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// What `--out` names.
enum Destination {
    /// A regular file, or nothing yet, at this path behind all links.
    File(PathBuf),
    /// A device, a FIFO, a terminal: something that is written to and not replaced.
    Stream,
}

impl Destination {
    fn of(out: &Path) -> Result<Self> {
        match fs::metadata(out) {
            Ok(there) if there.is_dir() => {
                Err(Error::invalid("this is a folder: name a file in it").with("out", out.display()).into())
            }
            Ok(there) if !there.is_file() => Ok(Self::Stream),
            // A file that somebody has open, such as a shell that redirects our output.
            Ok(_) if is_open_file(out) => Ok(Self::Stream),
            _ => Ok(Self::File(behind_links(out).map_err(|e| cannot_write(out, e))?)),
        }
    }
}

/// Whether a path is that of a file which a process has open: `/dev/stdout`, `/dev/fd/3`, `/proc/self/fd/3`.
fn is_open_file(path: &Path) -> bool {
    let is_number = |name: &OsStr| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    let folder = path.parent().unwrap_or(path);
    let of_process =
        folder.ends_with("fd") && folder.starts_with("/proc") && folder.components().count() == 4;
    ["/dev/stdout", "/dev/stderr"].iter().any(|name| path == Path::new(name))
        || (path.file_name().is_some_and(is_number) && (folder == Path::new("/dev/fd") || of_process))
}

/// What the path leads to, whether it is there or not; an error where its links lead in a circle.
fn behind_links(out: &Path) -> io::Result<PathBuf> {
    /// As many links in a row as Linux follows.
    const LINKS: usize = 40;
    let mut path = out.to_owned();
    for _ in 0..=LINKS {
        let Ok(target) = fs::read_link(&path) else { return Ok(path) };
        // A relative one starts from where the link is.
        path = path.parent().map_or_else(|| target.clone(), |folder| folder.join(&target));
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

fn cannot_write(out: &Path, cause: io::Error) -> Error {
    Error::new(ErrorKind::Storage, "cannot write the export").with("out", out.display()).caused_by(cause)
}

/// Opens what is written to and not replaced. A FIFO takes as long as its reader needs to come.
async fn open(out: PathBuf) -> Result<File> {
    let opened = tokio::task::spawn_blocking(move || {
        // What a file that is open holds already stays.
        OpenOptions::new().append(true).open(&out).map_err(|e| cannot_write(&out, e))
    });
    Ok(opened.await.map_err(|e| Error::unexpected("the export was not opened").caused_by(e))??)
}

/// Writes beside the file and moves it there at the end, so that nobody ever sees half of it.
async fn to_file(args: &ExportArgs, store: &Store, target: &Target, path: &Path) -> Result<u64> {
    let at = |e: io::Error| cannot_write(&args.out, e);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the umask takes away what the user does not share.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let file: NamedTempFile = builder.prefix(".export-").tempfile_in(folder).map_err(at)?;
    let out = file.reopen().map_err(at)?;
    let rows = copy(args, store, target, (Box::new(BufWriter::new(out)), false)).await?;
    file.persist(path).map_err(|e| at(e.error))?;
    Ok(rows)
}

/// Streams the rows; the number of them.
async fn copy(
    args: &ExportArgs,
    store: &Store,
    target: &Target,
    (out, is_pipe): (Output, bool),
) -> Result<u64> {
    let mut request = ReadRequest::new(target.key.clone(), target.range);
    if let Some(columns) = &args.columns {
        request = request.with_columns(columns);
    }
    let mut stream = store.read_range(&request).await?;
    let mut writer = TableWriter::new((format(args)?, args.ts_format), &stream.schema(), out, is_pipe)?;
    let mut rows = 0;
    while let Some(batch) = stream.next_batch().await {
        let batch = batch?;
        writer.write(&batch)?;
        rows += batch.num_rows() as u64;
    }
    writer.finish()?;
    Ok(rows)
}
