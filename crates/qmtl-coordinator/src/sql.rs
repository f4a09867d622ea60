//! The SQL that the stores share: both keep a table with the same columns, SQLite `leases` and PostgreSQL `qmtl_leases`.

use qmtl_backfill::lease::State;
use qmtl_history_api::Result;

/// The columns of a lease, in the order in which the tables have them.
pub(crate) const COLUMNS: &str = "key, fence, token, status, until_us, granted_us, changed_us, worker, request_id, \
                                  attempts, ratio, granted_ratio, missing, reason";

/// The condition that a row is in a state at `now`, an expression in microseconds; without a state, it holds for every
/// row. It must agree with `Lease::state` at the same time: what it lets through in excess is missing from a page.
pub(crate) fn is_in(state: Option<State>, now: &str) -> String {
    // The time stands in each condition, so that each has the same parameters.
    let Some(state) = state else { return format!("{now} is not null") };
    let until = match state {
        State::Expired | State::Failed => format!("until_us <= {now}"),
        State::Held | State::Backoff => format!("until_us > {now}"),
        _ => format!("{now} is not null"),
    };
    // Without this, SQLite's planner does not see that the index of what is not done has the row.
    let open = if state == State::Done { "" } else { " and status <> 'done'" };
    format!("status = '{}'{open} and {until}", state.status())
}

/// The name of a row's state at `now`, an expression in microseconds.
pub(crate) fn state_at(now: &str) -> String {
    format!(
        "case when status = 'held' and until_us <= {now} then 'expired' \
              when status = 'failed' and until_us > {now} then 'backoff' else status end"
    )
}

/// How many keys are in each state, from the names and numbers of those that are not done, and the number of `all` keys.
pub(crate) fn counts(open: &[(String, i64)], all: u64) -> Result<Vec<(State, u64)>> {
    let open: Vec<_> = open
        .iter()
        .map(|(state, keys)| Ok((State::named(state)?, keys.unsigned_abs())))
        .collect::<Result<_>>()?;
    let done = all.saturating_sub(open.iter().map(|(_, keys)| keys).sum());
    let count = |state| match state {
        State::Done => done,
        _ => open.iter().find(|(own, _)| *own == state).map_or(0, |(_, keys)| *keys),
    };
    Ok(State::ALL.map(|state| (state, count(state))).into())
}

/// A number as databases have it: signed.
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
