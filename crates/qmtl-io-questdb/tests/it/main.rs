//! QuestDB from outside: the conformance suite, the facts, the recorder and failures, against real servers.
#![expect(clippy::unwrap_used, reason = "all of it is tests")]

mod conformance;
mod disk;
mod facts;
mod fallback;
mod http;
mod legacy;
mod proofs;
mod recorder;
mod reliability;
mod runtime;
mod server;
mod wire;
