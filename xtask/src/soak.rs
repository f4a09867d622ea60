//! `cargo xtask soak`: what takes hours. The simulations of fills, follows and leases at length, replay against live bars, fuzzing
//! of every parser, and their figures on pages.

pub(crate) mod fuzz;
mod page;
mod replay;
mod simulation;

use anyhow::{Result, bail};

use crate::flags;

/// Runs what is wanted, and writes its figures where nothing broke.
pub(crate) fn run(flags: &flags::Soak) -> Result<bool> {
    const PARTS: [&str; 4] = ["simulation", "leases", "replay", "fuzz"];
    let parsers = fuzz::names();
    let is_known = |name: &&String| PARTS.contains(&name.as_str()) || parsers.contains(&name.as_str());
    if let Some(unknown) = flags.only.iter().find(|name| !is_known(name)) {
        bail!("`{unknown}` is no part of a soak: {}, {}", PARTS.join(", "), parsers.join(", "));
    }
    let is_wanted = |part: &str| flags.only.is_empty() || flags.only.iter().any(|name| name == part);
    if is_wanted("simulation") {
        simulation::run(flags)?;
    }
    if is_wanted("leases") {
        simulation::of_workers(flags)?;
    }
    if is_wanted("replay") {
        replay::run(flags)?;
    }
    let wanted: Vec<_> = parsers.into_iter().filter(|name| is_wanted("fuzz") || is_wanted(name)).collect();
    if wanted.is_empty() { Ok(true) } else { fuzz::run(flags, &wanted) }
}
