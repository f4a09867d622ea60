//! Metric names, lifecycle log events and the system clock of the qmtl history system.
