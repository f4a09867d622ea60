//! A bucket of an object store: an object is put whole where none was, and is there for good; lists
//! are in order and know every object whose put was answered. So there is nothing to flush and
//! nothing half written; what costs is requests.

mod bounded;
mod fault;
mod url;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt};
use object_store::path::Path as Key;
use object_store::{
    Error as Fault, GetOptions, GetRange, ListResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutPayload,
};
use qmtl_history_api::{Error, ErrorKind, Result};
use tokio::runtime::{Builder, Runtime};

use self::fault::Faults;
pub(crate) use self::url::prefix;
use super::{Content, Disk, Entries, LONGEST_NAME, Listed, Put, no_store};
use crate::cache::Stamp;
use crate::error::{corrupt, stray};
use crate::failpoints::{Step, reach};
use crate::file::GUESS;
use crate::layout::{commit_file, is_odd_commit, parse_commit};

/// How often a put is sent whose answer does not come.
const PUTS: u32 = 4;

/// The pause before the second put; each later one is twice as long.
const PAUSE: Duration = Duration::from_millis(100);

/// The most names of nodes that are remembered.
const NAMES: usize = 100_000;

/// A store's place in a bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    requests: Arc<Requests>,
    prefix: Key,
    /// Files that name a node, which never change once they are there.
    names: Mutex<HashMap<PathBuf, Bytes>>,
    /// Whether the server has shown that it puts no object over another.
    is_proven: AtomicBool,
}

/// The way to the bucket.
#[derive(Debug)]
struct Requests {
    /// The URL that the store was opened by.
    root: PathBuf,
    store: Arc<dyn ObjectStore>,
    faults: Faults,
    /// A thread for connections and timers. Not the caller's runtime: that may have no timers, may end
    /// between two calls, and drives nothing while a single-threaded caller waits for something else.
    runtime: Option<Runtime>,
}

impl Drop for Requests {
    fn drop(&mut self) {
        // The last handle may go on a thread that must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Requests {
    /// Waits for an answer, on a thread that may block. The client panics on credentials, its own or a service's, that
    /// cannot be put into a request: that is an answer, too.
    fn wait<T>(&self, answer: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let runtime = self.runtime.as_ref().expect("the runtime is there until the last handle goes");
        let answer = AssertUnwindSafe(answer).catch_unwind();
        runtime.block_on(answer).unwrap_or_else(|_| Err(fault::unmade()))
    }
}

impl Bucket {
    /// The bucket of a URL, with credentials from the environment.
    pub(crate) fn of_url(url: &str) -> Result<Self> {
        let url::Place { root, prefix, store, faults } = url::open(url)?;
        Self::new(root, prefix, store, faults)
    }

    /// The same in a store that its user has opened; the URL's path is the prefix.
    pub(crate) fn of_store(url: &str, store: Arc<dyn ObjectStore>) -> Result<Self> {
        let (root, prefix) = prefix(url)?;
        Self::new(root, prefix, store, Faults::default())
    }

    fn new(root: PathBuf, prefix: Key, store: Arc<dyn ObjectStore>, faults: Faults) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("qmtl-bucket")
            .enable_all()
            .build()
            .map_err(|e| Error::unexpected("cannot start a thread for a bucket's requests").caused_by(e))?;
        let requests = Requests { root, store, faults, runtime: Some(runtime) };
        Ok(Self {
            requests: Arc::new(requests),
            prefix,
            names: Mutex::default(),
            is_proven: AtomicBool::new(false),
        })
    }

    /// The key of a path below the root.
    fn key(&self, path: &Path) -> Key {
        let below = path.strip_prefix(&self.requests.root).unwrap_or(path);
        let names = below.iter().filter_map(|name| name.to_str());
        names.fold(self.prefix.clone(), |key, name| key.join(name))
    }

    /// Shows objects below a folder to `see` until it has enough: in order, from behind `offset`, each with
    /// its path below the folder.
    fn each(
        &self,
        folder: &Path,
        offset: Option<&str>,
        mut see: impl FnMut(&[String], &ObjectMeta) -> ControlFlow<()>,
    ) -> Result<()> {
        let Requests { store, faults, .. } = &*self.requests;
        let prefix = self.key(folder);
        let seen = self.requests.wait(async {
            let mut objects = match offset {
                Some(offset) => store.list_with_offset(Some(&prefix), &prefix.clone().join(offset)),
                None => store.list(Some(&prefix)),
            };
            let mut first = None;
            while let Some(object) = objects.next().await {
                let object = object?;
                if first.as_ref() == Some(&object.location) {
                    let source = "the server lists the same objects again and again".into();
                    return Err(Fault::Generic { store: "S3", source });
                }
                first.get_or_insert_with(|| object.location.clone());
                let below = object.location.prefix_match(&prefix);
                let below: Vec<String> =
                    below.into_iter().flatten().map(|part| part.as_ref().to_owned()).collect();
                if see(&below, &object).is_break() {
                    break;
                }
            }
            Ok(())
        });
        seen.map_err(|e| faults.error("list a folder of the store", folder, &e))
    }

