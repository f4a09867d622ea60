//! What the programs of this package share: [reference nodes](nodes), and the [candles](candles) that they are
//! compared on.

pub mod candles;
pub mod nodes;
