//! One seeded simulation of a fill and a follow: the real strategy, follow loop, fetchers and page readers in
//! drawn worlds.
//!
//! A run is a function of its seed. [`world`] draws markets, faults with their times, what befalls clocks, and
//! where processes end; [`run`] lets a process fill a past range and follow it, through faults at first and in
//! peace after, with hours in which proofs expire; [`invariants`] says what must hold, after every round and at
//! the end. The [`clock`] is virtual, the [`exchange`] answers as Binance and Coinbase do, the [`store`] is a
//! real one in memory or of Parquet files. [`mutations`] breaks one rule of the program at a time, and an
//! invariant must see each.
//!
//! What nobody could find out is left out of the worlds:
//! - An exchange never leaves out the same bar by two answers of status 200 in a row, unless the second one has
//!   a row that the first one should have had.
//! - One that has no rows for bars without trades (Coinbase) leaves no row out of the middle of a page, and
//!   gives none of another interval.
//! - Between two outages of a market that has a row for every bar stand two bars at least: three single ones in step
//!   are taken for bars of a longer interval.
//! - Rows of a longer interval that do not say so are three at least in an answer.
//! - Of the exchange's clock and ours one at most is ahead of the true time, and an exchange that tells no time
//!   at all meets a clock of ours that is not ahead.
//! - No bar takes longer than the publish lag to be published or revised.
//!
//! Environment: `QMTL_SIM_RUNS` and `QMTL_SIM_PARQUET_RUNS` say how many runs there are (1,000 and 100),
//! `QMTL_SIM_SEED` replays one and tells all that happens in it. Seeds from 1,000,000,000 on are of runs over
//! Parquet.
//!
//! ```console
//! $ QMTL_SIM_SEED=182 cargo test -p qmtl-backfill --test sim
//! ```

#![expect(clippy::print_stdout, reason = "a test without a harness talks on stdout")]

mod clock;
mod exchange;
mod figures;
mod invariants;
mod log;
mod mutations;
mod naive;
mod run;
mod store;
mod world;

use std::env;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use figures::Figures;
use mutations::Mutation;
use qmtl_history_testkit::harness::{self, Test, number};
use run::{Outcome, Rules};
use world::{PARQUET_SEEDS, World};

/// Worlds in which a mutation may be seen.
const WORLDS_OF_A_MUTATION: u64 = 50;
/// Runs that are made twice.
const REPEATED: u64 = 20;
/// Violations that were not meant and are told.
const TOLD: usize = 10;

fn main() -> ExitCode {
    if let Some(seed) = number("QMTL_SIM_SEED") {
        let world = World::draw(seed);
        println!("{world:#?}");
        let outcome = run::run(&world, &Rules::default(), true);
        println!("\n{}", outcome.figures);
        return match outcome.violation {
            Some(violation) => {
                println!("seed {seed}: {violation}");
                ExitCode::FAILURE
            }
            None => ExitCode::SUCCESS,
        };
    }
    let mut tests: Vec<Test> = vec![
        Test::new("runs over memory", || batch(1, number("QMTL_SIM_RUNS").unwrap_or(1_000))),
        Test::new("runs over Parquet", || {
            batch(PARQUET_SEEDS, number("QMTL_SIM_PARQUET_RUNS").unwrap_or(100))
        }),
        Test::new("a run is a function of its seed", repeated),
    ];
    tests.extend(
        mutations::ALL
            .iter()
            .map(|mutation| Test::new(format!("mutation: {}", mutation.name), || seen(mutation))),
    );
    harness::run(&tests, env::args().skip(1))
}

/// Makes so many runs, and tells their figures; fails with the first ones that broke something.
fn batch(first: u64, runs: u64) -> Result<(), String> {
    let sum = Mutex::new(Figures::default());
    let broken = harness::runs(first..first + runs, |seed| {
        let Outcome { figures, violation, .. } = run::run(&World::draw(seed), &Rules::default(), false);
        sum.lock().unwrap_or_else(PoisonError::into_inner).add(&figures);
        violation.map_or(Ok(()), |violation| Err(violation.to_string()))
    });
    print!("{}", sum.into_inner().unwrap_or_else(PoisonError::into_inner));
    harness::verdict(runs, &broken)
}

/// The same must happen in two runs of one seed, over both stores.
fn repeated() -> Result<(), String> {
    for seed in (1..=REPEATED).chain(PARQUET_SEEDS..PARQUET_SEEDS + REPEATED / 10) {
        let [first, second] = [(), ()].map(|()| run::run(&World::draw(seed), &Rules::default(), false));
        if (first.fingerprint, &first.figures) != (second.fingerprint, &second.figures) {
            return Err(format!("two runs of seed {seed} differ"));
        }
    }
    Ok(())
}

/// A world must be found in which the invariant sees the mutation, and in which nothing is broken without it.
fn seen(mutation: &Mutation) -> Result<(), String> {
    let mut others = Vec::new();
    for seed in 1..=WORLDS_OF_A_MUTATION {
        let mut world = World::draw(seed);
        if !(mutation.world)(&mut world) {
            continue;
        }
        let Some(violation) = run::run(&world, &(mutation.rules)(), false).violation else { continue };
        if violation.invariant != mutation.trips {
            others.push(format!("\n  seed {seed}: {violation}"));
            continue;
        }
        if let Some(violation) = run::run(&world, &Rules::default(), false).violation {
            return Err(format!("seed {seed} breaks something without the mutation: {violation}"));
        }
        println!("  seed {seed}: {violation}");
        return Ok(());
    }
    let others: String = others.into_iter().take(TOLD).collect();
    Err(format!("{:?} did not see it in {WORLDS_OF_A_MUTATION} worlds{others}", mutation.trips))
}
