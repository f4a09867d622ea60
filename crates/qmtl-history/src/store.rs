//! Stores: what `--store` names, and the backend behind it.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use qmtl_history_api::{Error, ErrorKind, HistoryBackend, Maintenance, SeriesKey, TimeRange};
use qmtl_io_parquet::{ParquetBackend, ParquetConfig, StoredPartition};

use crate::again::Again;
use crate::console::Console;
use crate::outcome::{Failure, Result};
use crate::text;
use crate::waits::{Patient, Waits};

/// For how long a bucket repeats a request that fails: half a minute, and the last try has as long.
const BUCKET_ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// A store that is open.
#[derive(Debug)]
pub(crate) struct Store {
    typed: String,
    backend: Arc<Patient>,
    /// The same store where it is a folder or in a bucket: what has files can say which.
    files: Option<Arc<ParquetBackend>>,
    /// Where that is a folder.
    folder: Option<PathBuf>,
}

impl Store {
    /// Opens the store that was named, which must exist.
    pub(crate) async fn open(name: Option<&str>, console: &Console) -> Result<Self> {
        Self::open_with_grace(name, None, console).await
    }

    /// The same, to collect what has been replaced for as long as this.
    pub(crate) async fn open_with_grace(
        name: Option<&str>,
        grace: Option<Duration>,
        console: &Console,
    ) -> Result<Self> {
        Self::with(name, (false, grace), Waits::new(console)).await
    }

    /// Opens the store that was named, for a command that gives up after so much time; when the store does not exist,
    /// the first write makes it.
    pub(crate) async fn open_or_new(
        name: Option<&str>,
        deadline: Option<Duration>,
        console: &Console,
    ) -> Result<Self> {
        Self::with(name, (true, None), Waits::new(console).with_deadline(deadline)).await
    }

    async fn with(
        name: Option<&str>,
        (create, grace): (bool, Option<Duration>),
        waits: Waits,
    ) -> Result<Self> {
        let typed = name.map(typed).unwrap_or_default();
        match place(name)? {
            Place::Files(root) => {
                let shown = root.display().to_string();
                let is_bucket = shown.contains("://");
                let waits = waits.with_answers_within(is_bucket.then_some(BUCKET_ANSWERS_WITHIN));
                let folder = (!is_bucket).then(|| root.clone());
                let files = waits.on(&shown, Box::pin(Self::files_at(root, create, grace))).await?;
                folder.as_deref().map_or(Ok(()), must_be_no_shelf)?;
                let backend = Arc::new(Patient { backend: Arc::clone(&files) as _, shown, waits });
                Ok(Self { typed, backend, files: Some(files), folder })
            }
            #[cfg(feature = "questdb")]
            Place::QuestDb(dsn) => {
                let config = qmtl_io_questdb::QuestDbConfig::from_dsn(&dsn)?;
                let shown = config.to_string();
                let waits = waits.with_answers_within(Some(config.timeout()));
                let opened = Box::pin(qmtl_io_questdb::QuestDbBackend::connect(config));
                let server = waits.on(&shown, opened).await.map_err(Failure::unreachable)?;
                Ok(Self {
                    typed,
                    backend: Arc::new(Patient { backend: Arc::new(server), shown, waits }),
                    files: None,
                    folder: None,
                })
            }
            #[cfg(not(feature = "questdb"))]
            Place::QuestDb(_) => Err(crate::outcome::not_built("QuestDB", "questdb").into()),
        }
    }

