//! Conformance suite, faulty wrappers and fixtures for history backends.

pub mod fixtures;
