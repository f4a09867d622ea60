//! The memory backend against the conformance suite: plain, and behind each pointer that the
//! protocol forwards through.

use std::sync::Arc;

use qmtl_history_testkit::Subject;
use qmtl_io_memory::MemoryBackend;

/// Another handle of a store in memory is the same store.
fn subject(backend: &Arc<MemoryBackend>) -> Subject {
    let other = Arc::clone(backend);
    Subject::new(Arc::clone(backend)).with_reopen(move || std::future::ready(Arc::clone(&other)))
}

mod plain {
    use super::*;

    async fn fresh() -> Option<Subject> {
        Some(Subject::new(MemoryBackend::new()))
    }

    qmtl_history_testkit::backend_conformance!(fresh);
}

mod arc {
    use super::*;

    async fn fresh() -> Option<Subject> {
        Some(subject(&Arc::default()))
    }

    qmtl_history_testkit::backend_conformance!(fresh);
}

mod boxed {
    use super::*;

    async fn fresh() -> Option<Subject> {
        let backend: Box<dyn qmtl_history_api::HistoryBackend> = Box::new(MemoryBackend::new());
        Some(Subject::new(backend))
    }

    qmtl_history_testkit::backend_conformance!(fresh);
}
