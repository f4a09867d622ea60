//! The lease server, its stores and their client.

#![expect(clippy::unwrap_used, reason = "all of it is tests")]

mod embedded;
#[cfg(feature = "postgres")]
mod postgres;
mod server;
mod suite;
