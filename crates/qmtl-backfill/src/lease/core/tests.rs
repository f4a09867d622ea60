//! Histories of one key, drawn and by hand.

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(120);

/// A key and the clock and numbers of its store.
#[derive(Debug)]
struct Key {
    policy: Policy,
    lease: Option<Lease>,
    now: Timestamp,
    fence: u64,
}

impl Key {
    fn new() -> Self {
        Self { policy: Policy::default(), lease: None, now: Timestamp::EPOCH, fence: 0 }
    }

    fn apply(&mut self, command: &Command) -> Reply {
        let turn = Turn { now: self.now, fence: self.fence + 1, nonce: 7 };
        let (changed, reply) = self.policy.step(self.lease.as_ref(), turn, command);
        if let Some(lease) = changed {
            self.fence = self.fence.max(lease.fence);
            self.lease = Some(lease);
        }
        reply
    }

    fn wait(&mut self, secs: u64) -> &mut Self {
        self.now = later(self.now, Duration::from_secs(secs));
        self
    }

    fn claim_as(&mut self, worker: &str, request_id: Option<&str>) -> Reply {
        let (worker, request_id) = (Some(worker.to_owned()), request_id.map(str::to_owned));
        self.apply(&Command::Claim { ttl: TTL, worker, request_id })
    }

    fn claim(&mut self) -> String {
        match self.claim_as("w", None) {
            Reply::Granted(grant) => grant.token,
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self) -> (Outcome, u64) {
        match self.claim_as("other", None) {
            Reply::Refused(refusal) => (refusal.outcome, refusal.until.since(self.now).as_secs()),
            other => panic!("{other:?}"),
        }
    }

    fn renew(&mut self, token: &str, ratio: Option<f64>) -> Reply {
        self.apply(&Command::Renew { token: token.to_owned(), ttl: TTL, ratio })
    }

    fn complete(&mut self, token: &str, missing: u64) -> Reply {
        let retry_after = Duration::from_secs(30);
        self.apply(&Command::Complete { token: token.to_owned(), missing, ratio: 0.75, retry_after })
    }

    fn fail(&mut self, token: &str) -> Reply {
        self.apply(&Command::Fail { token: token.to_owned(), reason: "no disk".into(), ratio: None })
    }

    fn release(&mut self, token: &str) -> Reply {
        self.apply(&Command::Release { token: token.to_owned(), reason: "outage".into(), ratio: None })
    }

    fn recover(&mut self, token: Option<&str>, is_done: bool) -> Reply {
        let token = token.map(str::to_owned);
        self.apply(&Command::Recover { token, is_done, reason: "manual_recovery".into() })
    }
}

fn ended(ratio: f64, status: Status) -> Reply {
    Reply::Ended { ratio, status }
}

#[test]
fn a_window_is_claimed_renewed_and_completed() {
    let mut key = Key::new();
    assert_eq!(key.complete("1-7", 0), Reply::Unknown);
    let token = key.claim();
    assert_eq!(token, "1-0000000000000007");
    assert_eq!(key.refused(), (Outcome::Held, 120));
    assert!(matches!(key.wait(40).renew(&token, Some(0.5)), Reply::Renewed(grant) if grant.ratio == 0.5));
    assert_eq!(key.refused(), (Outcome::Held, 120));
    assert_eq!(key.complete("0-7", 0), Reply::Stale);
    assert_eq!(key.complete(&token, 0), ended(1.0, Status::Done));
    assert_eq!(key.complete(&token, 0), ended(1.0, Status::Done), "an answer that was lost is given again");
    for late in [key.renew(&token, None), key.fail(&token), key.release(&token)] {
        assert_eq!(late, Reply::Stale, "nothing revives or undoes what is done");
    }
    let again = key.claim();
    assert_eq!((again.as_str(), key.lease.as_ref().unwrap().ratio), ("2-0000000000000007", 0.0));
    assert_eq!(key.complete(&token, 0), Reply::Stale);
}

#[test]
fn a_lease_that_expired_is_still_its_holders_as_long_as_nobody_else_has_it() {
    let mut key = Key::new();
    let token = key.claim();
    assert_eq!(key.wait(120).renew(&token, None), Reply::Stale, "its time is over");
    assert_eq!(key.complete(&token, 0), ended(1.0, Status::Done));
    let token = key.claim();
    key.wait(120);
    assert!(matches!(key.claim_as("other", None), Reply::Granted(grant) if grant.has_expired));
    for late in [key.complete(&token, 0), key.fail(&token), key.release(&token), key.renew(&token, None)] {
        assert_eq!(late, Reply::Stale);
    }
}

#[test]
fn a_renewal_that_came_late_does_not_shorten_a_lease() {
    let mut key = Key::new();
    let token = key.claim();
    key.apply(&Command::Renew { token: token.clone(), ttl: Duration::from_secs(900), ratio: Some(2.0) });
    assert!(matches!(key.renew(&token, Some(f64::NAN)), Reply::Renewed(grant) if grant.ratio == 0.0));
    assert_eq!(key.refused(), (Outcome::Held, 900));
}

#[test]
fn times_are_cut_to_what_the_policy_allows() {
    for (wanted, given) in [(0, 1), (60, 60), (u64::MAX, 3_600)] {
        let mut key = Key::new();
        let ttl = Duration::from_secs(wanted);
        key.apply(&Command::Claim { ttl, worker: None, request_id: None });
        assert_eq!(key.refused(), (Outcome::Held, given));
    }
    let mut key = Key::new();
    let token = key.claim();
    let retry_after = Duration::MAX;
    key.apply(&Command::Complete { token, missing: 1, ratio: 7.0, retry_after });
    assert_eq!(key.refused(), (Outcome::Backoff, 86_400));
    assert!(key.lease.unwrap().ratio < 1.0, "bars are missing");
}

#[test]
fn failures_pause_longer_and_longer_and_end_dead() {
    let mut key = Key::new();
    key.policy = key.policy.with_max_attempts(9);
    let mut pauses = Vec::new();
    loop {
        let token = key.claim();
        let reply = key.fail(&token);
        assert_eq!(key.fail(&token), reply, "an answer that was lost is given again");
        if reply == ended(0.0, Status::Dead) {
            break;
        }
        assert_eq!(reply, ended(0.0, Status::Failed));
        let pause = key.lease.as_ref().unwrap().until.since(key.now).as_secs();
        if pause > 0 {
            assert_eq!(key.refused(), (Outcome::Backoff, pause));
        }
        pauses.push(pause);
        key.wait(pause);
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60]);
    assert_eq!(key.wait(1_000_000).refused().0, Outcome::Dead);
}

