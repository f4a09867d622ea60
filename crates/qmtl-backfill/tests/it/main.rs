//! The strategy and the provider over a store and a source that do what a test wants.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod cached;
mod chain;
mod convergence;
mod fetching;
mod following;
mod leases;
mod live;
mod observation;
mod provider;
mod rules;
mod support;
mod writing;
