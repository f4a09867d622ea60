//! The parts of an export: its form, its columns, the bars that are made up, and where it goes.

mod flat;
mod form;
mod layout;
mod lean;
mod names;
mod place;
mod readers;
mod sink;

pub(crate) use flat::{Flat, Known};
pub(crate) use form::Form;
pub(crate) use layout::{Layout, has_columns};
pub(crate) use lean::{Days, entry as zip_entry, has_days, resolution};
pub(crate) use names::Names;
pub(crate) use place::{Destination, Place, beside, cannot_write, open};
pub(crate) use readers::Expected;
pub(crate) use sink::{Output, Packing, Sink};
