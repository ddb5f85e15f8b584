//! Who answers whom: arms, shares, and the sticky choice between them.
//!
//! A [`Split`] is data: it can be stored, shown, compared, and applied to a deployment in one step.
//!
//! ```
//! use mlops_core::ModelRef;
//! use mlops_serve::Split;
//! let split = Split::only("champion", ModelRef::version("prices", 1))
//!     .arm("canary", ModelRef::version("prices", 2), 0.1)
//!     .mirrored();
//! let arm = split.route("customer 17");
//! assert_eq!(arm, split.route("customer 17"), "the same caller always gets the same arm");
//! ```

use std::fmt;

use mlops_core::ModelRef;
use mlops_core::inference::SHADOW;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One arm of a split: a model and its share of the callers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// Its name, as the inference log keeps it.
    pub name: String,
    /// The model that answers.
    pub model: ModelRef,
    /// Its share of the callers, in `[0, 1]`.
    pub share: f64,
}

/// A division of the callers among arms.
///
/// # Rules
/// - **Sticky.** The arm of a key depends on the key, the salt, the arms' names and their shares, and on nothing else:
///   every replica and every restart gives the same answer.
/// - **Least movement.** Changing shares moves callers only from arms whose share shrank relative to the others, and
///   only to arms whose share grew (weighted rendezvous hashing).
/// - **Mirrored.** In a mirrored split the arms that do not answer predict too, and are recorded as
///   [`SHADOW`]: with share 0 that is a shadow deployment, with more it gives each request
///   a pair of answers to compare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// Distinguishes this division from others of the same callers.
    #[serde(default)]
    pub salt: String,
    /// The arms. Their shares sum to 1.
    pub arms: Vec<Arm>,
    /// Whether the arms that do not answer predict too.
    #[serde(default)]
    pub mirrored: bool,
}

impl Split {
    /// Everybody is answered by one model.
    pub fn only(name: impl Into<String>, model: ModelRef) -> Self {
        Self { salt: String::new(), arms: vec![Arm { name: name.into(), model, share: 1.0 }], mirrored: false }
    }

    /// Adds an arm with `share` of the callers; the other arms keep their proportions in the rest.
    #[must_use]
    pub fn arm(mut self, name: impl Into<String>, model: ModelRef, share: f64) -> Self {
        for arm in &mut self.arms {
            arm.share *= 1.0 - share;
        }
        self.arms.push(Arm { name: name.into(), model, share });
        self
    }

    /// Lets the arms that do not answer predict too.
    #[must_use]
    pub fn mirrored(mut self) -> Self {
        self.mirrored = true;
        self
    }

    /// Sets the salt. Two splits with different salts divide the same callers independently.
    #[must_use]
    pub fn salt(mut self, salt: impl Into<String>) -> Self {
        self.salt = salt.into();
        self
    }

    /// Checks that the arms can be chosen between.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for no arms, a name that is empty, given twice or [`SHADOW`], a share outside `[0, 1]`, or shares that
    /// do not sum to 1 within 1e-9.
    pub fn check(&self) -> Result<()> {
        if self.arms.is_empty() {
            return Err(Error::invalid("split", "has no arms"));
        }
        for (i, arm) in self.arms.iter().enumerate() {
            if arm.name.is_empty() || self.arms[..i].iter().any(|a| a.name == arm.name) {
                return Err(Error::invalid("split", format!("arm name {:?} is empty or given twice", arm.name)));
            }
            if arm.name == SHADOW {
                return Err(Error::invalid("split", "an arm cannot be called shadow: answers that are not given are"));
            }
            if !(0.0..=1.0).contains(&arm.share) {
                return Err(Error::invalid("split", format!("share {} of {:?} is not in [0, 1]", arm.share, arm.name)));
            }
        }
        let sum: f64 = self.arms.iter().map(|a| a.share).sum();
        if (sum - 1.0).abs() > 1e-9 {
            return Err(Error::invalid("split", format!("shares sum to {sum}, not 1")));
        }
        Ok(())
    }

