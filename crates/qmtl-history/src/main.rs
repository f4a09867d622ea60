//! The qmtl-history program.

fn main() {}
