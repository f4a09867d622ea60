//! Texts that name times, intervals and nodes: any text is read or refused, and what is read is printed so that it is
//! read again.

use std::fmt::Display;
use std::str::FromStr;

use crate::{Interval, NodeId, Timestamp};

/// Reads a text, and what that prints once more.
fn comes_back<T: FromStr + Display + PartialEq + std::fmt::Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse().ok(), Some(value), "{text:?}");
    }
}

#[test]
fn times() {
    bolero::check!(name = "times").with_iterations(0).for_each(|bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        comes_back::<Timestamp>(&text);
        comes_back::<Interval>(&text);
        assert!(
            NodeId::new(&*text).is_ok_and(|node| node.as_str() == text) || text.parse::<NodeId>().is_err()
        );
        if let Ok(interval) = text.parse::<Interval>() {
            let ends = [Timestamp::MIN, Timestamp::EPOCH, Timestamp::MAX];
            for point in ends.into_iter().flat_map(|ts| [interval.floor(ts), interval.ceil(ts)]) {
                assert!(point.is_none_or(|point| interval.is_on_grid(point)), "{text:?}");
            }
        }
    });
}
