//! Stores that break one promise each: they prove that the checks can fail.

mod faulty;
mod rows;

pub use faulty::Faulty;

use crate::Subject;

/// A list of faults, each with the guarantees that it breaks.
macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $name:ident breaks $($guarantee:literal)+;)+) => {
        /// One way to be wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Fault {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Fault {
            /// Every fault.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The guarantees that it breaks, as the protocol's pages number them.
            #[must_use]
            pub fn breaks(self) -> &'static [&'static str] {
                match self {
                    $(Self::$name => &[$($guarantee),+],)+
                }
            }
        }
    };
}

#[cfg(feature = "fetchers")]
pub(crate) use faults;

faults! {
    /// A read lacks its last row.
    DropsLastRow breaks "H-READ-01";
    /// A read has the row at the end of its range.
    EndInclusive breaks "H-READ-01";
    /// A read that starts between two bars has the earlier one.
    RoundsStartDown breaks "H-READ-01";
    /// Rows come newest first.
    ReversesRows breaks "H-READ-01";
    /// A read ends after 65,536 rows.
    StopsAfterFirstBatch breaks "H-READ-01";
    /// Rows after the year 2262, where nanoseconds end, are lost.
    LosesFarTimes breaks "H-READ-01";
    /// Weeks are counted from the epoch, a Thursday, so that Monday's bars are refused.
    WeeksFromThursday breaks "H-READ-01";
    /// A read without rows has only the time column.
    SchemaFromRows breaks "H-READ-02";
    /// Batches have their columns in another order than their stream.
    BatchesDifferFromStream breaks "H-READ-02";
    /// A read has all columns, whatever was asked.
    IgnoresProjection breaks "H-READ-03";
    /// A read has the asked columns in the stored order.
    ProjectsInStoredOrder breaks "H-READ-03";
    /// A read leaves out the columns that are not known.
    UnknownColumnsVanish breaks "H-READ-03";
    /// After a stream was dropped midway nothing works; a real store would hang.
    DroppedStreamLocks breaks "H-READ-04";
    /// A projection that names `ts` is refused.
    TsIsNoColumn breaks "H-READ-06";
    /// A column that is named twice is read once.
    NamedTwiceReadOnce breaks "H-READ-06";
    /// A read has all rows, whatever the limit.
    IgnoresLimit breaks "H-READ-07";
    /// Rows come oldest first, whatever was asked.
    IgnoresOrder breaks "H-READ-07";
    /// Of the newest rows the oldest are left.
    LimitsBeforeTurning breaks "H-READ-07";
    /// The schema of a series is `ts` alone.
    SchemaOfNothing breaks "H-READ-08";
    /// A write becomes visible half by half.
    TornCommits breaks "H-READ-05";
    /// A write is visible only after the next call.
    VisibleLate breaks "H-WRITE-01";
    /// `KeepExisting` replaces.
    KeepReplaces breaks "H-WRITE-02";
    /// `Replace` keeps.
    ReplaceKeeps breaks "H-WRITE-02";
    /// `Replace` leaves the columns alone that the new row lacks.
    ReplaceMerges breaks "H-WRITE-02";
    /// The receipt calls every row written.
    CountsAllAsWritten breaks "H-WRITE-03";
    /// The first row and the proofs of a write are stored before the rest is looked at.
    StoresBeforeChecking breaks "H-WRITE-04" "H-WRITE-05";
    /// Rows in any order are taken, twins and all.
    SortsSilently breaks "H-WRITE-04";
    /// Values are cast to the stored type.
    CastsSilently breaks "H-WRITE-05";
    /// NaN is stored as null.
    NanBecomesNull breaks "H-WRITE-06";
    /// Negative zero is stored as zero.
    ZeroLosesItsSign breaks "H-WRITE-06";
    /// The empty string is stored as null.
    EmptyTextBecomesNull breaks "H-WRITE-06";
    /// 64-bit integers pass through a double.
    IntegersThroughDoubles breaks "H-WRITE-06";
    /// Columns are matched by position.
    ColumnsByPosition breaks "H-WRITE-07";
    /// Columns that the series does not have yet are left out.
    NewColumnsVanish breaks "H-WRITE-07";
    /// Proofs are not stored.
    ForgetsProofs breaks "H-WRITE-08" "H-COV-02";
    /// Rows before 1970 are lost.
    LosesEarlyTimes breaks "H-WRITE-10";
    /// A write of nothing makes a series.
    NothingMakesASeries breaks "H-WRITE-08";
    /// Of two writes at once one is lost, though both are acknowledged.
    LosesConcurrentWrites breaks "H-WRITE-09";
    /// `present` is one range from the first row to the last.
    PresentHasNoHoles breaks "H-COV-01";
    /// Coverage is the whole series' whatever the range.
    CoverageIsNotCut breaks "H-COV-01";
    /// Proofs are dated so that they never expire.
    ProofsNeverExpire breaks "H-COV-02";
    /// Known-empty wins over rows.
    ProofsHideRows breaks "H-COV-02" "H-COV-03";
    /// Coverage shows the rows of a write before reads do.
    CoverageRunsAhead breaks "H-COV-04";
    /// The coverage of a series never written is an error.
    UnknownSeriesFails breaks "H-COV-05";
    /// Proofs of all sources are filed as one's.
    SourcesAreOne breaks "H-COV-06";
    /// An older answer of a source stays where a newer one overlaps it.
    FirstAnswerStays breaks "H-COV-06";
    /// All proofs are taken for ones by the present rule.
    LosesRules breaks "H-COV-07";
    /// Every proof looks as if nothing had confirmed it.
    LosesConfirmations breaks "H-COV-07";
    /// The latest date wins, whatever clock it is from.
    LatestDateWins breaks "H-COV-07";
    /// Every series is listed twice.
    ListsTwice breaks "H-SER-01";
    /// Series that have proofs alone are not listed.
    HidesSeriesWithoutRows breaks "H-SER-01";
    /// Node ids are the same in upper and lower case.
    IgnoresCase breaks "H-SER-01" "H-SER-02";
    /// What a path cannot hold is an underscore in a node id.
    FlattensIds breaks "H-SER-01" "H-SER-02";
    /// All intervals of whole minutes share a series.
    JoinsIntervals breaks "H-SER-02";
    /// All phases of an interval share a series.
    JoinsPhases breaks "H-SER-02";
    /// The revision of a series that exists never changes.
    RevisionStands breaks "H-REV-01";
    /// A series that was never written has a revision.
    RevisionIsNeverNone breaks "H-REV-01";
    /// Every error may be tried again.
    AlwaysRetryable breaks "H-ERR-01";
    /// Errors say nothing.
    NamesNothing breaks "H-ERR-01";
    /// A call fails while another one is under way.
    OneCallAtATime breaks "H-CONC-01";
}

impl Fault {
    /// The subject with this fault in every handle.
    #[must_use]
    pub fn wrap(self, subject: Subject) -> Subject {
        subject.map(move |inner| Faulty::new(self, inner))
    }
}
