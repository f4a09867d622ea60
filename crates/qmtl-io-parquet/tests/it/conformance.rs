//! Every guarantee of `HistoryBackend`, with other handles onto the same folder beside the first.

use qmtl_history_testkit::Subject;
use qmtl_io_parquet::{ParquetBackend, ParquetConfig};

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
