//! What several detectors are made of.

use serde::{Deserialize, Serialize};

use super::State;
use crate::{Error, Result};

/// What every detector reports of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) n: u64,
    pub(super) state: State,
    pub(super) changed_at: Option<u64>,
}

impl Progress {
    /// Counts a row and gives its number.
    pub(super) fn next_row(&mut self) -> u64 {
        let row = self.n;
        self.n = self.n.saturating_add(1);
        row
    }

    /// Notes a change that began at a row.
    pub(super) fn change(&mut self, began: u64) {
        self.state = State::Change;
        self.changed_at = Some(began);
    }

    /// Whether the next row begins a fresh window.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Change
    }
}

/// The methods of [`ChangeDetector`](super::ChangeDetector) that read a field `progress`.
macro_rules! read_progress {
    () => {
        fn state(&self) -> State {
            self.progress.state
        }

        fn n(&self) -> u64 {
            self.progress.n
        }

        fn changed_at(&self) -> Option<u64> {
            self.progress.changed_at
        }
    };
}
pub(super) use read_progress;

/// Running mean.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Mean {
    pub(super) rows: u64,
    pub(super) mean: f64,
}

impl Mean {
    pub(super) fn add(&mut self, x: f64) {
        self.rows = self.rows.saturating_add(1);
        self.mean += (1.0 / self.rows as f64) * (x - self.mean);
    }

    pub(super) fn value(&self) -> Option<f64> {
        (self.rows > 0).then_some(self.mean)
    }
}

/// Mean and standard deviation of a stream in control: given, or learnt from its first rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct InControl {
    given: Option<(f64, f64)>,
    wanted: u64,
    known: Option<(f64, f64)>,
    learnt: Mean,
    squares: f64,
}

impl InControl {
    /// # Errors
    /// [`Error::InvalidInput`] if a deviation is not positive, or if there is nothing to learn one from.
    pub(super) fn new(given: Option<(f64, f64)>, wanted: u64) -> Result<Self> {
        match given {
            Some((mean, deviation)) => {
                if mean.is_nan() || mean.abs() > 1e100 {
                    return Err(Error::invalid("in_control", format!("mean must be within ±1e100, got {mean}")));
                }
                if !(deviation > 0.0 && deviation <= 1e100) {
                    let reason = format!("standard deviation must lie in (0, 1e100], got {deviation}");
                    return Err(Error::invalid("in_control", reason));
                }
            }
            None if wanted < 2 => {
                return Err(Error::invalid("baseline_rows", "must be at least 2 unless `in_control` is given"));
            }
            None => {}
        }
        Ok(Self { given, wanted, known: given, learnt: Mean::default(), squares: 0.0 })
    }

    /// Back to what was given.
    pub(super) fn restart(&mut self) {
        self.known = self.given;
        self.learnt = Mean::default();
        self.squares = 0.0;
    }

    /// The mean and standard deviation, once they are known.
    pub(super) fn known(&self) -> Option<(f64, f64)> {
        self.known
    }

    /// Deviations that `x` is off the mean, within ±1e9; `None` for rows that are learnt from.
    pub(super) fn standardize(&mut self, x: f64) -> Option<f64> {
        let Some((mean, deviation)) = self.known else {
            let before = self.learnt.mean;
            self.learnt.add(x);
            self.squares += (x - before) * (x - self.learnt.mean);
            if self.learnt.rows >= self.wanted {
                let variance = (self.squares / (self.learnt.rows as f64 - 1.0).max(1.0)).max(0.0);
                self.known = Some((self.learnt.mean, variance.sqrt()));
            }
            return None;
        };
        // Against a constant baseline every other value is as far off as can be.
        Some(if x == mean { 0.0 } else { ((x - mean) / deviation).clamp(-1e9, 1e9) })
    }
}

