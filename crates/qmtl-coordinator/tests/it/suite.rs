//! What every coordinator must do, and the faults that each check sees.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use qmtl_backfill::lease::{
    BackfillCoordinator, Command, Grant, InProcessCoordinator, LeaseKey, Listed, Outcome, Page, Policy,
    Query, Refusal, Reply, State, Status,
};
use qmtl_coordinator::LeaseStore;
use qmtl_history_api::{Clock, ErrorKind, Result, Timestamp, async_trait};
use qmtl_history_testkit::fixtures::ManualClock;
use qmtl_observe::TokioClock;

/// Under which coordinators are checked: leases may be short, so that they can be seen to expire.
pub(crate) fn policy() -> Policy {
    let mut policy = Policy::default().with_max_attempts(3);
    policy.shortest = Duration::from_millis(1);
    policy
}

/// Long enough for a machine that is busy.
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(1);
/// Well over a short lease.
const WHILE: Duration = Duration::from_millis(20);

type Check = fn(Arc<dyn BackfillCoordinator>) -> BoxFuture<'static, ()>;

pub(crate) const CHECKS: [(&str, Check); 10] = [
    ("exclusive", |subject| exclusive(subject).boxed()),
    ("expiry", |subject| expiry(subject).boxed()),
    ("renewal", |subject| renewal(subject).boxed()),
    ("tokens", |subject| tokens(subject).boxed()),
    ("failures", |subject| failures(subject).boxed()),
    ("releases", |subject| releases(subject).boxed()),
    ("recovery", |subject| recovery(subject).boxed()),
    ("repetition", |subject| repetition(subject).boxed()),
    ("keys", |subject| keys(subject).boxed()),
    ("pages", |subject| pages(subject).boxed()),
];

/// Runs all checks; each uses keys of its own.
pub(crate) async fn run(subject: impl BackfillCoordinator) {
    let subject: Arc<dyn BackfillCoordinator> = Arc::new(subject);
    for (name, check) in CHECKS {
        let done = tokio::spawn(check(Arc::clone(&subject))).await;
        assert!(done.is_ok(), "`{name}` failed over {}", subject.id());
    }
}

async fn claim(subject: &dyn BackfillCoordinator, key: &str, ttl: Duration) -> Reply {
    subject.apply(key, Command::Claim { ttl, worker: Some("w1".into()), request_id: None }).await.unwrap()
}

async fn granted(subject: &dyn BackfillCoordinator, key: &str, ttl: Duration) -> Grant {
    match claim(subject, key, ttl).await {
        Reply::Granted(grant) => grant,
        other => panic!("{key}: {other:?}"),
    }
}

async fn refused(subject: &dyn BackfillCoordinator, key: &str) -> Refusal {
    match claim(subject, key, LONG).await {
        Reply::Refused(refusal) => refusal,
        other => panic!("{key}: {other:?}"),
    }
}

async fn complete(subject: &dyn BackfillCoordinator, key: &str, token: &str) -> Reply {
    let (token, retry_after) = (token.to_owned(), Duration::ZERO);
    subject.apply(key, Command::Complete { token, missing: 0, ratio: 1.0, retry_after }).await.unwrap()
}

async fn fail(subject: &dyn BackfillCoordinator, key: &str, token: &str) -> Reply {
    subject
        .apply(key, Command::Fail { token: token.to_owned(), reason: "no\0 disk".into(), ratio: None })
        .await
        .unwrap()
}

async fn release(subject: &dyn BackfillCoordinator, key: &str, token: &str) -> Reply {
    subject
        .apply(key, Command::Release { token: token.to_owned(), reason: "outage".into(), ratio: None })
        .await
        .unwrap()
}

async fn renew(subject: &dyn BackfillCoordinator, key: &str, token: &str, ratio: f64) -> Reply {
    let (token, ttl, ratio) = (token.to_owned(), LONG, Some(ratio));
    subject.apply(key, Command::Renew { token, ttl, ratio }).await.unwrap()
}

async fn pass() {
    TokioClock::new().sleep(WHILE).await;
}

const DONE: Reply = Reply::Ended { ratio: 1.0, status: Status::Done };

