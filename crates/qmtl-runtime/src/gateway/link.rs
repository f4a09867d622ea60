//! Keeps a strategy known to its gateway, and the activation true to what the gateway says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use qmtl_history_api::{Clock, Error, ErrorKind, Result};
use qmtl_observe::events;
use tokio::sync::mpsc;

use super::World;
use super::client::Client;
use super::wire::{HistoryReport, Submission};
use crate::{Activation, Side, Strategy, WarmupReport};

/// The longest that a decision is believed, whatever it says itself.
const LONGEST_TTL: Duration = Duration::from_secs(3_600);

pub(super) struct Link {
    client: Client,
    world: String,
    clock: Arc<dyn Clock>,
    activation: Activation,
    submission: Submission,
    poll: Duration,
    stale_after: Duration,
    /// The strategy's id while the gateway knows it.
    strategy: Option<String>,
    /// Whether the gateway has taken the strategy once.
    was_taken: bool,
    is_lost: bool,
    unpublished: VecDeque<HistoryReport>,
}

impl Link {
    pub(super) fn new(world: &World, strategy: &Strategy, client: Client) -> Self {
        Self {
            client,
            clock: Arc::clone(&world.clock),
            activation: world.activation.clone(),
            submission: Submission::new(strategy, &world.id),
            world: world.id.clone(),
            poll: world.poll,
            stale_after: world.stale_after,
            strategy: None,
            was_taken: false,
            is_lost: false,
            unpublished: VecDeque::new(),
        }
    }

    /// Asks the gateway every so often, and at once when there is something to publish. Ends when
    /// nobody will report any more and everything is published; fails when the gateway refuses the
    /// strategy at its first submission.
    pub(super) async fn run(mut self, mut reports: mpsc::Receiver<WarmupReport>) -> Result<()> {
        let mut is_open = true;
        loop {
            match self.round().await {
                Err(error) if self.refuses(&error) => return Err(error.with("world", &self.world)),
                Err(error) => self.lost(&error),
                Ok(()) => {}
            }
            if !is_open && self.unpublished.is_empty() {
                return Ok(());
            }
            tokio::select! {
                biased;
                report = reports.recv(), if is_open => match report {
                    Some(report) => {
                        let told = report.inputs.iter().map(|input| HistoryReport::new(input, &self.world));
                        self.unpublished.extend(told);
                    }
                    None => is_open = false,
                },
                () = self.clock.sleep(self.poll) => {}
            }
        }
    }

    /// Whether an error means that this gateway will never take this strategy.
    fn refuses(&self, error: &Error) -> bool {
        !self.was_taken && matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound)
    }

    fn lost(&mut self, error: &Error) {
        if error.kind() == ErrorKind::NotFound {
            // It was restarted, say, and has forgotten the strategy.
            self.strategy = None;
            self.activation.clear();
        }
        if !std::mem::replace(&mut self.is_lost, true) {
            events::gateway_lost(&self.world, error);
        }
    }

    async fn round(&mut self) -> Result<()> {
        let strategy = match self.strategy.take() {
            Some(strategy) => strategy,
            None => {
                let strategy = self.client.submit(&self.submission).await?;
                if !self.was_taken {
                    events::gateway_found(&self.world, &strategy);
                }
                self.was_taken = true;
                strategy
            }
        };
        self.strategy = Some(strategy.clone());
        while let Some(report) = self.unpublished.front() {
            match self.client.publish(&strategy, report).await {
                // What it refuses it would refuse again.
                Err(error) if error.kind() == ErrorKind::InvalidInput => self.lost(&error),
                published => published?,
            }
            self.unpublished.pop_front();
        }
        self.decision().await?;
        self.sides(&strategy).await?;
        if std::mem::take(&mut self.is_lost) {
            events::gateway_found(&self.world, &strategy);
        }
        Ok(())
    }

    /// A decision holds from when it was made: one that waited somewhere on the way is an old one.
    async fn decision(&self) -> Result<()> {
        let (asked, now) = (self.clock.monotonic(), self.clock.now());
        let answer = self.client.decide(&self.world).await?;
        let (mode, as_of, ttl) = answer
            .content
            .read()
            .map_err(|e| Error::unavailable("the gateway's decision cannot be read").caused_by(e))?;
        let ttl = Duration::from_secs(ttl.as_secs().unsigned_abs()).min(LONGEST_TTL);
        let left = ttl.saturating_sub(now.since(as_of));
        if answer.is_stale || left.is_zero() {
            return Err(stale("decision").with("as_of", as_of));
        }
        self.activation.set_mode(mode, asked + left);
        Ok(())
    }

    /// Both sides at once: a freeze of one halts the other too.
    async fn sides(&self, strategy: &str) -> Result<()> {
        let asked = self.clock.monotonic();
        let mut states = Vec::with_capacity(2);
        for side in Side::ALL {
            let answer = self.client.activation(&self.world, strategy, side).await?;
            if answer.is_stale {
                return Err(stale("activation").with("side", side.as_str()));
            }
            states.push(answer.content.into());
        }
        if let [long, short] = states[..] {
            self.activation.set_sides([long, short], asked + self.stale_after);
        }
        Ok(())
    }
}

fn stale(what: &'static str) -> Error {
    Error::unavailable("the gateway's answer is too old").with("answer", what)
}
