//! Embedded history store: plain Parquet files with durable commits.
