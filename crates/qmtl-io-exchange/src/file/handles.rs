//! Files that are closed when many are open, and opened again when they are read: a source may have more files than a
//! process may have open.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use qmtl_history_api::Result;

/// The most files of a process that stay open between two reads.
const KEPT: usize = 64;

/// The files that are open, those that were read last behind the others.
static OPEN: Mutex<VecDeque<Weak<Reopened>>> = Mutex::new(VecDeque::new());

/// A file that can be opened again.
pub(super) struct Reopened {
    file: Mutex<Option<Arc<File>>>,
    again: Box<dyn Fn() -> Result<File> + Send + Sync>,
}

impl fmt::Debug for Reopened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reopened").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Reopened {
    /// An open file, and how to open it once it was closed.
    pub(super) fn new(file: File, again: impl Fn() -> Result<File> + Send + Sync + 'static) -> Arc<Self> {
        let this = Arc::new(Self { file: Mutex::new(Some(Arc::new(file))), again: Box::new(again) });
        this.was_read();
        this
    }

    /// The file, opened if need be. Whoever needs it meanwhile waits, so that nothing is unpacked twice.
    pub(super) fn get(self: &Arc<Self>) -> Result<Arc<File>> {
        let file = {
            let mut open = locked(&self.file);
            match open.as_ref() {
                Some(file) => Arc::clone(file),
                None => Arc::clone(open.insert(Arc::new((self.again)()?))),
            }
        };
        self.was_read();
        Ok(file)
    }

    /// Makes this the last one to be closed, and closes the first one where there are too many.
    fn was_read(self: &Arc<Self>) {
        let mut open = locked(&OPEN);
        let is_this = |other: &Weak<Self>| std::ptr::eq(other.as_ptr(), Arc::as_ptr(self));
        if open.back().is_some_and(is_this) {
            return;
        }
        open.retain(|other| other.strong_count() > 0 && !is_this(other));
        open.push_back(Arc::downgrade(self));
        let closed = (open.len() > KEPT).then(|| open.pop_front()).flatten();
        drop(open);
        // One that is being opened at this moment is about to be read. To wait for it could be to wait for oneself: what
        // is unpacked opens what it is unpacked from.
        if let Some(closed) = closed.and_then(|closed| closed.upgrade())
            && let Ok(mut file) = closed.file.try_lock()
        {
            *file = None;
        }
    }
}

/// A panic elsewhere leaves nothing half done behind these locks.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::thread;

    use super::*;

    #[test]
    fn many_threads_read_more_files_than_are_kept_open() {
        let folder = tempfile::tempdir().expect("a folder for the files");
        let files: Vec<_> = (0..3 * KEPT)
            .map(|at| {
                let path = folder.path().join(at.to_string());
                std::fs::write(&path, at.to_string()).expect("the file is written");
                let open = move || File::open(&path).map_err(super::super::bytes::io_error);
                let outer = Reopened::new(open().expect("it is there"), open);
                // One that opens another one, as what is unpacked does.
                let origin = Arc::clone(&outer);
                let again = move || origin.get()?.try_clone().map_err(super::super::bytes::io_error);
                Reopened::new(again().expect("it is open"), again)
            })
            .collect();
        thread::scope(|scope| {
            for start in 0..4 {
                let files = &files;
                scope.spawn(move || {
                    for at in (0..files.len()).chain((0..files.len()).rev()).skip(start * 7) {
                        assert!(files[at].get().is_ok());
                    }
                });
            }
        });
        let open = files.iter().filter(|file| locked(&file.file).is_some()).count();
        assert!(open <= KEPT, "{open} are open");
        let mut text = String::new();
        let file = files[5].get().expect("it is opened again");
        std::io::Seek::seek(&mut &*file, std::io::SeekFrom::Start(0)).expect("a file can be sought in");
        (&*file).read_to_string(&mut text).expect("it is read");
        assert_eq!(text, "5");
    }
}
