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

/// Every series in one table, whose columns they share: a column has one type for all of them, so
/// that the check of all types, each in a series of its own, cannot hold there. Every other one does.
#[test]
fn one_table_for_all_series_keeps_every_guarantee_but_that_of_a_type_for_each() {
    let fresh = || async { Some(subject(server::one_table()?.with_add_columns(true)).await) };
    let is_kept =
        |check: &&qmtl_history_testkit::Check| check.name != "h_write_06_every_type_held_or_refused";
    let kept: Vec<_> = qmtl_history_testkit::CHECKS.iter().filter(is_kept).collect();
    assert_eq!(kept.len(), qmtl_history_testkit::CHECKS.len() - 1);
    for check in kept {
        qmtl_history_testkit::run(check, fresh);
    }
}
