//! Texts: new words, and a classifier that names the terms that grew.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::Comparison;
use super::domain::{Areas, DomainReport, Weight, assign, check_folds};
use super::rows::Rng;
use crate::error::check_confidence;
use crate::special::two_sided_z;
use crate::{Error, Result};

/// The terms of a text: runs of letters, digits and marks within words (`'`, `-`, `_`), in lower case.
fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !(c.is_alphanumeric() || matches!(c, '\'' | '’' | '-' | '_')))
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

/// The words of a baseline, to find those of live texts that are new.
///
/// A word is a run of letters and digits of any script, with apostrophes, hyphens and underscores within it, in lower
/// case. Scripts that do not part words by spaces give long runs; [`TextClassifier::characters`] suits them better.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::Vocabulary;
///
/// let known = Vocabulary::fit(["the film was great", "great fun, the best"]);
/// let novelty = known.novelty(["the film was mid", "so mid, no cap"], 0.95)?;
/// assert_eq!(novelty.new_terms[0], ("mid".to_owned(), 2));
/// assert_eq!(novelty.share.effect.unwrap().value, 5.0 / 8.0);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vocabulary {
    words: BTreeSet<String>,
    texts: u64,
}

/// What [`Vocabulary::novelty`] found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Novelty {
    /// Statistic: the number of different new words. Effect: their share of all words, with an interval that takes each
    /// text as one draw (the words of a text come together), `n`: texts.
    pub share: Comparison,
    /// New words with the number of texts that have them, most first, then by name.
    pub new_terms: Vec<(String, u64)>,
}

impl Vocabulary {
    /// Learns the words of baseline texts.
    pub fn fit<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut vocabulary = Self::default();
        for text in texts {
            vocabulary.texts = vocabulary.texts.saturating_add(1);
            vocabulary.words.extend(words(text));
        }
        vocabulary
    }

    /// Adds the words of `other`.
    pub fn merge(&mut self, other: Self) {
        self.words.extend(other.words);
        self.texts = self.texts.saturating_add(other.texts);
    }

    /// Number of different words.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there is no word.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Compares live texts.
    ///
    /// Even without a change some words are new: a baseline does not have all the words of its language. Compare with the
    /// share that a held-out part of the baseline shows.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if no live text has a word, or `confidence` is not in (0, 1).
    pub fn novelty<'a>(&self, live: impl IntoIterator<Item = &'a str>, confidence: f64) -> Result<Novelty> {
        check_confidence(confidence)?;
        let mut new: BTreeMap<String, u64> = BTreeMap::new();
        let mut texts: Vec<(f64, f64)> = Vec::new();
        for text in live {
            let (mut count, mut hits) = (0.0, 0.0);
            let mut here = BTreeSet::new();
            for word in words(text) {
                count += 1.0;
                if !self.words.contains(&word) {
                    hits += 1.0;
                    here.insert(word);
                }
            }
            here.into_iter().for_each(|word| *new.entry(word).or_default() += 1);
            texts.push((count, hits));
        }
        let tokens: f64 = texts.iter().map(|t| t.0).sum();
        if tokens == 0.0 {
            return Err(Error::invalid("live", "has no text with a word"));
        }
        let share = texts.iter().map(|t| t.1).sum::<f64>() / tokens;
        let n = texts.len() as f64;
        // A ratio of two means over texts; with one text, or no new word, there is no spread to go by.
        let interval = (n > 1.0 && share > 0.0 && share < 1.0).then(|| {
            let square: f64 = texts.iter().map(|(count, hits)| (hits - share * count).powi(2)).sum();
            let margin = two_sided_z(confidence) * (square * n / (n - 1.0)).sqrt() / tokens;
            ((share - margin).max(0.0), (share + margin).min(1.0))
        });
        let mut new_terms: Vec<(String, u64)> = new.into_iter().collect();
        new_terms.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let share = Comparison::new("vocabulary_novelty", new_terms.len() as f64, [self.texts, texts.len() as u64])
            .effect("share of words", share, interval, confidence);
        Ok(Novelty { share, new_terms })
    }
}

