//! The `qmtl-history` program; everything it does is in the library of the same crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    qmtl_history::run(std::env::args_os())
}
