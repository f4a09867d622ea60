//! Every check of this repository: `cargo xtask test`, `tidy`, `soak`, `bench`. CI calls nothing else.

#![expect(clippy::print_stdout, reason = "a command-line program talks on stdout")]

mod bench;
mod flags;
mod postgres;
mod process;
mod questdb;
mod s3;
mod server;
mod soak;
mod test;
mod tidy;

use std::process::ExitCode;

use flags::XtaskCmd;

fn main() -> ExitCode {
    let flags = flags::Xtask::from_env_or_exit();
    let done = match &flags.subcommand {
        XtaskCmd::Test(flags) => test::run(flags),
        XtaskCmd::Tidy(_) => tidy::run(),
        XtaskCmd::Integration(flags) => questdb::integration(flags),
        XtaskCmd::Questdb(flags) => questdb::by_hand(flags),
        XtaskCmd::Soak(flags) => soak::run(flags),
        XtaskCmd::Bench(flags) => bench::run(flags),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
