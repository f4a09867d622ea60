//! The memory backend, plain and behind the pointers that the protocol forwards through.