    /// The index of the arm that answers this caller.
    ///
    /// ```text
    /// argmax over arms with share > 0 of  ln(u) / share,   u = hash(salt, arm, key) in (0, 1)
    /// ```
    #[must_use]
    pub fn route(&self, key: &str) -> usize {
        if self.arms.len() == 1 {
            return 0;
        }
        let caller = hash(self.salt.as_bytes(), key.as_bytes());
        let mut best = (f64::NEG_INFINITY, 0);
        for (i, arm) in self.arms.iter().enumerate().filter(|(_, arm)| arm.share > 0.0) {
            let u = unit(mix(caller ^ hash(b"arm", arm.name.as_bytes())));
            let score = u.ln() / arm.share;
            if score > best.0 {
                best = (score, i);
            }
        }
        best.1
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, arm) in self.arms.iter().enumerate() {
            let between = if i > 0 { ", " } else { "" };
            write!(f, "{between}{} {} {:.0} %", arm.name, arm.model, 100.0 * arm.share)?;
        }
        if self.mirrored { write!(f, ", mirrored") } else { Ok(()) }
    }
}

/// FNV-1a over a length-prefixed pair, finished by [`mix`]: stable across versions and machines, which is what it is for.
fn hash(a: &[u8], b: &[u8]) -> u64 {
    let bytes = (a.len() as u64).to_le_bytes();
    let all = bytes.iter().chain(a).chain(b);
    mix(all.fold(0xcbf2_9ce4_8422_2325, |h, &byte| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)))
}

/// The finalizer of SplitMix64 (Steele, Lea & Flood 2014): every input bit reaches every output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The middle of one of 2⁵³ equal parts of `(0, 1)`.
fn unit(z: u64) -> f64 {
    ((z >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(share: f64) -> Split {
        Split::only("champion", ModelRef::version("m", 1)).arm("canary", ModelRef::version("m", 2), share).salt("r1")
    }

    #[test]
    fn shares_are_kept() {
        // 20,000 callers: three standard deviations of the share are 0.6 points at 10 %, 1.1 at 50 %.
        for share in [0.0, 0.1, 0.5, 1.0] {
            let canary = (0..20_000).filter(|i| split(share).route(&format!("caller {i}")) == 1).count();
            assert!((canary as f64 / 20_000.0 - share).abs() < 0.015, "{share}: {canary}");
        }
    }

    #[test]
    fn growing_an_arm_moves_callers_only_to_it() {
        for i in 0..5_000 {
            let key = format!("caller {i}");
            if split(0.1).route(&key) == 1 {
                assert_eq!(split(0.5).route(&key), 1, "{key} was moved back");
            }
        }
    }

    #[test]
    fn salts_divide_independently() {
        let both = (0..20_000).map(|i| format!("caller {i}"));
        let both = both.filter(|k| split(0.5).route(k) == 1 && split(0.5).salt("r2").route(k) == 1).count();
        assert!((both as f64 / 20_000.0 - 0.25).abs() < 0.015, "{both}");
    }

    #[test]
    fn the_choice_is_the_same_in_every_release() {
        const PINNED: [usize; 16] = [1, 0, 1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0];
        let arms: Vec<usize> = (0..16).map(|i| split(0.5).route(&format!("caller {i}"))).collect();
        assert_eq!(arms, PINNED);
    }
    #[test]
    fn splits_that_make_no_sense_are_refused() {
        assert!(split(0.3).check().is_ok());
        assert!(split(1.5).check().is_err());
        assert!(split(f64::NAN).check().is_err());
        let mut twice = split(0.5);
        twice.arms[1].name = "champion".into();
        assert!(twice.check().is_err());
        let mut short = split(0.5);
        short.arms[0].share = 0.4;
        assert!(short.check().unwrap_err().to_string().contains("sum to 0.9"));
        assert!(Split::only("shadow", ModelRef::version("m", 1)).check().is_err());
        assert!(Split { salt: String::new(), arms: vec![], mirrored: false }.check().is_err());
    }
}
