//! `export`: the bars of a series as a file or on stdout, streamed.

use std::io::{self, BufWriter};
use std::path::Path;

use qmtl_history_api::{Error, ErrorKind, ReadRequest};
use serde::Serialize;
use tempfile::NamedTempFile;

use super::{Asked, Context, Target, must_exist};
use crate::cli::{ExportArgs, ExportFormat};
use crate::outcome::{Failure, Outcome, Result};
use crate::shapes::Series;
use crate::store::Store;
use crate::table_writer::{Output, TableWriter};
use crate::text;

/// The result, when the bars go to a file.
#[derive(Debug, Serialize)]
struct Exported {
    #[serde(flatten)]
    series: Series,
    rows: u64,
    out: String,
}

pub(crate) async fn run(args: &ExportArgs, context: &Context) -> Result<Outcome> {
    let to_stdout = args.out == Path::new("-");
    if to_stdout && context.console.is_json() {
        return Err(Error::invalid("--json and bars cannot share stdout: use --out FILE").into());
    }
    let asked = Asked::new(&args.read)?;
    let format = format(args)?;
    if to_stdout && format != ExportFormat::Csv && context.console.is_terminal() {
        return Err(Error::invalid("a terminal cannot show this format: use --out FILE or a pipe").into());
    }
    let store = context.store().await?;
    let targets = asked.targets(&*store, &*context.clock).await?;
    let ([target], []) = (targets.list.as_slice(), targets.damaged.as_slice()) else {
        let error = Error::invalid("an export is of one series: use --node ID --interval 5m")
            .with("series", targets.list.len() + targets.damaged.len());
        return Err(Failure::from(error).hint("`qmtl-history ls` lists what the store has"));
    };
    must_exist(&*store, &target.key).await?;
    if to_stdout {
        copy(args, &store, target, (Box::new(BufWriter::new(io::stdout())), true)).await?;
        return Ok(Outcome::Done);
    }
    let rows = to_file(args, &store, target).await?;
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

/// Writes beside the file and moves it there at the end, so that nobody ever sees half of it.
async fn to_file(args: &ExportArgs, store: &Store, target: &Target) -> Result<u64> {
    let at = |e: io::Error| {
        Error::new(ErrorKind::Storage, "cannot write the export").with("out", args.out.display()).caused_by(e)
    };
    let folder = args.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the umask takes away what the user does not share.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let file: NamedTempFile = builder.prefix(".export-").tempfile_in(folder).map_err(at)?;
    let out = file.reopen().map_err(at)?;
    let rows = copy(args, store, target, (Box::new(BufWriter::new(out)), false)).await?;
    file.persist(&args.out).map_err(|e| at(e.error))?;
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
