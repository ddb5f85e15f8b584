//! What texts are like: lengths and classes of characters.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Moments;

/// A class that a character belongs to; each belongs to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CharClass {
    /// A letter that is not upper case, of any script.
    Letter,
    /// An upper-case letter.
    Upper,
    /// A numeric character.
    Digit,
    /// White space.
    Space,
    /// ASCII punctuation.
    Punctuation,
    /// Any other: symbols, emoji, control characters.
    Other,
}

impl CharClass {
    /// All classes, in the order in which they are counted.
    pub const ALL: &[Self] = &[Self::Letter, Self::Upper, Self::Digit, Self::Space, Self::Punctuation, Self::Other];

    #[inline]
    fn of(c: char) -> Self {
        if c.is_uppercase() {
            Self::Upper
        } else if c.is_alphabetic() {
            Self::Letter
        } else if c.is_numeric() {
            Self::Digit
        } else if c.is_whitespace() {
            Self::Space
        } else if c.is_ascii_punctuation() {
            Self::Punctuation
        } else {
            Self::Other
        }
    }
}

impl fmt::Display for CharClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Letter => "letter",
            Self::Upper => "upper",
            Self::Digit => "digit",
            Self::Space => "space",
            Self::Punctuation => "punctuation",
            Self::Other => "other",
        })
    }
}

const CLASSES: usize = CharClass::ALL.len();

/// Characters of one text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Letters {
    length: u64,
    classes: [u64; CLASSES],
}

impl Letters {
    pub(crate) fn of(text: &str) -> Self {
        let mut classes = [0; CLASSES];
        text.chars().for_each(|c| classes[CharClass::of(c) as usize] += 1);
        Self { length: classes.iter().sum(), classes }
    }

    /// Of a byte string only the length is known.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self { length: bytes.len() as u64, classes: [0; CLASSES] }
    }
}

/// Lengths and characters of texts, or lengths of byte strings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TextProfile {
    /// Length in characters, of a byte string in bytes.
    pub length: Moments,
    /// The shortest and the longest.
    pub length_range: Option<(u64, u64)>,
    /// Texts of length 0.
    pub empty: u64,
    /// Characters of each class, in the order of [`CharClass::ALL`]; all 0 for byte strings.
    pub characters: [u64; CLASSES],
}

impl TextProfile {
    pub(crate) fn add(&mut self, text: &Letters) {
        self.length.push(text.length as f64);
        self.widen(text.length, text.length);
        self.empty += u64::from(text.length == 0);
        self.characters.iter_mut().zip(text.classes).for_each(|(sum, n)| *sum = sum.saturating_add(n));
    }

    fn widen(&mut self, low: u64, high: u64) {
        self.length_range = Some(self.length_range.map_or((low, high), |(a, b)| (a.min(low), b.max(high))));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.length.merge(&other.length);
        if let Some((low, high)) = other.length_range {
            self.widen(low, high);
        }
        self.empty = self.empty.saturating_add(other.empty);
        self.characters.iter_mut().zip(other.characters).for_each(|(sum, n)| *sum = sum.saturating_add(n));
    }

    /// The share of characters that are of `class`, in [0, 1]; 0 without characters.
    #[must_use]
    pub fn share(&self, class: CharClass) -> f64 {
        let all = self.characters.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
        self.characters[class as usize] as f64 / all.max(1) as f64
    }
}
