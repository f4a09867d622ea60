//! The command line.

xflags::xflags! {
    /// Every check of this repository.
    cmd xtask {
        /// Runs every check and every test; what a change must pass.
        cmd test {
            /// Only these packages instead of the whole workspace.
            repeated -p, --package name: String
            /// Only these steps: fmt, tidy, clippy, docs, tests, examples, alone, deny.
            repeated -s, --step name: String
        }
        /// Checks the rules of the repository that no compiler knows.
        cmd tidy {}
        /// Runs the tests that need a QuestDB, with one that it starts and stops.
        cmd integration {
            /// From docker-compose.yml for certain, instead of the jar where no engine answers.
            optional --compose
        }
        /// A QuestDB for hand work.
        cmd questdb {
            /// Starts one at its usual ports and prints its address.
            cmd up {}
            /// Stops it.
            cmd down {}
        }
        /// Runs the simulation at length and fuzzes every parser, and writes the figures to docs/.
        cmd soak {
            /// Only these: simulation, leases, replay, fuzz, or the name of a parser in docs/reliability.md.
            repeated -o, --only name: String
            /// Runs over memory; 100,000 unless said, of leases 20,000.
            optional --runs number: u64
            /// Runs over Parquet; a hundredth of those over memory unless said.
            optional --parquet-runs number: u64
            /// Minutes for which each parser is fuzzed; 60 unless said.
            optional --minutes number: u64
            /// Parsers that are fuzzed at a time; 2 unless said.
            optional --jobs number: usize
        }
        /// Measures, beside peers where they can be installed, and prints one table.
        cmd bench {
            /// Only rows whose name contains this.
            optional row: String
            /// Also measures a cold release build of the program, which takes minutes.
            optional --cold
        }
    }
}
