//! Places in commits and collections where a test stops or fails a process. Without the feature
//! `failpoints` they are nothing.
//!
//! A process is told by its environment, since it is to be killed as a whole: `VARIABLE` holds
//! `stop:STEP:N`, `fail:STEP:N` or `pause:STEP:N`, which acts when the process comes to the step for
//! the N-th time. A pause ends with a line on stdin.

/// A place in a commit or a collection, in the order in which a process comes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The file is encoded; nothing is written yet.
    Encoded,
    /// The temporary file has its bytes, in the memory of the system.
    Written,
    /// The temporary file is on the disk.
    Flushed,
    /// The file has its name.
    Named,
    /// The name is on the disk.
    Durable,
    /// The writer looked again and found that it has won.
    Checked,
    /// The files to remove are known.
    Chosen,
    /// A file is removed.
    Removed,
}

impl Step {
    /// Every step of a commit.
    #[cfg(feature = "failpoints")]
    pub(crate) const COMMIT: [Self; 6] =
        [Self::Encoded, Self::Written, Self::Flushed, Self::Named, Self::Durable, Self::Checked];
    /// Every step of a collection.
    #[cfg(feature = "failpoints")]
    pub(crate) const COLLECTION: [Self; 2] = [Self::Chosen, Self::Removed];

    #[cfg(feature = "failpoints")]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Encoded => "encoded",
            Self::Written => "written",
            Self::Flushed => "flushed",
            Self::Named => "named",
            Self::Durable => "durable",
            Self::Checked => "checked",
            Self::Chosen => "chosen",
            Self::Removed => "removed",
        }
    }
}

/// Goes on, unless a test wants the process to end here.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn reach(_: Step) -> qmtl_history_api::Result<()> {
    Ok(())
}

#[cfg(feature = "failpoints")]
pub use active::*;

#[cfg(feature = "failpoints")]
mod active {
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use qmtl_history_api::{Error, ErrorKind, Result};

    use super::Step;

    /// The variable of the environment that names a step.
    pub const VARIABLE: &str = "QMTL_PARQUET_FAILPOINT";

    /// What a process prints when it has stopped and waits to be killed or woken.
    pub const STOPPED: &str = "stopped at a failpoint";

    /// The names of the steps of a commit, in order.
    #[must_use]
    pub fn commit_steps() -> Vec<&'static str> {
        Step::COMMIT.map(Step::name).to_vec()
    }

    /// The names of the steps of a collection, in order.
    #[must_use]
    pub fn collection_steps() -> Vec<&'static str> {
        Step::COLLECTION.map(Step::name).to_vec()
    }

    #[derive(Debug)]
    struct Wanted {
        action: String,
        step: String,
        nth: u64,
        seen: AtomicU64,
    }

    fn wanted() -> Option<&'static Wanted> {
        static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
        let parse = || {
            let text = std::env::var(VARIABLE).ok()?;
            let mut parts = text.split(':');
            let action = parts.next()?.to_owned();
            let step = parts.next()?.to_owned();
            Some(Wanted { action, step, nth: parts.next()?.parse().ok()?, seen: AtomicU64::new(0) })
        };
        WANTED.get_or_init(parse).as_ref()
    }

    pub(crate) fn reach(step: Step) -> Result<()> {
        let Some(wanted) = wanted().filter(|wanted| wanted.step == step.name()) else { return Ok(()) };
        if wanted.seen.fetch_add(1, Ordering::Relaxed) + 1 != wanted.nth {
            return Ok(());
        }
        if wanted.action == "fail" {
            return Err(Error::new(ErrorKind::Storage, "a failpoint").with("step", step.name()));
        }
        // The line is for whoever kills or wakes us; without it nobody would.
        let _ = writeln!(std::io::stdout(), "{STOPPED}");
        let mut line = String::new();
        while wanted.action == "stop" || std::io::stdin().read_line(&mut line).is_err() {
            std::thread::park();
        }
        Ok(())
    }
}