    /// What stands directly below a folder.
    fn listed(&self, folder: &Path) -> Result<ListResult> {
        let Requests { store, faults, .. } = &*self.requests;
        let listed = self.requests.wait(store.list_with_delimiter(Some(&self.key(folder))));
        listed.map_err(|e| faults.error("list a folder of the store", folder, &e))
    }

    /// The newest commit in a folder from behind `offset` on.
    fn newest_behind(&self, folder: &Path, offset: Option<&str>) -> Result<Option<Stamp>> {
        let mut newest: Option<Stamp> = None;
        self.each_commit(folder, offset, |seq, object| {
            if newest.is_none_or(|newest| newest.seq < seq) {
                newest = Some(stamp(seq, object));
            }
        })?;
        Ok(newest)
    }

    /// Shows the commits in a folder from behind `offset` on. `Corrupt` for an object that looks like one and has another
    /// name: it may have been the newest one, and all that it holds would be missing in silence.
    fn each_commit(
        &self,
        folder: &Path,
        offset: Option<&str>,
        mut see: impl FnMut(u64, &ObjectMeta),
    ) -> Result<()> {
        let mut odd = None;
        self.each(folder, offset, |below, object| {
            if let [name] = below {
                match parse_commit(name) {
                    Some(seq) => see(seq, object),
                    None if is_odd_commit(name) => odd = Some(folder.join(name)),
                    None => {}
                }
            }
            ControlFlow::Continue(())
        })?;
        odd.map_or(Ok(()), |path| Err(stray(&path)))
    }

    /// Opens an object, with its end; nothing but that for most deltas.
    fn object(&self, path: &Path) -> Result<Option<Object>> {
        let Requests { store, faults, .. } = &*self.requests;
        let key = self.key(path);
        let range = GetRange::Suffix(GUESS as u64);
        let answer = self.requests.wait(bytes_of(&**store, &key, range, GUESS));
        match answer {
            Ok((size, tail)) => {
                let (requests, path) = (Arc::clone(&self.requests), path.to_owned());
                Ok(Some(Object { requests, path, key, size, tail }))
            }
            Err(Fault::NotFound { .. }) => Ok(None),
            Err(e) => Err(faults.error("read a file of the store", path, &e)),
        }
    }

    /// Whether the object that is there has these bytes; `None` when there is none.
    fn has(&self, path: &Path, bytes: &Bytes) -> Result<Option<bool>> {
        let Some(object) = self.object(path)? else { return Ok(None) };
        // Another writer's has another end, unless its footer is longer than the first guess.
        let is_alike = object.size == bytes.len() as u64 && bytes.ends_with(&object.tail);
        Ok(Some(is_alike && (object.tail.len() == bytes.len() || object.read(0, bytes.len())? == *bytes)))
    }

    fn names(&self) -> MutexGuard<'_, HashMap<PathBuf, Bytes>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The size of an object and those bytes of it, `most` at most: what a server sends beyond them is not taken in.
async fn bytes_of(
    store: &dyn ObjectStore,
    key: &Key,
    range: GetRange,
    most: usize,
) -> Result<(u64, Bytes), Fault> {
    let answer = store.get_opts(key, GetOptions { range: Some(range), ..GetOptions::default() }).await?;
    let size = answer.meta.size;
    let mut parts = answer.into_stream();
    let mut bytes = BytesMut::new();
    while let Some(part) = parts.next().await {
        bytes.extend_from_slice(&part?);
        if bytes.len() > most {
            let source = "the server sends more than it was asked for".into();
            return Err(Fault::Generic { store: "S3", source });
        }
    }
    Ok((size, bytes.freeze()))
}

/// The last part of each key.
fn names_of(keys: impl IntoIterator<Item = Key>) -> Vec<String> {
    keys.into_iter().filter_map(|key| Some(key.filename()?.to_owned())).collect()
}

/// What tells a version of an object from another.
fn stamp(seq: u64, object: &ObjectMeta) -> Stamp {
    let tag = object.e_tag.as_deref().map_or(0, |tag| {
        let hash = blake3::hash(tag.trim_matches('"').as_bytes());
        u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    });
    Stamp { seq, bytes: object.size, modified: Some(object.last_modified.into()), tag }
}

impl Disk for Bucket {
    fn root(&self) -> &Path {
        &self.requests.root
    }

