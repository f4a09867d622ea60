//! `leases`: who works on which window, and how to free what is stuck.

mod named;

use std::time::Duration;

use qmtl_backfill::lease::wire;
use qmtl_backfill::lease::{
    BackfillCoordinator, Command, DistributedBackfillCoordinator, Listed, Page, Policy, Query, Reply, State,
    Status, Turn,
};
use qmtl_history_api::{ErrorKind, Timestamp};
use serde::Serialize;
use serde_json::Value;

use super::Context;
use crate::cli::{Action, InspectLeasesArgs, Leases, LeasesArgs, ListArgs, RecoverArgs, ServerArgs};
use crate::console::Style;
use crate::outcome::{self, Outcome, Result};
use crate::{text, worker};
use named::Named;

pub(crate) async fn run(args: &LeasesArgs, context: &Context) -> Result<Outcome> {
    match &args.what {
        Leases::List(args) => list(args, context).await,
        Leases::Inspect(args) => inspect(args, context).await,
        Leases::Recover(args) => recover(args, context).await,
    }
}

fn client(server: &ServerArgs) -> Result<DistributedBackfillCoordinator> {
    Ok(worker::client(&server.coordinator, server.token_file.as_deref())?)
}

async fn list(args: &ListArgs, context: &Context) -> Result<Outcome> {
    let mut query = Query::new(&*args.prefix);
    if let Some(state) = &args.state {
        query = query.with_state(State::named(state)?);
    }
    let client = client(&args.server)?;
    let mut left = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let (mut found, mut now) = (Vec::new(), Timestamp::EPOCH);
    let more = loop {
        let page = client.inspect(&query.clone().with_limit(left.min(Query::LONGEST))).await?;
        left = left.saturating_sub(page.leases.len());
        now = now.max(page.now);
        found.extend(page.leases);
        match page.next {
            Some(next) if left > 0 => query = query.with_after(next),
            next => break next.is_some(),
        }
    };
    let console = &context.console;
    if console.is_json() {
        let leases: Vec<_> = found.iter().map(|listed| wire::listed_json(listed, now)).collect();
        console.json(&serde_json::json!({"leases": leases, "more": more}))?;
        return Ok(Outcome::Done);
    }
    if found.is_empty() {
        console.note("no lease matches");
        return Ok(Outcome::Done);
    }
    let head = ["STATE", "SETTLED", "TRIES", "SINCE", "UNTIL", "WORKER", "KEY"].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(head).chain(found.iter().map(|listed| row(listed, now))).collect();
    for (index, line) in text::table(&rows, &[1, 2]).into_iter().enumerate() {
        console.line(if index == 0 { console.paint(Style::Bold, &line) } else { line })?;
    }
    if more {
        console
            .note(format!("there are more than these {}: --limit, --state and --prefix choose", found.len()));
    }
    Ok(Outcome::Done)
}

fn row(Listed { key, lease, .. }: &Listed, now: Timestamp) -> Vec<String> {
    vec![
        lease.state(now).as_str().to_owned(),
        format!("{:.0} %", (lease.ratio * 100.0).floor()),
        lease.attempts.to_string(),
        ago(now.since(lease.granted_at)),
        match lease.state(now) {
            // Nobody but an operator ends that.
            State::Dead => "-".to_owned(),
            _ if lease.until > now => format!("in {}", ago(lease.until.since(now))),
            _ => "-".to_owned(),
        },
        text::in_line(lease.worker.as_deref().unwrap_or("-")),
        text::in_line(key),
    ]
}

/// A length of time in whole seconds, minutes, hours or days.
fn ago(length: Duration) -> String {
    match length.as_secs() {
        secs @ 0..120 => format!("{secs}s"),
        secs @ 120..7_200 => format!("{}m", secs / 60),
        secs @ 7_200..172_800 => format!("{}h", secs / 3_600),
        secs => format!("{}d", secs / 86_400),
    }
}

/// What is known of one key; `None` when it was never claimed.
async fn found(
    client: &dyn BackfillCoordinator,
    key: &str,
) -> Result<Option<(Listed, Timestamp)>, qmtl_history_api::Error> {
    let Page { now, leases, .. } = client.inspect(&Query::new(key).with_limit(1)).await?;
    Ok(leases.into_iter().find(|listed| listed.key == key).map(|listed| (listed, now)))
}

/// The fields of a lease in the order in which people are told of them.
const FIELDS: [&str; 13] = [
    "key",
    "token",
    "state",
    "worker",
    "reason",
    "completion_ratio",
    "missing",
    "attempts",
    "granted_at_ms",
    "changed_at_ms",
    "lease_until_ms",
    "age_s",
    "fence",
];

