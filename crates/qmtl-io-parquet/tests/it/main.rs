//! The Parquet store from outside: the conformance suite, crashes, damage, a full disk.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of it is tests, and children speak through stdout"
)]

#[cfg(feature = "s3")]
mod bucket;
mod child;
mod conformance;
mod crash;
mod damage;
mod delta;
mod folder;
mod golden;
#[cfg(feature = "s3")]
mod server;
#[cfg(feature = "failpoints")]
mod steps;
