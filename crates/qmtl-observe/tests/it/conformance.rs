//! The observing wrapper is as good a backend as the one inside it.

use qmtl_history_testkit::Subject;
use qmtl_io_memory::MemoryBackend;
use qmtl_observe::Observed;

async fn fresh() -> Option<Subject> {
    Some(Subject::new(Observed::new(MemoryBackend::new())))
}

qmtl_history_testkit::backend_conformance!(fresh);
