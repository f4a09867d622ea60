//! The caching wrapper is a backend like any other, and stale for nobody.

use std::future::ready;
use std::sync::Arc;

use qmtl_backfill::Cached;
use qmtl_history_testkit::Subject;
use qmtl_io_memory::MemoryBackend;

/// The second handle writes past the first one's memory.
async fn fresh() -> Option<Subject> {
    let backend = Arc::new(MemoryBackend::new());
    let other = Arc::clone(&backend);
    Some(Subject::new(Cached::new(backend)).with_reopen(move || ready(Arc::clone(&other))))
}

qmtl_history_testkit::backend_conformance!(fresh);
