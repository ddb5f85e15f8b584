//! Numbers that the golden scripts generate too (`tests/golden/streams.py`).

use serde::Deserialize;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    /// The next value in [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 * 2.0_f64.powi(-53)
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }
}

/// A sample as the scripts describe it.
#[derive(Debug, Deserialize)]
pub(crate) struct Sample {
    pub(crate) seed: u64,
    pub(crate) n: usize,
    pub(crate) shift: f64,
    pub(crate) scale: f64,
    #[serde(default)]
    pub(crate) levels: u32,
}

impl Sample {
    pub(crate) fn rows(&self) -> Vec<f64> {
        let mut rng = SplitMix(self.seed);
        let levels = f64::from(self.levels);
        (0..self.n)
            .map(|_| {
                let u = rng.uniform();
                let u = if self.levels > 0 { (u * levels).floor() / levels } else { u };
                self.shift + self.scale * u
            })
            .collect()
    }
}

/// A stream as the scripts describe it.
pub(crate) fn stream(seed: u64, kind: &str, segments: &[(u32, f64)]) -> Vec<f64> {
    let mut rng = SplitMix(seed);
    let mut rows = Vec::new();
    for (count, level) in segments {
        for _ in 0..*count {
            let u = rng.uniform();
            rows.push(match kind {
                "bernoulli" => f64::from(u8::from(u < *level)),
                _ => level + 0.5 * (u - 0.5),
            });
        }
    }
    rows
}