/// Of many that claim one key at the same time one gets it; the others are told who.
async fn exclusive(subject: Arc<dyn BackfillCoordinator>) {
    for round in 0..5 {
        let key = format!("exclusive:{round}");
        let claims = (0..20).map(|_| {
            let (subject, key) = (Arc::clone(&subject), key.clone());
            tokio::spawn(async move { claim(&*subject, &key, LONG).await })
        });
        let replies: Vec<_> =
            futures::future::join_all(claims).await.into_iter().map(Result::unwrap).collect();
        let grants = replies.iter().filter(|reply| matches!(reply, Reply::Granted(_))).count();
        assert_eq!(grants, 1, "{replies:?}");
        let refusal = refused(&*subject, &key).await;
        assert_eq!((refusal.outcome, refusal.worker.as_deref()), (Outcome::Held, Some("w1")));
    }
}

/// A lease ends by itself; until somebody else has it, its holder may complete it.
async fn expiry(subject: Arc<dyn BackfillCoordinator>) {
    let first = granted(&*subject, "expiry", SHORT).await;
    pass().await;
    assert_eq!(renew(&*subject, "expiry", &first.token, 0.5).await, Reply::Stale, "its time is over");
    let second = granted(&*subject, "expiry", SHORT).await;
    assert!(second.fence > first.fence);
    pass().await;
    assert_eq!(complete(&*subject, "expiry", &first.token).await, Reply::Stale);
    assert_eq!(complete(&*subject, "expiry", &second.token).await, DONE);
}

async fn renewal(subject: Arc<dyn BackfillCoordinator>) {
    let grant = granted(&*subject, "renewal", Duration::from_secs(60)).await;
    let Reply::Renewed(renewed) = renew(&*subject, "renewal", &grant.token, 0.25).await else { panic!() };
    assert!(renewed.until > grant.until && renewed.token == grant.token);
    assert_eq!(renewed.ratio, 0.25);
    assert_eq!(refused(&*subject, "renewal").await.until.as_millis(), renewed.until.as_millis());
    assert_eq!(complete(&*subject, "renewal", &grant.token).await, DONE);
    assert_eq!(
        renew(&*subject, "renewal", &grant.token, 0.5).await,
        Reply::Stale,
        "nothing revives what is done"
    );
}

/// Only the token of the last grant counts, and no two are alike.
async fn tokens(subject: Arc<dyn BackfillCoordinator>) {
    let (token, retry_after) = ("1-0".to_owned(), Duration::ZERO);
    for command in [
        Command::Complete { token: token.clone(), missing: 0, ratio: 1.0, retry_after },
        Command::Renew { token: token.clone(), ttl: LONG, ratio: None },
        Command::Recover { token: None, is_done: false, reason: "r".into() },
    ] {
        assert_eq!(subject.apply("tokens:never", command).await.unwrap(), Reply::Unknown);
    }
    let (mut seen, mut fence) = (BTreeSet::new(), 0);
    for round in 0..20 {
        let key = format!("tokens:{}", round % 2);
        let grant = granted(&*subject, &key, LONG).await;
        assert!(!grant.token.contains(':') && seen.insert(grant.token.clone()), "{grant:?}");
        assert!(grant.fence > fence, "{} after {fence}", grant.fence);
        fence = grant.fence;
        for other in seen.iter().filter(|token| **token != grant.token) {
            assert_eq!(complete(&*subject, &key, other).await, Reply::Stale);
        }
        assert_eq!(complete(&*subject, &key, &grant.token).await, DONE);
        assert_eq!(
            complete(&*subject, &key, &grant.token).await,
            DONE,
            "an answer that was lost is given again"
        );
    }
}

/// What fails is tried again, and not for ever.
async fn failures(subject: Arc<dyn BackfillCoordinator>) {
    let first = granted(&*subject, "failures", LONG).await;
    assert_eq!(
        fail(&*subject, "failures", &first.token).await,
        Reply::Ended { ratio: 0.0, status: Status::Failed }
    );
    let second = granted(&*subject, "failures", SHORT).await;
    pass().await;
    let third = granted(&*subject, "failures", LONG).await;
    assert!(third.fence > second.fence);
    assert_eq!(
        fail(&*subject, "failures", &third.token).await,
        Reply::Ended { ratio: 0.0, status: Status::Dead }
    );
    assert_eq!(refused(&*subject, "failures").await.outcome, Outcome::Dead);
    // Whoever settles a bar has not failed.
    for _ in 0..5 {
        let grant = granted(&*subject, "failures:slow", LONG).await;
        renew(&*subject, "failures:slow", &grant.token, grant.ratio + 0.125).await;
        fail(&*subject, "failures:slow", &grant.token).await;
    }
}

