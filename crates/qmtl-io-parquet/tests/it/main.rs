//! The Parquet store from outside: the conformance suite, crashes, damage, a full disk.

mod conformance;
