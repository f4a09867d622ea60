//! Seeded simulation of a fill and a follow.

#![expect(clippy::print_stdout, reason = "it prints its figures")]

mod clock;
mod exchange;
mod figures;
mod invariants;
mod log;
mod naive;
mod run;
mod store;
mod world;

use std::process::ExitCode;

use run::Rules;
use world::World;

fn main() -> ExitCode {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    if let Ok(seed) = std::env::var("QMTL_SIM_SEED") {
        let world = World::draw(seed.parse().unwrap_or(0));
        println!("{world:#?}");
        let outcome = run::run(&world, &Rules::default(), true);
        println!("{}", outcome.figures);
        return ExitCode::SUCCESS;
    }
    let mut all = figures::Figures::default();
    let started = std::time::Instant::now();
    let mut bad = 0;
    for (first, runs) in [(1, number("QMTL_SIM_RUNS", 1000)), (world::PARQUET_SEEDS, number("QMTL_SIM_PARQUET_RUNS", 100))] {
        for seed in first..first + runs {
            let world = World::draw(seed);
            let outcome = run::run(&world, &Rules::default(), false);
            if let Some(violation) = outcome.violation {
                println!("seed {seed}: {violation}");
                bad += 1;
            }
            all.add(&outcome.figures);
        }
        println!("{:?}", started.elapsed());
    }
    println!("{all}\nbad {bad}");
    ExitCode::SUCCESS
}
