//! What is different in a bucket: answers that get lost, files that vanish while they are read, and
//! what each call costs in requests.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use futures::stream::BoxStream;
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    ErrorKind, HistoryBackend, HistoryBackendExt, Maintenance, ReadRequest, TimeRange, Timestamp,
    WriteRequest, async_trait,
};
use qmtl_history_testkit::fixtures;
use qmtl_io_parquet::object_store::client::{HttpError, HttpErrorKind};
use qmtl_io_parquet::object_store::memory::InMemory;
use qmtl_io_parquet::object_store::path::Path;
use qmtl_io_parquet::object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use qmtl_io_parquet::{ParquetBackend, ParquetConfig};

use crate::child::{key, numbered};
use crate::crash::read;

const ROOT: &str = "memory:///prefix";

/// What becomes of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It is carried out, and the answer is lost; sending it again finds the object.
    AlreadyThere,
    /// It is carried out, and no answer comes.
    None,
    /// It is not carried out, and no answer comes.
    NoneAndNothingDone,
    /// It is not carried out, and is said to have met another.
    Conflict,
}

/// A bucket in memory that writes down what it is asked, and does to puts and reads what a test wants.
#[derive(Debug, Default)]
struct Tapped {
    bucket: Arc<InMemory>,
    asked: Mutex<Vec<&'static str>>,
    /// What becomes of the next puts, the last first.
    answers: Mutex<Vec<Answer>>,
    /// Whether objects go when a part of them is read.
    is_vanishing: AtomicBool,
    /// Rows that another writer stores just before a commit of this one.
    rival: Mutex<Option<RecordBatch>>,
}

impl Tapped {
    fn asked(&self, what: &'static str) {
        self.asked.lock().unwrap().push(what);
    }

    /// What was asked since the last time, the number of each.
    fn counts(&self) -> Vec<(&'static str, usize)> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort_unstable();
        asked.chunk_by(|a, b| a == b).map(|same| (same[0], same.len())).collect()
    }

    async fn open(self: &Arc<Self>) -> ParquetBackend {
        let bucket = Arc::clone(self) as Arc<dyn ObjectStore>;
        ParquetBackend::open_in(bucket, ParquetConfig::new(ROOT)).await.unwrap()
    }
}

impl fmt::Display for Tapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tapped")
    }
}

#[async_trait]
impl ObjectStore for Tapped {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.asked("put");
        let is_rows = key.as_ref().ends_with(".parquet") && !key.as_ref().contains("_schema");
        let rival = if is_rows { self.rival.lock().unwrap().take() } else { None };
        if let Some(rows) = rival {
            let bucket = Arc::clone(&self.bucket) as Arc<dyn ObjectStore>;
            let rival = ParquetBackend::open_in(bucket, ParquetConfig::new(ROOT)).await.unwrap();
            rival.write_rows(&WriteRequest::new(crate::child::key()), rows).await.unwrap();
        }
        let answer = if is_rows { self.answers.lock().unwrap().pop() } else { None };
        let done = match answer {
            Some(Answer::NoneAndNothingDone | Answer::Conflict) => None,
            _ => Some(self.bucket.put_opts(key, payload, options).await?),
        };
        let path = key.to_string();
        match answer {
            Some(Answer::AlreadyThere | Answer::Conflict) => {
                Err(Error::AlreadyExists { path, source: "412".into() })
            }
            Some(Answer::None | Answer::NoneAndNothingDone) => {
                let source = HttpError::new(HttpErrorKind::Timeout, std::io::Error::other("timed out"));
                Err(Error::Generic { store: "test", source: source.into() })
            }
            None => Ok(done.unwrap()),
        }
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.bucket.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.asked(match options.range {
            _ if options.head => "head",
            Some(GetRange::Suffix(_)) => "get the end",
            _ => "get a part",
        });
        let is_part = matches!(options.range, Some(GetRange::Bounded(_)));
        if is_part && self.is_vanishing.swap(false, Ordering::SeqCst) {
            self.bucket.delete(key).await?;
        }
        self.bucket.get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.asked("delete");
        self.bucket.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.asked("list");
        self.bucket.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.asked("list");
        self.bucket.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.asked("list");
        self.bucket.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.bucket.copy_opts(from, to, options).await
    }
}

