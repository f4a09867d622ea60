//! One seeded simulation of many workers: the real client, keeper, strategy, routes and core, in drawn worlds.
//!
//! A run is a function of its seed. [`world`] draws workers with their clocks, stalls and crashes, a network that loses
//! and doubles messages, a server that is down now and then and comes back with another wall clock, a source and a
//! store that fail and take their time; after a while all of that ends. Only sockets and clocks are replaced ([`net`],
//! [`clock`]), and the database of the server is a map that outlives it ([`leases`]). [`invariants`] says what must
//! hold; [`linear`] checks the same answers by a search that knows nothing of the core. [`mutations`] breaks one rule at
//! a time, and an invariant must see each.
//!
//! What nobody could prevent is left out of the worlds: a server whose wall clock is set forward while it is down ends
//! leases early, since it cannot know for how long it was away.
//!
//! Environment: `QMTL_SIM_RUNS` says how many runs there are (1,000), `QMTL_SIM_SEED` replays one.
//!
//! ```console
//! $ QMTL_SIM_SEED=182 cargo test -p qmtl-coordinator --test sim
//! ```

#![expect(clippy::print_stdout, reason = "a test without a harness talks on stdout")]

mod bars;
mod clock;
mod invariants;
mod leases;
mod linear;
mod mutations;
mod net;
mod run;
mod world;

use std::collections::BTreeMap;
use std::env;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use qmtl_history_testkit::harness::{self, Test, number};

use mutations::Mutation;
use run::{Outcome, Rules};
use world::World;

/// Worlds in which a mutation may be seen.
const WORLDS_OF_A_MUTATION: u64 = 200;
/// Runs that are made twice.
const REPEATED: u64 = 20;
/// Violations that were not meant and are told.
const TOLD: usize = 10;

fn main() -> ExitCode {
    if let Some(seed) = number("QMTL_SIM_SEED") {
        let world = World::draw(seed);
        println!("{world:#?}");
        let Outcome { figures, violation } = run::run(&world, &Rules::default());
        println!("\n{figures:#?}");
        return match violation {
            Some(violation) => {
                println!("seed {seed}: {violation}");
                ExitCode::FAILURE
            }
            None => ExitCode::SUCCESS,
        };
    }
    let mut tests = vec![
        Test::new("runs of many workers", || batch(number("QMTL_SIM_RUNS").unwrap_or(1_000))),
        Test::new("a run is a function of its seed", repeated),
    ];
    let mutations = mutations::ALL.iter();
    tests.extend(
        mutations.map(|mutation| Test::new(format!("mutation: {}", mutation.name), || seen(mutation))),
    );
    harness::run(&tests, env::args().skip(1))
}

/// Makes so many runs, and tells their figures; fails with the first ones that broke something.
fn batch(runs: u64) -> Result<(), String> {
    let sum = Mutex::new(BTreeMap::<&'static str, u64>::new());
    let broken = harness::runs(1..runs + 1, |seed| {
        let Outcome { figures, violation } = run::run(&World::draw(seed), &Rules::default());
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        figures.into_iter().for_each(|(name, count)| *sum.entry(name).or_default() += count);
        violation.map_or(Ok(()), |violation| Err(violation.to_string()))
    });
    println!("figure: runs = {runs}");
    let figures = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    figures.iter().for_each(|(name, count)| println!("figure: {name} = {count}"));
    harness::verdict(runs, &broken)
}

/// The same must happen in two runs of one seed.
fn repeated() -> Result<(), String> {
    for seed in 1..=REPEATED {
        let [first, second] = [(), ()].map(|()| run::run(&World::draw(seed), &Rules::default()).figures);
        if first != second {
            return Err(format!("two runs of seed {seed} differ: {first:?} {second:?}"));
        }
    }
    Ok(())
}

/// A world must be found in which the invariant sees the mutation, and in which nothing is broken without it.
fn seen(mutation: &Mutation) -> Result<(), String> {
    let mut others = Vec::new();
    for seed in 1..=WORLDS_OF_A_MUTATION {
        let world = World::draw(seed);
        let Some(violation) = run::run(&world, &(mutation.rules)()).violation else { continue };
        if violation.invariant != mutation.trips {
            others.push(format!("\n  seed {seed}: {violation}"));
            continue;
        }
        if let Some(violation) = run::run(&world, &Rules::default()).violation {
            return Err(format!("seed {seed} breaks something without the mutation: {violation}"));
        }
        println!("  seed {seed}: {}", violation.to_string().lines().next().unwrap_or_default());
        return Ok(());
    }
    let others: String = others.into_iter().take(TOLD).collect();
    Err(format!("{:?} did not see it in {WORLDS_OF_A_MUTATION} worlds{others}", mutation.trips))
}