    fn check(&self, create: bool) -> Result<()> {
        let mut is_empty = true;
        let root = &self.requests.root;
        self.each(root, None, |_, _| {
            is_empty = false;
            ControlFlow::Break(())
        })?;
        if is_empty && !create { Err(no_store(root)) } else { Ok(()) }
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let listed = self.listed(folder)?;
        let objects = listed.objects.into_iter().map(|object| object.location);
        Ok(names_of(listed.common_prefixes.into_iter().chain(objects)))
    }

    fn entries(&self, folder: &Path) -> Result<Entries> {
        let ListResult { common_prefixes, objects, .. } = self.listed(folder)?;
        let files = names_of(objects.into_iter().map(|object| object.location));
        Ok(Entries { folders: names_of(common_prefixes), files, ..Entries::default() })
    }

    fn holds_commits(&self, folder: &Path, depth: usize) -> Result<bool> {
        let mut holds = false;
        self.each(folder, None, |below, _| {
            let commit = below.last().and_then(|name| parse_commit(name));
            holds = commit.is_some() && below.len() <= depth + 1;
            if holds { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(holds)
    }

    fn files_obstruct(&self) -> bool {
        // An object keeps no prefix from having its name.
        false
    }

    fn commits(&self, folder: &Path) -> Result<Vec<Listed>> {
        let mut commits = Vec::new();
        self.each_commit(folder, None, |seq, object| {
            commits.push(Listed { seq, stamp: Some(stamp(seq, object)) });
        })?;
        commits.sort_unstable_by_key(|commit| commit.seq);
        Ok(commits)
    }

    fn newest(&self, folder: &Path, known: Option<u64>) -> Result<Option<Stamp>> {
        // Names with more digits than ten stand before others, so from there on all are asked for.
        let before = known.and_then(|known| known.checked_sub(1)).filter(|seq| *seq < 9_999_999_998);
        if let Some(before) = before
            && let Some(newest) = self.newest_behind(folder, Some(&commit_file(before)))?
        {
            return Ok(Some(newest));
        }
        self.newest_behind(folder, None)
    }

    fn newest_of_each(
        &self,
        folder: &Path,
        [first, last]: [&str; 2],
    ) -> Result<Option<Vec<(String, Stamp)>>> {
        let mut newest: Vec<(String, Stamp)> = Vec::new();
        let mut unfit = None;
        self.each(folder, Some(first), |below, object| {
            let Some(name) = below.first().filter(|name| name.as_str() <= last) else {
                return ControlFlow::Break(());
            };
            if let [_, file] = below
                && is_odd_commit(file)
            {
                unfit = Some(folder.join(name).join(file));
                return ControlFlow::Break(());
            }
            if let [_, file] = below
                && let Some(seq) = parse_commit(file)
            {
                match newest.last_mut().filter(|(known, _)| known == name) {
                    Some((_, known)) if known.seq > seq => {}
                    Some((_, known)) => *known = stamp(seq, object),
                    None => newest.push((name.clone(), stamp(seq, object))),
                }
            }
            if let [_, inside, .., file] = below
                && parse_commit(file).is_some()
            {
                unfit = Some(folder.join(name).join(inside));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        unfit.map_or(Ok(Some(newest)), |path| Err(stray(&path)))
    }

    fn changed(&self, _: &Path) -> Option<SystemTime> {
        None
    }

    fn stamp(&self, path: &Path, seq: u64) -> Result<Option<Stamp>> {
        let Requests { store, faults, .. } = &*self.requests;
        match self.requests.wait(store.head(&self.key(path))) {
            Ok(object) => Ok(Some(stamp(seq, &object))),
            Err(Fault::NotFound { .. }) => Ok(None),
            Err(e) => Err(faults.error("look at a file of the store", path, &e)),
        }
    }

    fn read_name(&self, path: &Path) -> Result<Option<Bytes>> {
        if let Some(known) = self.names().get(path) {
            return Ok(Some(known.clone()));
        }
        let Some(object) = self.object(path)? else { return Ok(None) };
        if object.size > LONGEST_NAME {
            return Err(corrupt(path, "the file that names the series is longer than any name"));
        }
        let text = object.read(0, usize::try_from(object.size).unwrap_or(usize::MAX))?;
        let mut names = self.names();
        if names.len() >= NAMES {
            names.clear();
        }
        names.insert(path.to_owned(), text.clone());
        Ok(Some(text))
    }

    fn open(&self, path: &Path) -> Result<Option<Box<dyn Content>>> {
        Ok(self.object(path)?.map(|object| Box::new(object) as Box<dyn Content>))
    }

    fn put_if_absent(&self, folder: &Path, name: &str, bytes: Vec<u8>) -> Result<Put> {
        let Requests { store, faults, .. } = &*self.requests;
        let path = folder.join(name);
        let (key, bytes) = (self.key(&path), Bytes::from(bytes));
        let mut pause = PAUSE;
        for attempt in 1.. {
            let payload = PutPayload::from(bytes.clone());
            let failed = match self.requests.wait(store.put_opts(&key, payload, PutMode::Create.into())) {
                Ok(_) => break,
                Err(failed) => failed,
            };
            match failed {
                // Somebody else's, or our own, put by a request whose answer was lost on its way.
                Fault::AlreadyExists { .. } => match self.has(&path, &bytes)? {
                    Some(true) => break,
                    Some(false) => return Ok(Put::Taken),
                    // Two puts have met and neither was taken, or it was taken away since.
                    None => {}
                },
                _ if fault::is_answer_lost(&failed) => {}
                _ => return Err(faults.error("write a file of the store", &path, &failed)),
            }
            if attempt == PUTS {
                return Err(faults.error("write a file of the store", &path, &failed));
            }
            thread::sleep(pause);
            pause *= 2;
        }
        reach(Step::Named)?;
        reach(Step::Durable)?;
        Ok(Put::Done)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let Requests { store, faults, .. } = &*self.requests;
        match self.requests.wait(store.delete(&self.key(path))) {
            Ok(()) | Err(Fault::NotFound { .. }) => Ok(()),
            Err(e) => Err(faults.error("remove a file of the store", path, &e)),
        }
    }

    fn is_in_the_way(&self, _: &Path) -> bool {
        false
    }

    fn has_folder(&self, _: &Path) -> bool {
        true
    }

    fn create_folders(&self, _: &Path, _: &dyn Fn(&Path) -> bool) -> Result<()> {
        Ok(())
    }

    fn sync_folder(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn prove(&self, path: &Path) -> Result<()> {
        if self.is_proven.load(Ordering::Relaxed) {
            return Ok(());
        }
        // A server that does not know the condition replaces the object by an equal one.
        let Some(text) = self.read_name(path)? else { return Ok(()) };
        let Requests { store, faults, .. } = &*self.requests;
        match self.requests.wait(store.put_opts(&self.key(path), text.into(), PutMode::Create.into())) {
            Err(Fault::AlreadyExists { .. }) => {
                self.is_proven.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(e) => Err(faults.error("write a file of the store", path, &e)),
            Ok(_) => {
                let message = "the server puts an object over another although the request forbids it \
                               (If-None-Match: *): writers would undo each other; use a server that honours it";
                Err(Error::new(ErrorKind::Unsupported, message).with("path", self.requests.root.display()))
            }
        }
    }

    fn attempt(&self) -> Option<String> {
        // What is hashed does not matter: the hasher's keys are random, others in each process and call.
        Some(format!("{:016x}", RandomState::new().hash_one(PUTS)))
    }
}

/// An object whose end has been read.
#[derive(Debug)]
struct Object {
    requests: Arc<Requests>,
    path: PathBuf,
    key: Key,
    size: u64,
    tail: Bytes,
}

impl Content for Object {
    fn size(&self) -> Result<u64> {
        Ok(self.size)
    }

    fn read(&self, start: usize, length: usize) -> Result<Bytes> {
        let truncated = || corrupt(&self.path, "the file is truncated");
        let size = usize::try_from(self.size).map_err(|_| truncated())?;
        let end = start.checked_add(length).filter(|end| *end <= size).ok_or_else(truncated)?;
        if let Some(from) = start.checked_sub(size - self.tail.len()) {
            return Ok(self.tail.slice(from..from + length));
        }
        let Requests { store, faults, .. } = &*self.requests;
        let range = GetRange::Bounded(start as u64..end as u64);
        match self.requests.wait(bytes_of(&**store, &self.key, range, length)) {
            Ok((_, bytes)) if bytes.len() == length => Ok(bytes),
            Ok(_) => Err(truncated()),
            Err(Fault::NotFound { .. }) => {
                Err(Error::new(ErrorKind::NotFound, "a file of the store was removed while it was read")
                    .with("path", self.path.display()))
            }
            Err(e) => Err(faults.error("read a file of the store", &self.path, &e)),
        }
    }
}