async fn inspect(args: &InspectLeasesArgs, context: &Context) -> Result<Outcome> {
    let (client, console) = (client(&args.server)?, &context.console);
    let mut outcome = Outcome::Done;
    let mut all = Vec::new();
    for key in &args.key {
        match found(&client, key).await? {
            Some((listed, now)) => all.push(wire::listed_json(&listed, now)),
            None => {
                outcome = Outcome::Failed;
                console.error(format!("{}: this key was never claimed", text::in_line(key)));
            }
        }
    }
    if console.is_json() {
        outcome::read_or_not(console.json(&serde_json::json!({ "leases": all })))?;
        return Ok(outcome);
    }
    for lease in &all {
        for (name, value) in
            FIELDS.iter().map(|name| (name, &lease[name])).filter(|(_, value)| !value.is_null())
        {
            let value = match value {
                Value::String(text) => text::in_line(text),
                other => match (name.strip_suffix("_ms"), other.as_i64().map(Timestamp::from_millis)) {
                    (Some(_), Some(Ok(time))) => time.to_string(),
                    _ => other.to_string(),
                },
            };
            let name = name.strip_suffix("_ms").unwrap_or(name).replace('_', " ");
            console.line(format!("{name:<17} {value}"))?;
        }
    }
    Ok(outcome)
}

/// What came of the recovery of one lease.
#[derive(Debug, Serialize)]
struct Recovered {
    key: String,
    /// `released` or `completed`, `would_release` or `would_complete`, or why not: `stale`, `unknown`, `unreachable`,
    /// `refused`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Serialize)]
struct Summary {
    processed: usize,
    released: usize,
    skipped: usize,
    leases: Vec<Recovered>,
}

async fn recover(args: &RecoverArgs, context: &Context) -> Result<Outcome> {
    let named = named::read(args)?;
    let (client, console) = (client(&args.server)?, &context.console);
    let mut leases = Vec::new();
    for lease in &named {
        let recovered = one(&client, lease, args).await;
        if !console.is_json() {
            let detail = recovered.detail.as_deref().map(|detail| format!(": {}", text::in_line(detail)));
            let outcome = recovered.outcome.replace('_', " ");
            console.line(format!(
                "{outcome:<11} {}{}",
                text::in_line(&recovered.key),
                detail.unwrap_or_default()
            ))?;
        }
        leases.push(recovered);
    }
    let count = |outcomes: &[&str]| leases.iter().filter(|lease| outcomes.contains(&lease.outcome)).count();
    let released = count(&["released", "completed"]);
    let would = count(&["would_release", "would_complete"]);
    let is_unreachable = count(&["unreachable"]) > 0;
    let summary = Summary { processed: leases.len(), released, skipped: leases.len() - released, leases };
    if console.is_json() {
        console.json(&summary)?;
    } else {
        let Summary { processed, released, skipped, .. } = &summary;
        console.line(format!("processed={processed} released={released} skipped={skipped}"))?;
    }
    Ok(match summary.processed - released - would {
        _ if is_unreachable => Outcome::Unreachable,
        0 => Outcome::Done,
        _ => Outcome::Failed,
    })
}

async fn one(client: &DistributedBackfillCoordinator, lease: &Named, args: &RecoverArgs) -> Recovered {
    let Named { key, token } = lease;
    let token = token.clone().filter(|_| !args.force);
    let command =
        Command::Recover { token, is_done: args.action == Action::Complete, reason: args.reason.clone() };
    let answer = if args.dry_run {
        try_out(client, key, &command).await
    } else {
        client.apply(key, command).await.map(|reply| (reply, None))
    };
    let (outcome, detail) = match answer {
        Ok((Reply::Ended { status, .. }, detail)) => {
            let [done, released] =
                if args.dry_run { ["would_complete", "would_release"] } else { ["completed", "released"] };
            (if status == Status::Done { done } else { released }, detail)
        }
        Ok((Reply::Unknown, _)) => ("unknown", Some("this key was never claimed".to_owned())),
        Ok(_) => {
            let detail =
                "it has ended, or another worker has been granted it since; --force frees it all the same";
            ("stale", Some(detail.to_owned()))
        }
        Err(error) => (kind_of(&error), Some(outcome::chain(&error))),
    };
    Recovered { key: key.clone(), outcome, detail }
}

/// What the coordinator would answer, by the core that both have, and who has the lease.
async fn try_out(
    client: &dyn BackfillCoordinator,
    key: &str,
    command: &Command,
) -> Result<(Reply, Option<String>), qmtl_history_api::Error> {
    let Some((Listed { lease, .. }, now)) = found(client, key).await? else {
        return Ok((Reply::Unknown, None));
    };
    let turn = Turn { now, fence: u64::MAX, nonce: 0 };
    let (_, reply) = Policy::default().step(Some(&lease), turn, command);
    let worker = lease.worker.as_deref().unwrap_or("nobody that is known");
    Ok((reply, Some(format!("{}, last of {worker}", lease.state(now).as_str()))))
}

/// Nobody answered, or somebody refused.
fn kind_of(error: &qmtl_history_api::Error) -> &'static str {
    if error.kind() == ErrorKind::Unavailable { "unreachable" } else { "refused" }
}
