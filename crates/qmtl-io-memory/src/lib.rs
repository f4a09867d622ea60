//! In-memory history backend, the reference model of the conformance suite.