/// What is given back has not failed; what could not be settled is left alone for a while.
async fn releases(subject: Arc<dyn BackfillCoordinator>) {
    for _ in 0..5 {
        let grant = granted(&*subject, "releases", LONG).await;
        let ended = Reply::Ended { ratio: 0.0, status: Status::Released };
        assert_eq!(release(&*subject, "releases", &grant.token).await, ended);
        assert_eq!(release(&*subject, "releases", &grant.token).await, ended);
    }
    let token = granted(&*subject, "releases:partial", LONG).await.token;
    let command = Command::Complete { token, missing: 3, ratio: 0.5, retry_after: LONG };
    let reply = subject.apply("releases:partial", command).await.unwrap();
    assert_eq!(reply, Reply::Ended { ratio: 0.5, status: Status::Partial });
    assert_eq!(refused(&*subject, "releases:partial").await.outcome, Outcome::Backoff);
}

/// An operator can end anything.
async fn recovery(subject: Arc<dyn BackfillCoordinator>) {
    let recover = async |token: Option<&str>, is_done| {
        let (token, reason) = (token.map(str::to_owned), "manual_recovery".to_owned());
        subject.apply("recovery", Command::Recover { token, is_done, reason }).await.unwrap()
    };
    let grant = granted(&*subject, "recovery", LONG).await;
    assert_eq!(recover(Some("0-0"), false).await, Reply::Stale);
    assert_eq!(
        recover(Some(&grant.token), false).await,
        Reply::Ended { ratio: 0.0, status: Status::Released }
    );
    let grant = granted(&*subject, "recovery", LONG).await;
    assert_eq!(recover(None, true).await, DONE);
    assert_eq!(complete(&*subject, "recovery", &grant.token).await, Reply::Stale, "its holder is out");
    let grant = granted(&*subject, "recovery", LONG).await;
    assert_eq!(complete(&*subject, "recovery", &grant.token).await, DONE);
    assert_eq!(recover(Some(&grant.token), false).await, Reply::Stale, "what is done stays done");
    assert_eq!(recover(Some(&grant.token), true).await, DONE);
    assert!(granted(&*subject, "recovery", LONG).await.fence > grant.fence);
}

/// A request that comes twice does what it does once.
async fn repetition(subject: Arc<dyn BackfillCoordinator>) {
    let ask = async |worker: &str, request_id: &str| {
        let (worker, request_id) = (Some(worker.to_owned()), Some(request_id.to_owned()));
        subject.apply("repetition", Command::Claim { ttl: LONG, worker, request_id }).await.unwrap()
    };
    // A zero byte is as good as any other.
    let Reply::Granted(first) = ask("w1", "request-\0").await else { panic!() };
    let Reply::Granted(again) = ask("w1", "request-\0").await else { panic!("the same request is refused") };
    assert_eq!(again.token, first.token);
    let other = ask("w2", "request-\0").await;
    assert!(matches!(&other, Reply::Refused(refusal) if refusal.outcome == Outcome::Held), "{other:?}");
    complete(&*subject, "repetition", &first.token).await;
    let late = ask("w1", "request-\0").await;
    assert!(matches!(&late, Reply::Refused(refusal) if refusal.outcome == Outcome::Replayed), "{late:?}");
    // An empty id is none.
    let Reply::Granted(_) = ask("w1", "").await else { panic!() };
    let again = ask("w1", "").await;
    assert!(matches!(&again, Reply::Refused(refusal) if refusal.outcome == Outcome::Held), "{again:?}");
}

