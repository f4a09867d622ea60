#![doc = include_str!("../README.md")]

mod embedded;
#[cfg(feature = "postgres")]
mod postgres;
mod server;
mod sql;
mod tokens;

use qmtl_backfill::lease::{BackfillCoordinator, InProcessCoordinator, Query, State};
use qmtl_history_api::{Result, Timestamp, async_trait};

pub use embedded::EmbeddedStore;
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
pub use server::{Limits, Server};
pub use tokens::BearerTokens;

/// Where a server keeps its leases.
#[async_trait]
pub trait LeaseStore: BackfillCoordinator {
    /// How many keys are in each state, for metrics.
    async fn counts(&self) -> Result<Vec<(State, u64)>>;

    /// Forgets some of the keys that are over and were last changed before this time, so that a call does not take
    /// long; tells how many. What is held, dead, or waits for another attempt is kept.
    async fn forget(&self, before: Timestamp) -> Result<u64>;

    /// Readies what it keeps for being copied. The last call of a server that ends.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// Forgets its leases with the process: for tests, and for workers that come and go with their server.
#[async_trait]
impl LeaseStore for InProcessCoordinator {
    async fn counts(&self) -> Result<Vec<(State, u64)>> {
        let mut counts = State::ALL.map(|state| (state, 0));
        let mut query = Query::new("").with_limit(Query::LONGEST);
        loop {
            let page = self.inspect(&query).await?;
            for listed in &page.leases {
                let state = listed.lease.state(page.now);
                counts.iter_mut().filter(|(own, _)| *own == state).for_each(|(_, keys)| *keys += 1);
            }
            match page.next {
                Some(next) => query = query.with_after(next),
                None => return Ok(counts.into()),
            }
        }
    }

    async fn forget(&self, before: Timestamp) -> Result<u64> {
        Ok(self.retain(|lease| !lease.is_over_since(before)))
    }
}
