//! Which values come most often.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use serde::{Deserialize, Serialize};

/// Values that are told apart after room was made; up to twice as many are before.
pub(crate) const KEPT: usize = 256;
/// Bytes of a text that are kept to name it by.
const NAME: usize = 256;

/// A value that comes often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FrequentItem {
    /// The value, a long text cut after 256 bytes.
    pub value: String,
    /// Its rows at least.
    pub rows: u64,
    /// Its rows at most.
    pub rows_at_most: u64,
}

/// Counts by text: all of them up to 512 different ones, beyond that the most frequent with a bound.
///
/// Misra–Gries: when there is no room, the 257th largest count is taken from all, and values without rows are dropped. Each
/// count is too low by [`error`](Self::error) at most, which is `rows / 257` at most and 0 as long as nothing was dropped; a
/// value that is not held has so many rows at most. Texts are told apart by a hash of 64 bits.
///
/// # Source
/// Misra, Gries (1982), doi:10.1016/0167-6423(82)90012-0; merging by Agarwal et al. (2012), doi:10.1145/2213556.2213562.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Categories {
    items: HashMap<u64, Item, BuildHasherDefault<Identity>>,
    rows: u64,
    error: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct Item {
    rows: u64,
    name: String,
}

/// The hash is the key.
#[derive(Clone, Debug, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = self.0.rotate_left(8) ^ u64::from(*b));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// In descending order of rows, then by name.
#[derive(Serialize, Deserialize)]
struct Stored {
    rows: u64,
    error: u64,
    items: Vec<(String, u64, u64)>,
}

impl From<Categories> for Stored {
    fn from(from: Categories) -> Self {
        let items = from.sorted().into_iter().map(|(key, item)| (item.name.clone(), item.rows, key)).collect();
        Self { rows: from.rows, error: from.error, items }
    }
}

impl From<Stored> for Categories {
    fn from(from: Stored) -> Self {
        let mut items: HashMap<_, Item, _> = HashMap::default();
        for (name, rows, key) in from.items {
            let item = items.entry(key).or_insert(Item { rows: 0, name });
            item.rows = item.rows.saturating_add(rows);
        }
        Self { items, rows: from.rows, error: from.error }
    }
}

impl Categories {
    /// Adds `rows` rows of a text with this hash.
    #[inline]
    pub(crate) fn add(&mut self, key: u64, name: &str, rows: u64) {
        self.rows = self.rows.saturating_add(rows);
        self.put(key, name, rows);
    }

    fn put(&mut self, key: u64, name: &str, rows: u64) {
        if let Some(item) = self.items.get_mut(&key) {
            item.rows = item.rows.saturating_add(rows);
            return;
        }
        self.items.insert(key, Item { rows, name: cut(name).to_owned() });
        if self.items.len() > 2 * KEPT {
            self.make_room();
        }
    }

    fn make_room(&mut self) {
        let mut counts: Vec<u64> = self.items.values().map(|item| item.rows).collect();
        let (_, least, _) = counts.select_nth_unstable_by(KEPT, |a, b| b.cmp(a));
        let least = *least;
        self.error = self.error.saturating_add(least);
        self.items.retain(|_, item| {
            item.rows = item.rows.saturating_sub(least);
            item.rows > 0
        });
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.rows = self.rows.saturating_add(other.rows);
        self.error = self.error.saturating_add(other.error);
        for (key, item) in other.sorted() {
            let mine = self.items.entry(key).or_insert_with(|| Item { rows: 0, name: item.name.clone() });
            mine.rows = mine.rows.saturating_add(item.rows);
        }
        if self.items.len() > 2 * KEPT {
            self.make_room();
        }
    }

    pub(crate) fn is_sound(&self) -> bool {
        let held = self.items.values().try_fold(0_u64, |sum, item| sum.checked_add(item.rows));
        held.is_some_and(|held| held <= self.rows) && self.items.len() <= 2 * KEPT
    }