/// Keys are opaque, and all of one are its own.
async fn keys(subject: Arc<dyn BackfillCoordinator>) {
    let longest = "k".repeat(LeaseKey::MAX_BYTES);
    let almost = format!("{}l", &longest[1..]);
    let keys = [
        "blake3:ab:60:1700:1760:world-1:2024-01-01T00:00:00Z",
        "blake3:ab:60:1700:1760:world-1:2024-01-01T00:00:01Z",
        "blake3:ab:60:1700:1760:WORLD-1:2024-01-01T00:00:00Z",
        "🦀:60:0:60::",
        "é",
        "e\u{301}",
        "a\0b",
        "a\n\"'\\%00/../",
        " ",
        "  ",
        &longest,
        &almost,
    ];
    for key in keys {
        let grant = granted(&*subject, key, LONG).await;
        assert_eq!(refused(&*subject, key).await.outcome, Outcome::Held);
        assert_eq!(complete(&*subject, key, &grant.token).await, DONE);
        let page = subject.inspect(&Query::new(key)).await.unwrap();
        assert_eq!(page.leases.first().map(|listed| listed.key.as_str()), Some(key));
    }
    for key in ["", &format!("{longest}k")] {
        let claim = Command::Claim { ttl: LONG, worker: None, request_id: None };
        assert_eq!(subject.apply(key, claim).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

/// Pages together list every key once, in order.
async fn pages(subject: Arc<dyn BackfillCoordinator>) {
    let mut wanted = BTreeSet::new();
    for number in 0..25 {
        let key = format!("pages:{number}:\u{e9}");
        let grant = granted(&*subject, &key, LONG).await;
        if number % 3 == 0 {
            complete(&*subject, &key, &grant.token).await;
        }
        wanted.insert(key);
    }
    granted(&*subject, "pagesz", LONG).await;
    let listed = async |query| listed(&*subject, query).await;
    for limit in [1, 7, 24, 25, 26, 1_000] {
        let found = listed(Query::new("pages:").with_limit(limit)).await;
        let keys: Vec<_> = found.iter().map(|listed| listed.key.clone()).collect();
        assert_eq!(keys, wanted.iter().cloned().collect::<Vec<_>>(), "{limit}");
    }
    for (state, count) in [(State::Held, 16), (State::Done, 9), (State::Dead, 0), (State::Expired, 0)] {
        let found = listed(Query::new("pages:").with_state(state).with_limit(4)).await;
        assert_eq!(found.len(), count, "{state:?}");
        let held = found.iter().find(|listed| listed.key.starts_with("pages:1:"));
        if let Some(held) = held {
            assert_eq!((held.lease.worker.as_deref(), held.lease.attempts), (Some("w1"), 0));
        }
    }
}

/// All that pages list, one after another.
async fn listed(subject: &dyn BackfillCoordinator, mut query: Query) -> Vec<Listed> {
    let mut found = Vec::new();
    loop {
        let Page { leases, next, .. } = subject.inspect(&query).await.unwrap();
        assert!(leases.len() <= query.limit);
        found.extend(leases);
        match next {
            Some(next) => query = query.with_after(next),
            None => return found,
        }
    }
}

/// Fails keys once, and every other one twice, so that it is left alone for a second.
pub(crate) async fn fail_and_pause(subject: &dyn BackfillCoordinator) {
    for number in 0..20 {
        for _ in 0..=number % 2 {
            let key = format!("states:{number:02}");
            let grant = granted(subject, &key, LONG).await;
            fail(subject, &key, &grant.token).await;
        }
    }
}

/// States that differ only by the time share a status in the store; pages of one list all of it, and nothing else.
pub(crate) async fn pages_tell_failures_from_pauses(store: &impl LeaseStore) {
    for (state, parity) in [(State::Failed, 0), (State::Backoff, 1)] {
        let found = listed(store, Query::new("states:").with_state(state).with_limit(3)).await;
        let keys: Vec<_> = found.into_iter().map(|listed| listed.key).collect();
        let wanted: Vec<_> = (0..10).map(|half| format!("states:{:02}", 2 * half + parity)).collect();
        assert_eq!(keys, wanted, "{state:?}");
        assert!(store.counts().await.unwrap().contains(&(state, 10)), "{state:?}");
    }
}

/// A way in which a coordinator is wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    GrantsTwice,
    NeverExpires,
    IgnoresTokens,
    SameToken,
    FailsWhatIsGivenBack,
    ForgetsProgress,
    ForgetsRequests,
    ForgetsWorkers,
    RenewalsAreNotKept,
    RecoveryIsRelease,
    CutsKeys,
    FoldsKeys,
    SkipsTheFirstOfAPage,
    IgnoresStates,
}

/// A coordinator with a fault.
#[derive(Debug)]
struct Faulty {
    inner: InProcessCoordinator,
    fault: Fault,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        let mut policy = policy();
        if matches!(fault, Fault::NeverExpires) {
            policy.shortest = LONG;
        }
        Self { inner: InProcessCoordinator::new(policy), fault }
    }
}

#[async_trait]
impl BackfillCoordinator for Faulty {
    fn id(&self) -> &str {
        "faulty"
    }

    async fn apply(&self, key: &str, mut command: Command) -> Result<Reply> {
        let mut key = key.to_owned();
        match (self.fault, &mut command) {
            (Fault::GrantsTwice, Command::Claim { .. }) => key = format!("{key}{}", fastrand::u64(..)),
            (Fault::IgnoresTokens, Command::Complete { .. }) => {
                command = Command::Recover { token: None, is_done: true, reason: String::new() };
            }
            (Fault::FailsWhatIsGivenBack, Command::Release { token, reason, .. }) => {
                command = Command::Fail { token: token.clone(), reason: reason.clone(), ratio: None };
            }
            (Fault::ForgetsProgress, Command::Renew { ratio, .. }) => *ratio = None,
            (Fault::ForgetsRequests, Command::Claim { request_id, .. }) => *request_id = None,
            (Fault::ForgetsWorkers, Command::Claim { worker, .. }) => *worker = None,
            (Fault::RenewalsAreNotKept, Command::Renew { ttl, .. }) => *ttl = Duration::ZERO,
            (Fault::RecoveryIsRelease, Command::Recover { token, reason, .. }) => {
                command = Command::Release {
                    token: token.clone().unwrap_or_default(),
                    reason: reason.clone(),
                    ratio: None,
                };
            }
            (Fault::CutsKeys, _) => key = key.split(':').next().unwrap_or_default().to_owned(),
            (Fault::FoldsKeys, _) => key = key.to_lowercase(),
            _ => {}
        }
        let mut reply = self.inner.apply(&key, command).await?;
        if let (Fault::SameToken, Reply::Granted(grant)) = (self.fault, &mut reply) {
            grant.token = "1-1".into();
        }
        Ok(reply)
    }

    async fn inspect(&self, query: &Query) -> Result<Page> {
        let mut query = query.clone();
        if matches!(self.fault, Fault::IgnoresStates) {
            query.state = None;
        }
        let mut page = self.inner.inspect(&query).await?;
        if matches!(self.fault, Fault::SkipsTheFirstOfAPage)
            && query.after.is_some()
            && !page.leases.is_empty()
        {
            page.leases.remove(0);
        }
        Ok(page)
    }
}

#[tokio::test]
async fn the_coordinator_of_a_process_holds() {
    run(Faulty::new(Fault::None)).await;
    let clock = ManualClock::new(Timestamp::from_secs(1_000_000).unwrap());
    let store = InProcessCoordinator::new(policy()).with_clock(clock);
    fail_and_pause(&store).await;
    pages_tell_failures_from_pauses(&store).await;
}

#[tokio::test]
async fn every_check_sees_a_fault() {
    let mut unseen: BTreeSet<_> = CHECKS.iter().map(|(name, _)| *name).collect();
    for (fault, check) in [
        (Fault::GrantsTwice, "exclusive"),
        (Fault::NeverExpires, "expiry"),
        (Fault::IgnoresTokens, "tokens"),
        (Fault::SameToken, "tokens"),
        (Fault::FailsWhatIsGivenBack, "releases"),
        (Fault::ForgetsProgress, "failures"),
        (Fault::ForgetsRequests, "repetition"),
        (Fault::ForgetsWorkers, "repetition"),
        (Fault::RenewalsAreNotKept, "renewal"),
        (Fault::RecoveryIsRelease, "recovery"),
        (Fault::CutsKeys, "keys"),
        (Fault::FoldsKeys, "keys"),
        (Fault::SkipsTheFirstOfAPage, "pages"),
        (Fault::IgnoresStates, "pages"),
    ] {
        let run = CHECKS.iter().find(|(name, _)| *name == check).unwrap().1;
        assert!(
            tokio::spawn(run(Arc::new(Faulty::new(fault)))).await.is_err(),
            "`{check}` does not see {fault:?}"
        );
        unseen.remove(check);
    }
    assert!(unseen.is_empty(), "no fault trips {unseen:?}");
}
