//! This process as one of many workers: its name, its coordinator, its leases.

use std::path::Path;

use qmtl_backfill::lease::{DistributedBackfillCoordinator, Keeper, LeaseConfig, OnLoss};
use qmtl_coordinator::BearerTokens;
use qmtl_history_api::Result;

use crate::cli::{Loss, WorkerArgs};

/// What holds the leases of this process; `None` when it works by itself.
pub(crate) fn keeper(args: &WorkerArgs) -> Result<Option<Keeper>> {
    let Some(url) = &args.coordinator else { return Ok(None) };
    let client = client(url, args.token_file.as_deref())?;
    let mut config = LeaseConfig::new(args.worker_id.clone().unwrap_or_else(name));
    if let Some(lease) = args.lease {
        config = config.with_ttl(lease);
    }
    if args.on_coordinator_loss == Some(Loss::Alone) {
        let patience = config.patience;
        config = config.with_on_loss(OnLoss::Alone, patience);
    }
    Keeper::start(client, config).map(Some)
}

/// A client of the coordinator, with the token of the file or of the environment.
pub(crate) fn client(url: &str, token_file: Option<&Path>) -> Result<DistributedBackfillCoordinator> {
    let client = DistributedBackfillCoordinator::new(url)?;
    let token = match token_file {
        Some(path) => Some(BearerTokens::first_of(path)?),
        None => std::env::var("QMTL_COORDINATOR_TOKEN").ok().filter(|token| !token.is_empty()),
    };
    match token {
        Some(token) => client.with_bearer(&token),
        None => Ok(client),
    }
}

/// What the worker is called unless its user says so: as the Python original does.
fn name() -> String {
    let of = |variable: &str| std::env::var(variable).ok().filter(|name| !name.is_empty());
    of("QMTL_SEAMLESS_WORKER").or_else(|| of("QMTL_WORKER_ID")).unwrap_or_else(host)
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "worker".into())
}
