//! Files of every kind, read through the public API.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_input;
mod files;
mod formats;
mod series;
mod windows;