async fn write(store: &ParquetBackend, first: u32, end: u32) -> (u64, u64) {
    let receipt = store.write_rows(&WriteRequest::new(key()), numbered(first, end, 1)).await.unwrap();
    (receipt.rows_written, receipt.rows_kept_out)
}

/// The numbers of the commits that hold the series now.
async fn seqs(store: &ParquetBackend) -> Vec<u64> {
    store.files(&key(), TimeRange::ALL).await.unwrap().iter().map(|file| file.seq).collect()
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_known_as_the_writers_own() {
    use Answer::{AlreadyThere, Conflict, None, NoneAndNothingDone};
    for answers in [
        vec![AlreadyThere],
        vec![None],
        vec![NoneAndNothingDone],
        vec![Conflict],
        vec![None, NoneAndNothingDone, NoneAndNothingDone],
    ] {
        let bucket = Arc::new(Tapped::default());
        let store = bucket.open().await;
        bucket.answers.lock().unwrap().clone_from(&answers);
        assert_eq!(write(&store, 0, 10).await, (10, 0), "{answers:?}");
        assert_eq!(seqs(&store).await, [1], "{answers:?}: it is one commit");
        bucket.answers.lock().unwrap().clone_from(&answers);
        assert_eq!(write(&store, 5, 20).await, (10, 5), "{answers:?}");
        assert_eq!(seqs(&store).await, [2], "{answers:?}");
        let numbers: Vec<u32> = read(&store).await.into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, (0..20).collect::<Vec<_>>(), "{answers:?}");
    }
}

#[tokio::test]
async fn a_put_that_is_never_answered_is_an_error_and_can_be_repeated() {
    let bucket = Arc::new(Tapped::default());
    let store = bucket.open().await;
    *bucket.answers.lock().unwrap() = vec![Answer::NoneAndNothingDone; 4];
    let error = store.write_rows(&WriteRequest::new(key()), numbered(0, 10, 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error:?}");
    assert!(error.to_string().contains("the server does not answer"), "{error}");
    assert!(error.to_string().contains("(path: memory:///prefix/ohlcv-child-"), "{error}");
    assert_eq!(write(&store, 0, 10).await, (10, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_equal_commit_of_another_writer_is_not_taken_for_the_own() {
    let bucket = Arc::new(Tapped::default());
    let store = bucket.open().await;
    *bucket.rival.lock().unwrap() = Some(numbered(0, 10, 1));
    assert_eq!(write(&store, 0, 10).await, (0, 10), "the rival was first with the same rows");
    assert_eq!(seqs(&store).await, [1]);
}

#[tokio::test]
async fn a_server_that_overwrites_is_refused_before_a_commit() {
    /// A bucket that does not know the condition.
    #[derive(Debug)]
    struct Careless(InMemory);

    impl fmt::Display for Careless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Careless")
        }
    }

    #[async_trait]
    impl ObjectStore for Careless {
        async fn put_opts(&self, key: &Path, payload: PutPayload, _: PutOptions) -> Result<PutResult> {
            self.0.put_opts(key, payload, PutMode::Overwrite.into()).await
        }
        async fn put_multipart_opts(
            &self,
            key: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.0.put_multipart_opts(key, options).await
        }
        async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
            self.0.get_opts(key, options).await
        }
        fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.0.delete_stream(keys)
        }
        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.0.list(prefix)
        }
        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.0.list_with_delimiter(prefix).await
        }
        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.0.copy_opts(from, to, options).await
        }
    }

    let bucket = Arc::new(Careless(InMemory::new()));
    let config = ParquetConfig::new(ROOT);
    let store = ParquetBackend::open_in(Arc::clone(&bucket) as Arc<dyn ObjectStore>, config).await.unwrap();
    let error = store.write_rows(&WriteRequest::new(key()), numbered(0, 10, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("use a server that honours it"), "{error}");
    let objects: Vec<ObjectMeta> = bucket.list(None).try_collect().await.unwrap();
    assert_eq!(objects.len(), 1, "nothing but the name of the node is there");
}

