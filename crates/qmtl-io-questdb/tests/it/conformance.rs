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

/// A backend that adds columns when a write has new ones.
mod adding_columns {
    use super::{Subject, server, subject};

    async fn fresh() -> Option<Subject> {
        Some(subject(server::fresh()?.with_add_columns(true)).await)
    }

    qmtl_history_testkit::backend_conformance!(fresh);
}

/// Every series in one table, whose columns they share.
mod one_table {
    use super::{Subject, server, subject};

    async fn fresh() -> Option<Subject> {
        Some(subject(server::one_table()?.with_add_columns(true)).await)
    }

    qmtl_history_testkit::backend_conformance!(fresh);
}
