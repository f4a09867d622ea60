//! CSV files: one scan finds their layout and zone map, then blocks are read on their own.

mod dialect;
mod layout;
mod number;
mod read;
mod scan;
mod split;

pub(super) use dialect::is_table;
pub(super) use scan::open;

/// How many bytes of text a block has, up to the end of its last line.
const BLOCK_BYTES: usize = 512 * 1024;

/// The longest line, its end included.
const MAX_LINE_BYTES: usize = 64 * 1024;
