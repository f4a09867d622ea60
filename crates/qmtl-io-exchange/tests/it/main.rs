//! Files of every kind, read through the public API.

mod files;
