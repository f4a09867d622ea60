//! States as bytes, and the average that most of them are made of.

use qmtl_history_api::{Error, ErrorKind, Result};

/// Words of eight bytes, little-endian.
pub(super) fn to_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The `N` words that [`to_bytes`] wrote; `Corrupt` for any other number of bytes.
pub(super) fn to_words<const N: usize>(bytes: &[u8]) -> Result<[u64; N]> {
    let (words, rest) = bytes.as_chunks::<8>();
    match <&[[u8; 8]; N]>::try_from(words) {
        Ok(words) if rest.is_empty() => Ok(words.map(u64::from_le_bytes)),
        _ => Err(corrupt("the saved state of a node has another length")
            .with("bytes", bytes.len())
            .with("expected", 8 * N)),
    }
}

pub(super) fn corrupt(message: &str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// `InvalidInput` for an average over nothing.
pub(super) fn check_length(length: usize) -> Result<()> {
    if length == 0 { Err(Error::invalid("a node looks back on one bar at least")) } else { Ok(()) }
}

/// An exponential average whose seed is the mean of its first `length` values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Smooth {
    length: usize,
    /// Of the newest value.
    weight: f64,
    /// How many values have come, up to `length`.
    seen: usize,
    /// The average; before there are `length` values their sum.
    level: f64,
}

impl Smooth {
    /// The usual weight, 2 / (length + 1).
    pub(super) fn exponential(length: usize) -> Result<Self> {
        Self::new(length, 2.0 / (length as f64 + 1.0))
    }

    /// The weight of Wilder (New Concepts in Technical Trading Systems, 1978), 1 / length.
    pub(super) fn wilder(length: usize) -> Result<Self> {
        Self::new(length, 1.0 / length as f64)
    }

    fn new(length: usize, weight: f64) -> Result<Self> {
        check_length(length)?;
        Ok(Self { length, weight, seen: 0, level: 0.0 })
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// How many values its seed still lacks.
    pub(super) fn lacks(&self) -> usize {
        self.length - self.seen
    }

    /// Takes a value in; the average, NaN before the seed is there.
    pub(super) fn push(&mut self, value: f64) -> f64 {
        if self.seen == self.length {
            self.level += self.weight * (value - self.level);
            return self.level;
        }
        self.seen += 1;
        self.level += value;
        if self.seen < self.length {
            return f64::NAN;
        }
        self.level /= self.length as f64;
        self.level
    }

    pub(super) fn reset(&mut self) {
        (self.seen, self.level) = (0, 0.0);
    }

    pub(super) fn words(&self) -> [u64; 2] {
        [self.seen as u64, self.level.to_bits()]
    }

    /// Takes over saved words; `Corrupt` for more values than it can have seen, and for no number.
    pub(super) fn take(&mut self, [seen, level]: [u64; 2]) -> Result<()> {
        let (seen, level) = (usize::try_from(seen).unwrap_or(usize::MAX), f64::from_bits(level));
        if seen > self.length || !level.is_finite() {
            return Err(corrupt("the saved average is none").with("seen", seen).with("level", level));
        }
        (self.seen, self.level) = (seen, level);
        Ok(())
    }
}

/// A value that may not be there yet, as the bits of a double: NaN where it is not.
pub(super) fn bits_of(value: Option<f64>) -> u64 {
    value.unwrap_or(f64::NAN).to_bits()
}

pub(super) fn value_of(bits: u64) -> Option<f64> {
    Some(f64::from_bits(bits)).filter(|value| !value.is_nan())
}
