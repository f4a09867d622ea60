//! The request weight that an address may use in a minute: refusals first, then a ban.

/// Refusals (429) within one minute after which the address is banned.
const TOLERATED_REFUSALS: u32 = 10;
/// The first ban; each further one is twice as long.
const FIRST_BAN_MS: i64 = 2 * 60 * 1_000;
const LONGEST_BAN_MS: i64 = 3 * 24 * 3_600 * 1_000;
const MINUTE_MS: i64 = 60_000;

/// Weight used in the running minute of the server's clock, and what came of using too much.
#[derive(Debug)]
pub(crate) struct WeightBudget {
    limit: u32,
    minute: i64,
    used: u32,
    refusals: u32,
    bans: u32,
    banned_until: i64,
}

/// Whether a request is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Served,
    Refused { retry_after_s: i64 },
    Banned { until: i64, retry_after_s: i64 },
}

impl WeightBudget {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, minute: 0, used: 0, refusals: 0, bans: 0, banned_until: 0 }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Weight used in the minute of the last request.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// Counts a request at `now`, milliseconds.
    pub(crate) fn charge(&mut self, now: i64, weight: u32) -> Verdict {
        let minute = now.div_euclid(MINUTE_MS);
        if minute != self.minute {
            (self.minute, self.used, self.refusals) = (minute, 0, 0);
        }
        if now < self.banned_until {
            return self.banned(now);
        }
        self.used = self.used.saturating_add(weight);
        if self.used <= self.limit {
            return Verdict::Served;
        }
        self.refusals += 1;
        if self.refusals > TOLERATED_REFUSALS {
            let ban = FIRST_BAN_MS.saturating_mul(1 << self.bans.min(16)).min(LONGEST_BAN_MS);
            self.bans += 1;
            self.banned_until = now.saturating_add(ban);
            return self.banned(now);
        }
        Verdict::Refused { retry_after_s: seconds_up(MINUTE_MS - now.rem_euclid(MINUTE_MS)) }
    }

    fn banned(&self, now: i64) -> Verdict {
        Verdict::Banned { until: self.banned_until, retry_after_s: seconds_up(self.banned_until - now) }
    }
}

/// Whole seconds that last at least `ms`.
fn seconds_up(ms: i64) -> i64 {
    ms.saturating_add(999).div_euclid(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_a_budget_and_the_next_one_a_new_one() {
        let mut budget = WeightBudget::new(4);
        assert_eq!(budget.charge(60_500, 2), Verdict::Served);
        assert_eq!(budget.charge(60_500, 2), Verdict::Served);
        assert_eq!(budget.charge(60_500, 2), Verdict::Refused { retry_after_s: 60 });
        assert_eq!(budget.charge(119_999, 2), Verdict::Refused { retry_after_s: 1 });
        assert_eq!(budget.charge(120_000, 2), Verdict::Served);
        assert_eq!(budget.used(), 2);
    }

    #[test]
    fn who_goes_on_is_banned_and_each_ban_is_longer() {
        let mut budget = WeightBudget::new(0);
        for _ in 0..TOLERATED_REFUSALS {
            assert!(matches!(budget.charge(0, 1), Verdict::Refused { .. }));
        }
        assert_eq!(budget.charge(0, 1), Verdict::Banned { until: 120_000, retry_after_s: 120 });
        assert_eq!(budget.charge(119_999, 1), Verdict::Banned { until: 120_000, retry_after_s: 1 });
        for _ in 0..TOLERATED_REFUSALS {
            assert!(matches!(budget.charge(120_000, 1), Verdict::Refused { .. }));
        }
        assert_eq!(budget.charge(120_000, 1), Verdict::Banned { until: 360_000, retry_after_s: 240 });
    }
}