#[tokio::test]
async fn each_call_costs_a_few_requests() {
    let bucket = Arc::new(Tapped::default());
    let store = bucket.open().await;
    assert_eq!(bucket.counts(), [("list", 1)], "whether there is a store, and a bucket");
    write(&store, 0, 3_000).await;
    bucket.counts();
    // The newest columns, the newest commit, and the check afterwards.
    write(&store, 3_000, 3_001).await;
    assert_eq!(
        bucket.counts(),
        [("get the end", 1), ("list", 3), ("put", 1)],
        "the columns are read once, and there is no delta yet"
    );
    write(&store, 3_001, 3_002).await;
    assert_eq!(bucket.counts(), [("get the end", 1), ("list", 3), ("put", 1)], "appending reads the delta");
    write(&store, 3_001, 3_002).await;
    assert_eq!(bucket.counts(), [("list", 2)], "a repeated write");
    store.coverage(&key(), TimeRange::ALL).await.unwrap();
    assert_eq!(
        bucket.counts(),
        [("list", 3)],
        "it looks once for folders that do not fit, beside partitions and columns"
    );
    store.coverage(&key(), TimeRange::ALL).await.unwrap();
    assert_eq!(bucket.counts(), [("list", 1)], "coverage, with footers known");
    store.revision(&key()).await.unwrap();
    assert_eq!(bucket.counts(), [("list", 2)]);
    store.read_all(&ReadRequest::new(key(), TimeRange::ALL)).await.unwrap();
    assert_eq!(bucket.counts(), [("get the end", 2), ("list", 2)], "a file of less than 64 KB is its end");
    // A hundred partitions.
    for partition in 1..=100 {
        write(&store, partition * 50_000, partition * 50_000 + 1).await;
    }
    bucket.counts();
    let stranger = bucket.open().await;
    stranger.coverage(&key(), fixtures::span(&key(), 0, 3_000)).await.unwrap();
    let counts = bucket.counts();
    assert_eq!(
        counts,
        [("get the end", 4), ("list", 5)],
        "opening, one partition of many, what does not fit, its name and columns"
    );
    store.coverage(&key(), TimeRange::ALL).await.unwrap();
    assert_eq!(bucket.counts(), [("list", 1)], "all partitions stand in one list");
}

#[tokio::test]
async fn a_series_whose_commits_are_gone_is_listed_in_a_bucket_too() {
    let bucket = Arc::new(Tapped::default());
    let store = bucket.open().await;
    write(&store, 0, 10).await;
    let objects: Vec<ObjectMeta> = bucket.bucket.list(None).try_collect().await.unwrap();
    let commits = objects.iter().map(|object| &object.location).filter(|key| key.as_ref().contains("T0"));
    for commit in commits {
        bucket.bucket.delete(commit).await.unwrap();
    }
    let store = bucket.open().await;
    assert_eq!(store.list_series().await.unwrap(), [key()]);
    assert!(store.coverage(&key(), TimeRange::ALL).await.unwrap().present().is_empty());
}

#[tokio::test]
async fn a_commit_that_lies_too_high_or_too_deep_in_a_bucket_is_a_finding() {
    let bucket = Arc::new(Tapped::default());
    let store = bucket.open().await;
    write(&store, 0, 10).await;
    let files = store.files(&key(), TimeRange::ALL).await.unwrap();
    let commit = Path::from(files[0].path.to_str().unwrap().strip_prefix("memory:///").unwrap());
    let parts: Vec<_> = commit.parts().collect();
    let [root, node, interval, partition, name] = &parts[..] else { panic!("{commit}") };
    let text = |parts: &[&str]| Path::from(parts.join("/"));
    let [root, node, interval, partition, name] =
        [root, node, interval, partition, name].map(|part| part.as_ref());
    for (to, is_of_series) in [
        (text(&[root, name]), false),
        (text(&[root, node, name]), false),
        (text(&[root, node, interval, name]), true),
        (text(&[root, node, interval, partition, "x", name]), true),
        (text(&[root, node, interval, "x", partition, name]), true),
        (text(&[root, "x", node, interval, partition, name]), false),
    ] {
        // One is left where it belongs, so that nothing but a look around can tell.
        bucket.bucket.copy(&commit, &to).await.unwrap();
        let store = bucket.open().await;
        let told = match is_of_series {
            true => store.coverage(&key(), TimeRange::ALL).await.map(drop),
            false => store.list_series().await.map(drop),
        };
        assert_eq!(told.map_err(|error| error.kind()), Err(ErrorKind::Corrupt), "{to}");
        bucket.bucket.delete(&to).await.unwrap();
        assert_eq!(bucket.open().await.list_series().await.unwrap(), [key()], "{to}");
    }
}

