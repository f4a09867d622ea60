//! Every guarantee of `HistoryBackend`, with other handles onto the same store beside the first.

use qmtl_history_testkit::Subject;
use qmtl_io_parquet::{ParquetBackend, ParquetConfig};

mod in_a_folder {
    use super::*;

    async fn fresh() -> Option<Subject> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = ParquetConfig::new(folder.path().join("store"));
        let open = move || {
            let config = config.clone();
            async move { ParquetBackend::open(config).await.expect("the store opens") }
        };
        Some(Subject::new(open().await).with_reopen(open).with_guard(folder))
    }

    qmtl_history_testkit::backend_conformance!(fresh);
}

#[cfg(feature = "s3")]
mod in_memory {
    use std::sync::Arc;

    use qmtl_io_parquet::object_store::memory::InMemory;

    use super::*;

    async fn fresh() -> Option<Subject> {
        let bucket = Arc::new(InMemory::new());
        let open = move || {
            let (bucket, config) = (Arc::clone(&bucket), ParquetConfig::new("memory:///some/prefix"));
            async move { ParquetBackend::open_in(bucket, config).await.expect("the store opens") }
        };
        Some(Subject::new(open().await).with_reopen(open))
    }

    qmtl_history_testkit::backend_conformance!(fresh);
}

#[cfg(feature = "s3")]
mod on_a_server {
    use super::*;
    use crate::server;

    async fn fresh() -> Option<Subject> {
        let config = ParquetConfig::new(server::fresh()?);
        let open = move || {
            let config = config.clone();
            async move { ParquetBackend::open(config).await.expect("the store opens") }
        };
        Some(Subject::new(open().await).with_reopen(open))
    }

    qmtl_history_testkit::backend_conformance!(fresh);
}