#[test]
fn a_worker_that_ends_without_a_word_each_time_leaves_a_dead_key() {
    let mut key = Key::new();
    let token = (0..6).fold(String::new(), |_, _| {
        let token = key.claim();
        key.wait(120);
        token
    });
    assert_eq!(key.refused().0, Outcome::Dead);
    assert_eq!(key.lease.as_ref().unwrap().reason.as_deref(), Some("expired"));
    assert_eq!(key.complete(&token, 0), ended(1.0, Status::Done), "it was only slow");
}

#[test]
fn what_settled_a_bar_is_no_failed_attempt() {
    let mut key = Key::new();
    for round in 0..20 {
        let token = key.claim();
        key.renew(&token, Some(f64::from(round + 1) / 100.0));
        match round % 3 {
            0 => assert!(matches!(key.fail(&token), Reply::Ended { status: Status::Failed, .. })),
            1 => drop(key.wait(120)),
            _ => assert!(matches!(key.release(&token), Reply::Ended { status: Status::Released, .. })),
        }
        assert_eq!(key.lease.as_ref().unwrap().attempts, 0);
    }
    let token = key.claim();
    let (reason, ratio) = ("r".to_owned(), Some(0.75));
    key.apply(&Command::Fail { token, reason, ratio });
    assert_eq!(key.lease.as_ref().unwrap().attempts, 0, "it settled some before it failed");
    let token = key.claim();
    key.fail(&token);
    assert_eq!(key.lease.as_ref().unwrap().attempts, 1, "this one has settled nothing more");
}

#[test]
fn what_is_given_back_has_not_failed() {
    let mut key = Key::new();
    for _ in 0..20 {
        let token = key.claim();
        assert_eq!(key.release(&token), ended(0.0, Status::Released));
        assert_eq!(key.release(&token), ended(0.0, Status::Released));
        assert_eq!(key.complete(&token, 0), Reply::Stale);
    }
    assert_eq!(key.lease.unwrap().attempts, 0);
}

#[test]
fn bars_that_cannot_be_settled_keep_others_away_for_a_while() {
    let mut key = Key::new();
    let token = key.claim();
    assert_eq!(key.complete(&token, 3), ended(0.75, Status::Partial));
    assert_eq!(key.complete(&token, 3), ended(0.75, Status::Partial));
    assert_eq!(key.refused(), (Outcome::Backoff, 30));
    key.wait(30).claim();
    assert_eq!(key.lease.unwrap().ratio, 0.75, "what was settled then is so still");
}