#[tokio::test]
async fn collection_keeps_the_grace_time_of_the_servers_clock() {
    let bucket = Arc::new(Tapped::default());
    let store = bucket.open().await;
    for end in 1..=5 {
        write(&store, 0, end * 10).await;
    }
    let newest = bucket.bucket.list(None).map_ok(|object| object.last_modified.timestamp_micros());
    let newest = newest.try_collect::<Vec<_>>().await.unwrap().into_iter().max().unwrap();
    let after =
        |time: Duration| Timestamp::from_micros(newest + i64::try_from(time.as_micros()).unwrap()).unwrap();
    let collected = store.collect(&key(), after(Duration::from_secs(3_500)), false).await.unwrap();
    assert_eq!(collected.files.len(), 0, "readers of the last hour may need them");
    let plan = store.read_range(&ReadRequest::new(key(), TimeRange::ALL)).await.unwrap();
    write(&store, 0, 60).await;
    let later = after(Duration::from_secs(7_300));
    let collected = store.collect(&key(), later, true).await.unwrap();
    assert_eq!((collected.files.len(), seqs(&store).await), (5, vec![6]), "a dry run removes nothing");
    assert_eq!(store.collect(&key(), later, false).await.unwrap(), collected);
    assert!(collected.files.iter().all(|path| path.starts_with(ROOT)), "{collected:?}");
    assert_eq!(store.collect(&key(), later, false).await.unwrap().files.len(), 0);
    // The plan names a commit that is gone; its successor has its rows.
    let rows: usize =
        plan.map_ok(|batch| batch.num_rows()).try_collect::<Vec<_>>().await.unwrap().iter().sum();
    assert_eq!(rows, 60);
    assert_eq!(read(&store).await.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_goes_between_its_footer_and_its_rows_is_no_error() {
    let bucket = Arc::new(Tapped::default());
    let store = bucket.open().await;
    write(&store, 0, 40_000).await;
    store.prune(&key(), fixtures::bar(&key(), 1), false).await.unwrap();
    assert_eq!(seqs(&store).await, [2]);
    // A plan of the first commit whose file goes while it is read.
    let plan = {
        let first = bucket.bucket.fork();
        let objects: Vec<ObjectMeta> = first.list(None).try_collect().await.unwrap();
        let second = objects.iter().find(|object| object.location.filename() == Some("0000000002.parquet"));
        let second = second.unwrap().location.clone();
        let held = bucket.bucket.get(&second).await.unwrap().bytes().await.unwrap();
        bucket.bucket.delete(&second).await.unwrap();
        let plan = store.read_range(&ReadRequest::new(key(), TimeRange::ALL)).await.unwrap();
        bucket.bucket.put(&second, held.into()).await.unwrap();
        plan
    };
    bucket.is_vanishing.store(true, Ordering::SeqCst);
    let rows: usize =
        plan.map_ok(|batch| batch.num_rows()).try_collect::<Vec<_>>().await.unwrap().iter().sum();
    assert_eq!(rows, 39_999, "its successor was read");
    assert!(!bucket.is_vanishing.load(Ordering::SeqCst), "the file went while it was read");
}

#[tokio::test]
async fn a_copy_in_a_folder_is_the_same_store_and_back_again() {
    let bucket = Arc::new(Tapped::default());
    let store = bucket.open().await;
    write(&store, 0, 3_000).await;
    write(&store, 3_000, 3_010).await;
    let folder = tempfile::tempdir().unwrap();
    let objects: Vec<ObjectMeta> = bucket.bucket.list(None).try_collect().await.unwrap();
    for object in objects {
        let path = folder.path().join(object.location.as_ref());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes = bucket.bucket.get(&object.location).await.unwrap().bytes().await.unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let root = folder.path().join("prefix");
    let copy = crate::crash::open(&root).await;
    assert_eq!(read(&copy).await, read(&store).await);
    assert_eq!(write(&copy, 3_005, 3_020).await, (10, 5));
    let back = Arc::new(Tapped::default());
    for path in crate::crash::walk(&root) {
        let key = path.strip_prefix(folder.path()).unwrap().to_str().unwrap().replace('\\', "/");
        back.bucket.put(&Path::from(key), std::fs::read(path).unwrap().into()).await.unwrap();
    }
    let back = back.open().await;
    assert_eq!(read(&back).await, read(&copy).await);
    assert_eq!(write(&back, 3_015, 3_030).await, (10, 5));
    assert_eq!(back.verify(&key()).await.unwrap().len(), 0);
}

#[tokio::test]
async fn urls_are_opened_or_refused_by_name() {
    let store = ParquetBackend::open(ParquetConfig::new("memory:///x")).await.unwrap();
    assert_eq!(write(&store, 0, 3).await, (3, 0));
    let files = store.files(&key(), TimeRange::ALL).await.unwrap();
    let path = files[0].path.display().to_string();
    assert!(path.starts_with("memory:///x/ohlcv-child-") && path.ends_with("/0000000001.parquet"), "{path}");
    let absent =
        ParquetBackend::open(ParquetConfig::new("memory:///x").with_create(false)).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    assert_eq!(
        absent.to_string(),
        "there is no store under this URL; check bucket and prefix (path: memory:///x)"
    );
    let error = ParquetBackend::open(ParquetConfig::new("gs://bucket/x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}/x", folder.path().display());
    let store = ParquetBackend::open(ParquetConfig::new(&url)).await.unwrap();
    assert_eq!(write(&store, 0, 3).await, (3, 0));
    assert!(folder.path().join("x").is_dir());
}

/// Handles outlive runtimes: a program may start one for each call.
#[test]
fn a_handle_goes_from_one_runtime_to_another() {
    let runtimes = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let bucket = Arc::new(Tapped::default());
    let store = runtimes().block_on(bucket.open());
    for end in 1..=3 {
        assert_eq!(runtimes().block_on(write(&store, 0, end)), (1, u64::from(end) - 1));
    }
    // A call that nobody waits for any longer goes on to its end.
    let runtime = runtimes();
    let other = store.clone();
    let task = runtime.spawn(async move { write(&other, 0, 10).await });
    runtime.block_on(tokio::task::yield_now());
    drop((task, runtime));
    let rows = runtimes().block_on(read(&store)).len();
    assert!(rows == 3 || rows == 10, "{rows}: all of a write or nothing");
    runtimes().block_on(async move { drop(store) });
}

/// A part of a bar is covered by the bar, also where the next one stands in another partition.
#[tokio::test]
async fn a_range_that_begins_inside_a_bar_has_a_part_of_it_in_a_folder_too() {
    let key = fixtures::key("BTC", "1m");
    let minute = fixtures::bar(&key, 0).as_micros() / 60_000_000;
    // A partition has 50,000 bars.
    let next = u32::try_from(50_000 - minute % 50_000).unwrap();
    let bar = |index| fixtures::bar(&key, index);
    let inside = |index| bar(index).checked_add_micros(30_000_000).unwrap();
    let range = |start, end| TimeRange::new(start, end).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let in_folder = ParquetBackend::open(ParquetConfig::new(folder.path())).await.unwrap();
    for store in [in_folder, Arc::new(Tapped::default()).open().await] {
        let rows = fixtures::bars(&key, bar(next - 5), 5);
        store.write_rows(&WriteRequest::new(key.clone()), rows).await.unwrap();
        for (asked, covered) in [
            (range(inside(next - 1), bar(next)), range(inside(next - 1), bar(next))),
            (range(inside(next - 1), bar(next + 3)), range(inside(next - 1), bar(next))),
            (range(bar(next - 3), inside(next - 3)), range(bar(next - 3), inside(next - 3))),
            (range(inside(next - 3), inside(next - 2)), range(inside(next - 3), inside(next - 2))),
        ] {
            assert_eq!(store.coverage(&key, asked).await.unwrap().present(), &covered.into(), "{asked}");
        }
        assert!(store.coverage(&key, range(bar(next), bar(next + 3))).await.unwrap().present().is_empty());
    }
}
