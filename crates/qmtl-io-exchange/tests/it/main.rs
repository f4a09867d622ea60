//! Files of every kind, read through the public API.

mod bad_input;
mod files;
mod formats;
mod series;
mod windows;
