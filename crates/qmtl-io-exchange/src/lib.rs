#![doc = include_str!("../README.md")]

mod file;

pub use file::{ColumnType, FileConfig, FileFetcher, FileFormat, TsUnit};
