//! Fetchers: candles from files.
