//! Every guarantee of `HistoryBackend` on a real server, with other handles beside the first.

use qmtl_history_testkit::Subject;
use qmtl_io_questdb::{QuestDbBackend, QuestDbConfig};

use crate::server;

async fn subject(config: QuestDbConfig) -> Subject {
    let open = move || {
        let config = config.clone();
        async move { QuestDbBackend::connect(config).await.expect("the server answers") }
    };
    Subject::new(open().await).with_reopen(open)
}

async fn fresh() -> Option<Subject> {
    Some(subject(server::fresh()?).await)
}

qmtl_history_testkit::backend_conformance!(fresh);