    async fn files_at(root: PathBuf, create: bool, grace: Option<Duration>) -> Result<Arc<ParquetBackend>> {
        let mut config = ParquetConfig::new(&root).with_create(create);
        if let Some(grace) = grace {
            config = config.with_grace(grace);
        }
        ParquetBackend::open(config).await.map(Arc::new).map_err(|e| {
            if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) {
                return e.into();
            }
            let is_absent = e.kind() == ErrorKind::NotFound;
            let failure = Failure::unreachable(e);
            if is_absent { failure.hint("`qmtl-history backfill` makes and fills a store") } else { failure }
        })
    }

    /// The store as its user named it, without secrets.
    pub(crate) fn shown(&self) -> String {
        self.backend.shown.clone()
    }

    /// The option of a command that names the store, to be typed into a shell.
    pub(crate) fn typed(&self) -> &str {
        &self.typed
    }

    /// Whether the store consists of files.
    pub(crate) fn has_files(&self) -> bool {
        self.files.is_some()
    }

    /// Whether it is a folder, where a look at each series costs little.
    pub(crate) fn is_folder(&self) -> bool {
        self.folder.is_some()
    }

    /// Whether a file of this name, which need not be there yet, would stand among those of this store or of another one.
    pub(crate) fn would_hold(&self, file: &Path) -> bool {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Ok(parent) = parent.canonicalize() else { return false };
        let own = self.folder.as_deref().and_then(identity);
        // A folder may have several names, by mounts. A partition is three folders below the store.
        parent.ancestors().any(|folder| own.is_some() && identity(folder) == own)
            || parent.ancestors().take(3).any(|folder| folder.join("_series.json").exists())
    }

    /// The backend, for whoever keeps it longer than this.
    pub(crate) fn backend(&self) -> Arc<dyn HistoryBackend> {
        Arc::clone(&self.backend) as _
    }

    /// Upkeep; `Unsupported` where the store has none.
    pub(crate) fn upkeep(&self) -> Result<&dyn Maintenance, Error> {
        self.backend.upkeep().map(|_| &*self.backend as &dyn Maintenance)
    }

    /// The current data files of a series that hold rows and overlap `range`, ascending.
    pub(crate) async fn files(
        &self,
        key: &SeriesKey,
        range: TimeRange,
    ) -> Result<Vec<StoredPartition>, Error> {
        let store = self.files.as_deref().ok_or_else(|| {
            let message = "a store on a server has no files; `export` writes its bars to one";
            Error::new(ErrorKind::Unsupported, message).with("store", &self.backend.shown)
        })?;
        let Patient { shown, waits, .. } = &*self.backend;
        let mut files = waits.on(shown, store.files(key, range)).await?;
        files.retain(|file| file.rows > 0);
        Ok(files)
    }

    /// The store as a fill sees it whose rows take the place of stored ones.
    pub(crate) fn replacing(&self) -> Again<Arc<dyn HistoryBackend>> {
        Again::replacing(self.backend())
    }

    /// The same for one that compares what comes with what is stored.
    pub(crate) fn comparing(&self) -> Again<Arc<dyn HistoryBackend>> {
        Again::comparing(self.backend())
    }
}

impl Deref for Store {
    type Target = dyn HistoryBackend;

    fn deref(&self) -> &Self::Target {
        &*self.backend
    }
}

/// Refuses a folder that holds stores and no series of its own: to a store these would be series that were moved, and a
/// fill would begin another store beside them.
fn must_be_no_shelf(folder: &Path) -> Result<()> {
    let stores = stores_in(folder);
    let Some(first) = stores.first() else { return Ok(()) };
    const SHOWN: usize = 5;
    let more = if stores.len() > SHOWN { ", …" } else { "" };
    let name = |store: &PathBuf| store.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names: Vec<_> = stores.iter().take(SHOWN).map(name).collect();
    let message = "there is no store in this folder, but its subfolders hold series: name one of them, or if series were \
                   moved into them, move those back";
    let error = Error::invalid(message)
        .with("folder", folder.display())
        .with("subfolders", format_args!("{}{more}", names.join(", ")));
    Err(Failure::from(error).hint(format!("use {}", typed(&first.display().to_string()))))
}

/// The stores that a folder holds which is none itself, sorted.
fn stores_in(folder: &Path) -> Vec<PathBuf> {
    let folders = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir())
    };
    let is_series = |folder: &Path| folder.join("_series.json").exists();
    let is_store = |folder: &Path| folders(folder).any(|inner| is_series(&inner));
    if is_series(folder) || is_store(folder) {
        return Vec::new();
    }
    let mut stores: Vec<_> = folders(folder).filter(|inner| is_store(inner)).collect();
    stores.sort();
    stores
}

/// What a folder is, whatever it is called.
fn identity(folder: &Path) -> Option<impl PartialEq + use<>> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(folder).ok().map(|meta| (meta.dev(), meta.ino()))
    }
    #[cfg(not(unix))]
    folder.canonicalize().ok()
}

/// The option that names a store so. An address with a password is not repeated: the variable names it.
pub(crate) fn typed(name: &str) -> String {
    // However the password is spelled, there is an @ behind it.
    if name.starts_with("questdb://") && name.contains('@') {
        "--store \"$QMTL_HISTORY_STORE\"".to_owned()
    } else {
        text::option("--store", name)
    }
}

/// Where a store is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Files in this folder, or in the bucket of this URL.
    Files(PathBuf),
    /// A QuestDB at this address, which may hold a password.
    QuestDb(String),
}

