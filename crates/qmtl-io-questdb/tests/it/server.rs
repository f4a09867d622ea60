//! The server that the tests talk to: the one that `cargo xtask integration` has started.

use std::sync::atomic::{AtomicU32, Ordering};

use qmtl_io_questdb::QuestDbConfig;

/// Where the server is, as `cargo xtask integration` says it.
const VARIABLE: &str = "QMTL_TEST_QUESTDB_DSN";

static STORES: AtomicU32 = AtomicU32::new(0);

/// The server, `None` when there is none.
pub(crate) fn dsn() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|dsn| !dsn.is_empty())
}

/// An empty store of its own on the server.
pub(crate) fn fresh() -> Option<QuestDbConfig> {
    let number = STORES.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("t{}_{number}_", std::process::id());
    Some(QuestDbConfig::from_dsn(&dsn()?).unwrap().with_prefix(prefix))
}
