//! In-memory history backend.