/// Classifier that is to tell live texts from baseline ones by their n-grams, and names the terms that grew.
///
/// N-grams of words (default: one and two) or characters are hashed into `2^bits` buckets. A text is scored by naive Bayes,
/// the sum over its different buckets of the log ratio of the shares of texts that have them, smoothed by half a text;
/// the statistic is the area under the ROC curve over folds, as for [`DomainClassifier`](super::DomainClassifier), with its
/// interval and p-value.
///
/// The terms are those whose share of texts grew the most beyond chance: their weight is the root of the likelihood-ratio
/// statistic (G) of texts with and without the term, which for one term is above 1.96 in 2.5 % of cases by chance.
/// Memory is by buckets, not by terms: texts are gone through once more to name the terms of the best buckets.
///
/// # Source
/// Weinberger and others (2009), arXiv:0902.2206 (hashing); Dunning (1993), Computational Linguistics 19:61 (terms).
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::TextClassifier;
///
/// let before: Vec<String> = (0..60).map(|i| format!("order {i} was late")).collect();
/// let after: Vec<String> = (0..60).map(|i| format!("order {i} was late no cap")).collect();
/// let [before, after] = [&before, &after].map(|texts| texts.iter().map(String::as_str).collect::<Vec<_>>());
/// let report = TextClassifier::builder().compare(&before, &after)?;
/// assert!(report.test.statistic > 0.9);
/// assert!(report.weights.iter().take(5).any(|term| term.name == "no cap"));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `compare`"]
pub struct TextClassifier {
    lengths: (usize, usize),
    characters: bool,
    bits: u32,
    terms: usize,
    folds: usize,
    seed: u64,
    confidence: f64,
}

impl TextClassifier {
    /// Options with their defaults; finish with [`compare`](Self::compare).
    pub fn builder() -> Self {
        Self { lengths: (1, 2), characters: false, bits: 18, terms: 20, folds: 5, seed: 0, confidence: 0.95 }
    }

    /// N-grams of this many words, from 1 to 5 (default: 1 to 2).
    pub fn words(mut self, least: usize, most: usize) -> Self {
        (self.lengths, self.characters) = ((least, most), false);
        self
    }

    /// N-grams of this many characters, from 1 to 10, of the text in lower case.
    pub fn characters(mut self, least: usize, most: usize) -> Self {
        (self.lengths, self.characters) = ((least, most), true);
        self
    }

    /// Buckets, as a power of two from 8 to 24 (default 18).
    pub fn bits(mut self, bits: u32) -> Self {
        self.bits = bits;
        self
    }

    /// Most terms to name (default 20).
    pub fn terms(mut self, terms: usize) -> Self {
        self.terms = terms;
        self
    }

    /// Number of folds, 2 to 50 (default 5).
    pub fn folds(mut self, folds: usize) -> Self {
        self.folds = folds;
        self
    }

    /// Seed of the folds (default 0).
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Coverage of the interval, in (0, 1) (default 0.95).
    pub fn confidence(mut self, confidence: f64) -> Self {
        self.confidence = confidence;
        self
    }

    fn each_term(&self, text: &str, mut f: impl FnMut(&str)) {
        let (least, most) = self.lengths;
        if self.characters {
            let text = text.to_lowercase();
            let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            for length in least..=most {
                ends.windows(length + 1).for_each(|w| f(&text[w[0]..w[length]]));
            }
            return;
        }
        let words: Vec<String> = words(text).collect();
        for length in least..=most {
            words.windows(length).for_each(|w| f(&w.join(" ")));
        }
    }

