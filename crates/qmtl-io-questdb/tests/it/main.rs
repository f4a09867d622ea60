//! QuestDB from outside: the conformance suite, the facts, the recorder and failures, against real servers.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of it is tests, which say what they leave out"
)]

mod conformance;
mod disk;
mod facts;
mod fallback;
mod http;
mod legacy;
mod proxy;
mod recorder;
mod reliability;
mod runtime;
mod server;
mod wire;