    fn sorted(&self) -> Vec<(u64, &Item)> {
        let mut items: Vec<_> = self.items.iter().map(|(key, item)| (*key, item)).collect();
        items
            .sort_unstable_by(|a, b| b.1.rows.cmp(&a.1.rows).then_with(|| a.1.name.cmp(&b.1.name)).then(a.0.cmp(&b.0)));
        items
    }

    /// Keys, names and counts in descending order of the counts.
    pub(crate) fn keyed(&self) -> impl Iterator<Item = (u64, &str, u64)> {
        self.sorted().into_iter().map(|(key, item)| (key, item.name.as_str(), item.rows))
    }

    pub(crate) fn rows_of(&self, key: u64) -> u64 {
        self.items.get(&key).map_or(0, |item| item.rows)
    }

    /// Rows that have a value.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows by which a count is too low at most.
    #[must_use]
    pub fn error(&self) -> u64 {
        self.error
    }

    /// Values that are held; all there are, if [`error`](Self::error) is 0.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether no value is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The values held, those with the most rows first.
    #[must_use]
    pub fn items(&self) -> Vec<FrequentItem> {
        let item = |(_, name, rows): (u64, &str, u64)| FrequentItem {
            value: name.to_owned(),
            rows,
            rows_at_most: rows.saturating_add(self.error).min(self.rows),
        };
        self.keyed().map(item).collect()
    }
}

/// A text as it is kept to name it by.
fn cut(text: &str) -> &str {
    if text.len() <= NAME {
        return text;
    }
    let end = (0..=NAME).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    &text[..end]
}

/// The same for numbers that come in sorted blocks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NumberCounts {
    /// In ascending order.
    items: Vec<(f64, u64)>,
    pub(crate) error: u64,
}

impl NumberCounts {
    /// Adds the runs (value and rows, ascending) of a block.
    pub(crate) fn absorb(&mut self, runs: &[(f64, u64)]) {
        if runs.len() <= KEPT {
            self.join(runs);
            return;
        }
        // More than `KEPT` values in a block of twice as many rows: the next count is 1.
        self.error = self.error.saturating_add(1);
        let left: Vec<(f64, u64)> = runs.iter().filter(|run| run.1 > 1).map(|run| (run.0, run.1 - 1)).collect();
        self.join(&left);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.error = self.error.saturating_add(other.error);
        self.join(&other.items);
    }

    fn join(&mut self, runs: &[(f64, u64)]) {
        if runs.is_empty() {
            return;
        }
        let mut joined = Vec::with_capacity(self.items.len() + runs.len());
        let (mut i, mut j) = (0, 0);
        while i < self.items.len() && j < runs.len() {
            let (mine, theirs) = (self.items[i], runs[j]);
            joined.push(match mine.0.total_cmp(&theirs.0) {
                std::cmp::Ordering::Less => mine,
                std::cmp::Ordering::Greater => theirs,
                std::cmp::Ordering::Equal => (mine.0, mine.1.saturating_add(theirs.1)),
            });
            i += usize::from(mine.0 <= theirs.0);
            j += usize::from(theirs.0 <= mine.0);
        }
        joined.extend_from_slice(&self.items[i..]);
        joined.extend_from_slice(&runs[j..]);
        if joined.len() > 2 * KEPT {
            let mut counts: Vec<u64> = joined.iter().map(|item| item.1).collect();
            let (_, least, _) = counts.select_nth_unstable_by(KEPT, |a, b| b.cmp(a));
            let least = *least;
            self.error = self.error.saturating_add(least);
            joined.retain_mut(|item| {
                item.1 = item.1.saturating_sub(least);
                item.1 > 0
            });
        }
        self.items = joined;
    }

    pub(crate) fn is_sound(&self) -> bool {
        let held = self.items.iter().try_fold(0_u64, |sum, item| sum.checked_add(item.1));
        held.is_some()
            && self.items.iter().all(|item| item.0.is_finite())
            && self.items.is_sorted_by(|a, b| a.0 < b.0)
            && self.items.len() <= 2 * KEPT
    }

    pub(crate) fn items(&self) -> &[(f64, u64)] {
        &self.items
    }
}