    fn bucket(&self, term: &str) -> u32 {
        // FNV-1a with a final mix, the same on every machine.
        let hash =
            term.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
        ((hash ^ (hash >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - self.bits)) as u32
    }

    /// Compares baseline texts with live ones.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range, or a side with fewer than two texts a fold.
    pub fn compare(self, first: &[&str], second: &[&str]) -> Result<DomainReport> {
        check_confidence(self.confidence)?;
        check_folds(self.folds)?;
        let (least, most) = self.lengths;
        let limit = if self.characters { 10 } else { 5 };
        if least == 0 || least > most || most > limit {
            let reason = format!("lengths must lie in 1..={limit} and ascend, got {least} and {most}");
            return Err(Error::invalid(if self.characters { "characters" } else { "words" }, reason));
        }
        if !(8..=24).contains(&self.bits) {
            return Err(Error::invalid("bits", format!("must lie in 8..=24, got {}", self.bits)));
        }
        for (what, side) in [("first", first), ("second", second)] {
            if side.len() < 2 * self.folds {
                let reason = format!("has {} texts, and {} are needed, lower folds", side.len(), 2 * self.folds);
                return Err(Error::invalid(what, reason));
            }
        }
        let texts = [first, second];
        let buckets = texts.map(|side| side.iter().map(|text| self.buckets(text)).collect::<Vec<_>>());
        let mut rng = Rng::new(self.seed);
        let folds = [0, 1].map(|side: usize| assign(texts[side].len(), self.folds, &mut rng));
        let mut all = vec![[0_u32; 2]; 1 << self.bits];
        let mut by_fold: Vec<HashMap<u32, [u32; 2]>> = vec![HashMap::new(); self.folds];
        for side in 0..2 {
            for (text, fold) in buckets[side].iter().zip(&folds[side]) {
                for bucket in text {
                    all[*bucket as usize][side] += 1;
                    by_fold[*fold].entry(*bucket).or_default()[side] += 1;
                }
            }
        }
        let mut areas = Areas::default();
        for (fold, inside) in by_fold.iter().enumerate() {
            let rows = [0, 1].map(|side: usize| folds[side].iter().filter(|f| **f != fold).count() as f64);
            let ratio = |bucket: &u32| {
                let here = inside.get(bucket).copied().unwrap_or_default();
                let counts = [0, 1].map(|side: usize| f64::from(all[*bucket as usize][side] - here[side]));
                if counts == [0.0; 2] {
                    return 0.0; // not seen in the other folds
                }
                ((counts[1] + 0.5) / (rows[1] + 1.0)).ln() - ((counts[0] + 0.5) / (rows[0] + 1.0)).ln()
            };
            let [a, b] = [0, 1].map(|side: usize| {
                let of_fold = buckets[side].iter().zip(&folds[side]).filter(|(_, f)| **f == fold);
                of_fold.map(|(text, _)| text.iter().map(ratio).sum::<f64>()).collect::<Vec<f64>>()
            });
            areas.add(&a, &b);
        }
        let rows = [first.len() as u64, second.len() as u64];
        let test = areas.finish("text_classifier", rows, self.confidence);
        let weights = self.grown(&texts, &all);
        Ok(DomainReport { test, weights })
    }

    /// The different buckets of a text, ascending.
    fn buckets(&self, text: &str) -> Vec<u32> {
        let mut found = Vec::new();
        self.each_term(text, |term| found.push(self.bucket(term)));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Terms of the buckets that grew the most, weighed by their own counts.
    fn grown(&self, texts: &[&[&str]; 2], counts: &[[u32; 2]]) -> Vec<Weight> {
        let rows = [texts[0].len() as f64, texts[1].len() as f64];
        let z = |counts: [u32; 2]| {
            let [a, b] = counts.map(f64::from);
            let pooled = (a + b) / (rows[0] + rows[1]);
            let g: f64 = [(a, rows[0]), (b, rows[1])]
                .into_iter()
                .flat_map(|(hits, rows)| [(hits, pooled * rows), (rows - hits, (1.0 - pooled) * rows)])
                .map(|(seen, expected)| if seen > 0.0 { seen * (seen / expected).ln() } else { 0.0 })
                .sum();
            (b / rows[1] - a / rows[0]).signum() * (2.0 * g.max(0.0)).sqrt()
        };
        let mut best: Vec<(u32, f64)> = (0_u32..).zip(counts).map(|(i, c)| (i, z(*c))).filter(|b| b.1 > 0.0).collect();
        best.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        best.truncate(self.terms.saturating_mul(2));
        let best: BTreeSet<u32> = best.into_iter().map(|b| b.0).collect();
        let mut terms: BTreeMap<String, [u32; 2]> = BTreeMap::new();
        for (side, texts) in texts.iter().enumerate() {
            for text in *texts {
                let mut here = BTreeSet::new();
                self.each_term(text, |term| {
                    if best.contains(&self.bucket(term)) && !here.contains(term) {
                        here.insert(term.to_owned());
                    }
                });
                here.into_iter().for_each(|term| terms.entry(term).or_default()[side] += 1);
            }
        }
        let grown = terms.into_iter().map(|(name, counts)| Weight { name, weight: z(counts) });
        let mut weights: Vec<Weight> = grown.filter(|w| w.weight > 0.0).collect();
        weights.sort_by(|a, b| b.weight.total_cmp(&a.weight).then_with(|| a.name.cmp(&b.name)));
        weights.truncate(self.terms);
        weights
    }
}