/// What a store's name means; `InvalidInput` for what no build can open.
pub(crate) fn place(name: Option<&str>) -> Result<Place> {
    let name = name.filter(|name| !name.is_empty()).ok_or_else(|| {
        Failure::from(Error::invalid("no store is named")).hint("use --store DIR, or set QMTL_HISTORY_STORE")
    })?;
    if name == "-" {
        let error = Error::invalid("a store is a folder or on a server, and not read from stdin");
        return Err(Failure::from(error).hint("use --store DIR, or ./- for a folder of that name"));
    }
    let is_word = |word: &str| word.chars().all(|c| c.is_ascii_alphanumeric());
    let Some((scheme, rest)) = name.split_once("://").filter(|(scheme, _)| is_word(scheme)) else {
        // What follows a scheme may hold a password and is not repeated.
        let own = ["file:", "memory:"]
            .into_iter()
            .find_map(|own| own.strip_suffix(':').filter(|_| name.starts_with(own)));
        if let Some(scheme) = text::scheme(name).or(own) {
            let error = Error::invalid("an address needs :// after its scheme").with("scheme", scheme);
            let hint = match scheme {
                "file" => "write DIR alone, such as ./history, or file:///path/to/DIR".to_owned(),
                _ => format!("write {scheme}://…, or ./{scheme}:… for a folder of that name"),
            };
            return Err(Failure::from(error).hint(hint));
        }
        return folder(name);
    };
    match scheme {
        "file" if rest.starts_with('/') => folder(rest),
        "s3" | "s3a" if cfg!(feature = "s3") => Ok(Place::Files(PathBuf::from(name))),
        "s3" | "s3a" => Err(crate::outcome::not_built("store in a bucket", "s3").into()),
        "questdb" => Ok(Place::QuestDb(name.to_owned())),
        // What follows the scheme may hold a password and is not repeated.
        _ => Err(Failure::from(
            Error::invalid("this build has no store of that kind")
                .with("scheme", format_args!("{scheme}://")),
        )
        .hint(if cfg!(feature = "s3") {
            "use --store DIR, a folder of Parquet files on a local disk, or s3://bucket/prefix"
        } else {
            "use --store DIR, a folder of Parquet files on a local disk"
        })),
    }
}

/// A folder of this machine: `admin:quest@host:8812/qdb` and `host=h password=x` are none.
fn folder(name: &str) -> Result<Place> {
    if text::is_address(name) {
        let error = Error::invalid("this looks like an address without its scheme");
        let hint = "write questdb://user:password@host:port, or begin with ./ for a folder whose name holds no password";
        return Err(Failure::from(error).hint(hint));
    }
    Ok(Place::Files(PathBuf::from(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_folder_a_bucket_or_a_server() {
        assert_eq!(place(Some("./history")).unwrap(), Place::Files("./history".into()));
        assert_eq!(place(Some("file:///data/x")).unwrap(), Place::Files("/data/x".into()));
        assert_eq!(place(Some("a:b")).unwrap(), Place::Files("a:b".into()));
        let bucket = place(Some("s3://bucket/x"));
        if cfg!(feature = "s3") {
            assert_eq!(bucket.unwrap(), Place::Files("s3://bucket/x".into()));
        } else {
            let Err(Failure::Error { error, .. }) = bucket else { panic!("it is an error") };
            assert!(error.to_string().ends_with("--features s3"), "{error}");
        }
        let dsn = "questdb://admin:quest@host/qdb";
        assert_eq!(place(Some(dsn)).unwrap(), Place::QuestDb(dsn.to_owned()));
    }

    #[test]
    fn an_address_without_its_slashes_is_no_folder_and_its_secrets_are_not_repeated() {
        for name in [
            "s3:/bucket",
            "questdb:/x",
            "questdb:admin:secret@host",
            "questdb//admin:secret@host",
            "S3:bucket",
            "file:/data",
        ] {
            let failure = place(Some(name)).unwrap_err();
            let Failure::Error { error, hint, outcome } = &failure else { panic!("it is an error") };
            assert!(error.to_string().starts_with("an address needs ://"), "{error}");
            assert!(!format!("{error}{hint:?}").contains("secret") && outcome.code() == 2, "{hint:?}");
        }
        assert_eq!(place(Some("./s3:x")).unwrap(), Place::Files("./s3:x".into()));
        for name in ["admin:secret@host:8812/qdb", "//admin:secret@host/qdb"] {
            let failure = place(Some(name)).unwrap_err();
            let Failure::Error { error, hint, outcome } = &failure else { panic!("it is an error") };
            assert!(error.to_string().starts_with("this looks like an address"), "{error}");
            assert!(!format!("{error}{hint:?}").contains("secret") && outcome.code() == 2, "{hint:?}");
        }
        assert_eq!(place(Some("./a:b@c")).unwrap(), Place::Files("./a:b@c".into()));
    }

    #[test]
    fn a_store_is_named_again_as_a_shell_takes_it_and_without_its_secrets() {
        assert_eq!(typed("./my history"), "--store './my history'");
        assert_eq!(typed("-x"), "--store=-x");
        assert_eq!(typed("s3://bucket/a@b"), "--store s3://bucket/a@b");
        assert_eq!(typed("questdb://host:8812/qdb?prefix=x"), "--store 'questdb://host:8812/qdb?prefix=x'");
        assert_eq!(typed("questdb://admin:quest@host/qdb"), "--store \"$QMTL_HISTORY_STORE\"");
    }

    #[test]
    fn another_store_is_refused_without_its_secrets() {
        for name in ["postgresql://admin:quest@host/qdb", "gs://bucket/x", "file://relative"] {
            let failure = place(Some(name)).unwrap_err();
            let Failure::Error { error, hint, outcome } = &failure else { panic!("it is an error") };
            assert!(
                error.to_string().starts_with("this build has no store of that kind (scheme: "),
                "{error}"
            );
            assert!(!error.to_string().contains("quest@") && hint.is_some());
            assert_eq!(outcome.code(), 2);
        }
    }
}