/// The latest bits of a stream, at most a fixed number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "BitsParts")]
pub(super) struct Bits {
    words: Vec<u64>,
    capacity: usize,
    first: usize,
    len: usize,
    ones: u64,
}

/// What is stored, before it is known to be consistent.
#[derive(Deserialize)]
struct BitsParts {
    words: Vec<u64>,
    capacity: usize,
    first: usize,
    len: usize,
}

impl TryFrom<BitsParts> for Bits {
    type Error = Error;

    fn try_from(parts: BitsParts) -> Result<Self> {
        let BitsParts { words, capacity, first, len } = parts;
        if capacity == 0 || words.len() != capacity.div_ceil(64) || first >= capacity || len > capacity {
            return Err(Error::invalid("bits", "do not fit their capacity; the stored state was altered"));
        }
        let mut bits = Self { words, capacity, first, len, ones: 0 };
        bits.ones = (0..len).map(|i| u64::from(bits.get(i))).sum();
        Ok(bits)
    }
}

impl Bits {
    /// `capacity` is at least 1.
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { words: vec![0; capacity.div_ceil(64)], capacity, first: 0, len: 0, ones: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn ones(&self) -> u64 {
        self.ones
    }

    fn place(&self, i: usize) -> usize {
        let place = self.first + i;
        if place >= self.capacity { place - self.capacity } else { place }
    }

    /// Bit `i < len`, oldest first.
    pub(super) fn get(&self, i: usize) -> bool {
        let place = self.place(i);
        self.words.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1)
    }

    /// Adds a bit, and gives the oldest where that had to go.
    pub(super) fn push(&mut self, bit: bool) -> Option<bool> {
        let gone = (self.len == self.capacity).then(|| {
            let gone = self.get(0);
            self.drop_first(1);
            gone
        });
        let place = self.place(self.len);
        if let Some(word) = self.words.get_mut(place / 64) {
            *word = *word & !(1 << (place % 64)) | u64::from(bit) << (place % 64);
        }
        self.len += 1;
        self.ones += u64::from(bit);
        gone
    }

    /// Drops the oldest `count` bits.
    pub(super) fn drop_first(&mut self, count: usize) {
        for _ in 0..count.min(self.len) {
            self.ones -= u64::from(self.get(0));
            self.first = self.place(1);
            self.len -= 1;
        }
    }

    pub(super) fn clear(&mut self) {
        self.words.fill(0);
        self.first = 0;
        self.len = 0;
        self.ones = 0;
    }
}

/// Draws from SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct SplitMix(pub(super) u64);

impl SplitMix {
    /// A number below `bound`; of the 2^64 draws at most `bound` are over-represented.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((u128::from(z ^ (z >> 31)) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_a_queue_of_fixed_length() {
        for capacity in [1, 2, 63, 64, 65, 130] {
            let (mut bits, mut plain) = (Bits::new(capacity), std::collections::VecDeque::new());
            let mut draws = SplitMix(7);
            for i in 0..500 {
                let bit = draws.below(3) == 0;
                let gone = (plain.len() == capacity).then(|| plain.pop_front().unwrap());
                plain.push_back(bit);
                assert_eq!(bits.push(bit), gone);
                if i % 90 == 89 {
                    let count = draws.below(capacity + 1);
                    plain.drain(..count.min(plain.len()));
                    bits.drop_first(count);
                }
                assert!((0..bits.len()).map(|i| bits.get(i)).eq(plain.iter().copied()));
                assert_eq!(bits.ones(), plain.iter().filter(|bit| **bit).count() as u64);
                let text = serde_json::to_string(&bits).unwrap();
                assert_eq!(serde_json::from_str::<Bits>(&text).unwrap(), bits);
            }
            bits.clear();
            assert_eq!(bits, Bits::new(capacity));
        }
        assert!(serde_json::from_str::<Bits>(r#"{"words":[0],"capacity":65,"first":0,"len":0,"ones":0}"#).is_err());
    }
}
