//! QuestDB from outside: the conformance suite and the facts, against a real server.
#![expect(clippy::unwrap_used, reason = "all of it is tests")]

mod conformance;
mod server;
