//! When a fault strikes, the requests that it covers, and the text form of both.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::fault::Fault;
use crate::log::{Endpoint, RequestRecord};
use crate::{Error, Result};

/// Decides by the request; see [`When::matching`].
type Predicate = Arc<dyn Fn(&RequestRecord) -> bool + Send + Sync>;

/// At which requests a fault strikes. Each rule counts from 1, from the moment it is set, the requests
/// that its [`Target`] covers.
#[derive(Clone)]
#[non_exhaustive]
pub enum When {
    /// Every request.
    Always,
    /// The first request.
    Once,
    /// Every n-th request: for 5 the fifth, the tenth …; for 0 none.
    Every(u64),
    /// The requests with these numbers.
    Numbers(Vec<u64>),
    /// Each request with this probability, from a seeded generator.
    Random(f64, u64),
    /// The requests that a closure picks; see [`When::matching`].
    Matching(Predicate),
}

impl When {
    /// The requests for which `pick` says so. The record's status is not known yet. `pick` must not call
    /// the server, which waits for it.
    pub fn matching(pick: impl Fn(&RequestRecord) -> bool + Send + Sync + 'static) -> Self {
        Self::Matching(Arc::new(pick))
    }
}

impl fmt::Debug for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Once => f.write_str("once"),
            Self::Every(n) => write!(f, "every:{n}"),
            Self::Numbers(numbers) => write!(f, "{numbers:?}"),
            Self::Random(probability, seed) => write!(f, "random:{probability}:{seed}"),
            Self::Matching(_) => f.write_str("matching"),
        }
    }
}

/// `always`, `once`, `every:5`, `3,7,9`, `random:0.1` or `random:0.1:SEED`.
impl FromStr for When {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::input(format!("schedule '{text}': not always, once, every:5, 3,7,9 or random:0.1[:SEED]"))
        };
        let parts: Vec<&str> = text.split(':').collect();
        let random = |probability: &str, seed: u64| match probability.parse() {
            Ok(p) if (0.0..=1.0).contains(&p) => Ok(Self::Random(p, seed)),
            _ => Err(wrong()),
        };
        match parts.as_slice() {
            ["always"] => Ok(Self::Always),
            ["once"] => Ok(Self::Once),
            ["every", n] => n.parse().ok().filter(|n| *n > 0).map(Self::Every).ok_or_else(wrong),
            ["random", probability] => random(probability, 0),
            ["random", probability, seed] => random(probability, seed.parse().map_err(|_| wrong())?),
            [numbers] => {
                let numbers = numbers.split(',').map(str::parse).collect::<std::result::Result<_, _>>();
                numbers.map(Self::Numbers).map_err(|_| wrong())
            }
            _ => Err(wrong()),
        }
    }
}

/// The requests that a rule covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Target {
    /// Requests for candles: pages of all exchanges and archive files.
    #[default]
    Candles,
    /// Archive files and their checksums.
    Archives,
    /// Every request, the time and the ping too.
    Any,
}

impl Target {
    fn covers(self, endpoint: Endpoint) -> bool {
        match self {
            Self::Candles => matches!(
                endpoint,
                Endpoint::Klines | Endpoint::ProductCandles | Endpoint::Archive | Endpoint::VenueCandles
            ),
            Self::Archives => endpoint == Endpoint::Archive,
            Self::Any => true,
        }
    }
}

/// A fault and its schedule. Of several rules that strike at once, the one set first does.
#[derive(Debug, Clone)]
pub struct FaultRule {
    fault: Fault,
    when: When,
    target: Target,
    seen: u64,
    random: fastrand::Rng,
}

impl FaultRule {
    /// `fault` at the requests for candles that `when` names.
    pub fn new(fault: Fault, when: When) -> Self {
        let seed = if let When::Random(_, seed) = &when { *seed } else { 0 };
        Self { fault, when, target: Target::default(), seen: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// Covers other requests than those for candles.
    #[must_use]
    pub fn with_target(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// Counts the request when it is covered; the fault when it strikes.
    pub(crate) fn strike(&mut self, request: &RequestRecord) -> Option<&Fault> {
        if !self.target.covers(request.endpoint) {
            return None;
        }
        self.seen += 1;
        let strikes = match &self.when {
            When::Always => true,
            When::Once => self.seen == 1,
            When::Every(n) => self.seen.checked_rem(*n) == Some(0),
            When::Numbers(numbers) => numbers.contains(&self.seen),
            When::Random(probability, _) => self.random.f64() < *probability,
            When::Matching(pick) => pick(request),
        };
        strikes.then_some(&self.fault)
    }
}

/// A fault, and after an `@` its schedule: `truncated`, `429=30@every:5`, `off-grid@random:0.1:7`.
impl FromStr for FaultRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.rsplit_once('@') {
            Some((fault, when)) => Ok(Self::new(fault.parse()?, when.parse()?)),
            None => Ok(Self::new(text.parse()?, When::Always)),
        }
    }
}