#[test]
fn a_repeated_claim_gets_the_same_grant_and_a_late_one_none() {
    let mut key = Key::new();
    let Reply::Granted(first) = key.claim_as("w", Some("r1")) else { panic!() };
    assert_eq!(key.wait(10).claim_as("w", Some("r1")), Reply::Granted(first.clone()));
    assert_eq!(key.claim_as("v", Some("r2")), key.claim_as("v", None), "held");
    key.complete(&first.token, 0);
    let Reply::Refused(refusal) = key.claim_as("w", Some("r1")) else { panic!() };
    assert_eq!(refusal.outcome, Outcome::Replayed);
    assert!(matches!(key.claim_as("w", Some("r2")), Reply::Granted(_)));
}

#[test]
fn operators_revive_dead_keys_and_force_stuck_ones() {
    let mut key = Key::new();
    key.policy = key.policy.with_max_attempts(1);
    let token = key.claim();
    assert_eq!(key.fail(&token), ended(0.0, Status::Dead));
    assert_eq!(key.recover(Some("0-7"), false), Reply::Stale);
    assert_eq!(key.recover(Some(&token), false), ended(0.0, Status::Released));
    assert_eq!(key.recover(Some(&token), false), ended(0.0, Status::Released), "its answer was lost");
    // The token of another grant is no way in, unless it is forced; then the holder is out.
    let token = key.claim();
    assert_eq!(key.recover(Some("1-0000000000000007"), true), Reply::Stale);
    let fence = key.lease.as_ref().unwrap().fence;
    assert_eq!(key.recover(None, true), ended(1.0, Status::Done));
    assert!(key.lease.as_ref().unwrap().fence > fence);
    assert_eq!(key.complete(&token, 0), Reply::Stale);
}

/// What a history of one key may be asked.
fn command() -> impl Strategy<Value = (u64, usize, usize)> {
    (0..90_u64, 0..7_usize, 0..6_usize)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Against a model that knows nothing but who was granted what until when.
    #[test]
    fn no_history_has_two_holders(commands in prop::collection::vec(command(), 1..60)) {
        let mut key = Key::new();
        // Of each grant: its name and until when it holds, by what its holder was told; `None` once it has ended.
        let mut grants: Vec<(String, Option<Timestamp>)> = Vec::new();
        for (wait, what, which) in commands {
            key.wait(wait);
            let now = key.now;
            let token = grants.iter().rev().nth(which).map_or("0-0".to_owned(), |(token, _)| token.clone());
            let is_last = grants.last().is_some_and(|(last, _)| *last == token);
            let live = grants.iter().filter(|(_, until)| until.is_some_and(|until| until > now)).count();
            prop_assert!(live <= 1);
            match what {
                0 | 1 => {
                    let fence = key.fence;
                    if let Reply::Granted(grant) = key.claim_as("w", None) {
                        prop_assert_eq!(live, 0, "somebody else holds it");
                        prop_assert!(grant.fence > fence, "fences increase");
                        grants.push((grant.token, Some(grant.until)));
                    }
                }
                2 => {
                    if let Reply::Renewed(grant) = key.renew(&token, Some(which as f64 / 10.0)) {
                        prop_assert!(is_last && live == 1);
                        grants.last_mut().unwrap().1 = Some(grant.until);
                    }
                }
                3..=5 => {
                    let reply = match what {
                        3 => key.complete(&token, which as u64 % 2),
                        4 => key.fail(&token),
                        _ => key.release(&token),
                    };
                    if let Reply::Ended { ratio, .. } = reply {
                        prop_assert!(is_last, "only the last grant can be ended");
                        prop_assert!((0.0..=1.0).contains(&ratio));
                        grants.last_mut().unwrap().1 = None;
                    }
                }
                _ => {
                    if let Reply::Ended { .. } = key.recover((which > 0).then_some(&token), which % 2 == 0) {
                        grants.last_mut().unwrap().1 = None;
                        if which == 0 {
                            grants.push((key.lease.as_ref().unwrap().token.clone(), None));
                        }
                    }
                }
            }
            if let Some(lease) = &key.lease {
                prop_assert!(lease.attempts <= key.policy.max_attempts);
                prop_assert_eq!(lease.fence, key.fence);
            }
        }
        // Once nobody does anything any more, the key is free, or waits for an operator.
        key.wait(1_000_000);
        let dead = key.lease.as_ref().is_some_and(|lease| lease.status == Status::Dead);
        match key.claim_as("w", None) {
            Reply::Granted(_) => prop_assert!(!dead),
            Reply::Refused(refusal) => prop_assert_eq!(refusal.outcome, Outcome::Dead),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
