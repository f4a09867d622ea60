//! `coordinator`: serves leases until it is told to end.

use std::sync::Arc;

use qmtl_backfill::lease::Policy;
use qmtl_coordinator::{BearerTokens, EmbeddedStore, LeaseStore, PostgresStore, Server};
use qmtl_history_api::Error;
use qmtl_observe::prometheus::Exporter;
use serde::Serialize;

use super::Context;
use crate::cli::CoordinatorArgs;
use crate::console;
use crate::outcome::{Failure, Outcome, Result};
use crate::text;

/// Where it listens, once it does.
#[derive(Debug, Serialize)]
struct Listening {
    listening: String,
    store: String,
}

pub(crate) async fn run(args: &CoordinatorArgs, context: &Context) -> Result<Outcome> {
    let console = &context.console;
    let tokens = args.token_file.as_ref().map(BearerTokens::from_file).transpose()?;
    let stop = context.signals.stop();
    let policy = Policy::default().with_max_attempts(args.max_attempts);
    let opening = open(&args.store, policy);
    let store = tokio::select! {
        store = opening => store?,
        () = stop.stopped() => return Ok(Outcome::Done),
    };
    let mut server = Server::new(store).with_keep(args.keep).with_exporter(Exporter::install()?);
    if let Some(tokens) = tokens {
        server = server.with_tokens(tokens);
    }
    let listener = server.bind(args.listen).await.map_err(|error| {
        let failure = Failure::from(error);
        if args.token_file.is_none() && !args.listen.ip().is_loopback() {
            failure.hint("openssl rand -hex 32 > tokens; qmtl-history coordinator --token-file tokens …")
        } else {
            failure
        }
    })?;
    let address = listener.local_addr().map_err(|e| Error::unavailable("cannot listen").caused_by(e))?;
    let listening =
        Listening { listening: format!("http://{address}"), store: text::without_secrets(&args.store) };
    if console.is_json() {
        console::told_or_not(console.json(&listening))?;
    } else {
        let line = format!("listening at {}, leases in {}", listening.listening, listening.store);
        console::told_or_not(console.line(line))?;
    }
    server.serve(listener, stop).await;
    console.note("stopped: every request was answered");
    Ok(Outcome::Done)
}

async fn open(store: &str, policy: Policy) -> Result<Arc<dyn LeaseStore>> {
    if store.starts_with("postgres://") || store.starts_with("postgresql://") {
        return Ok(Arc::new(PostgresStore::connect(store, policy).await?));
    }
    if text::is_address(store) {
        let error = Error::invalid(
            "leases are kept in a file or in PostgreSQL: give a path, or postgres://user@host/database",
        );
        return Err(error.into());
    }
    Ok(Arc::new(EmbeddedStore::open(store, policy)?))
}
