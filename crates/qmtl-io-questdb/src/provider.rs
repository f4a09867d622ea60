//! The provider: the facade of `qmtl-backfill` over this backend.

use qmtl_backfill::AugmentedHistoryProvider;

use crate::QuestDbBackend;

/// Serves a QuestDB's bars, and fills what is missing where it has a fetcher or a strategy.
pub type QuestDbHistoryProvider = AugmentedHistoryProvider<QuestDbBackend>;

/// The provider's older name.
pub type QuestDbLoader = QuestDbHistoryProvider;
