//! Planner, strategies and the augmented provider of the qmtl history system.
