//! Label shift from predictions alone.

use super::linalg::invert;
use super::{Comparison, CountTable, chi_square};
use crate::error::check_confidence;
use crate::metrics::Estimate;
use crate::special::two_sided_z;
use crate::{Error, Result};

/// Shares of the true classes in live data, estimated from predictions alone.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LabelShift {
    /// How many times as frequent each class is as in the baseline, by class; may be below 0 by chance.
    pub weights: Vec<Estimate>,
    /// The estimated share of each class in live data.
    pub live_shares: Vec<Estimate>,
    /// [`chi_square`] of predicted classes, baseline against live: whether there is a shift at all.
    pub test: Comparison,
}

/// Black-box shift estimation (BBSE): how the shares of labels have shifted, from a confusion matrix and predictions.
///
/// ```text
/// C w = μ        C[i][j] = P(predicted i, true j) in the baseline, μ[i] = P(predicted i) live
/// live share of class j = w[j] · baseline share of class j
/// ```
/// `confusion` is the baseline's matrix of rows by prediction and truth, `confusion[predicted · k + truth]`, best from
/// data that the model was not trained on. `live` has the live rows by predicted class. The intervals are normal, from the
/// spread of both samples through `C⁻¹` (delta method).
///
/// It supposes that only the shares of the labels have changed, `P(x | y)` being the same. When that fails, the numbers
/// mean nothing, and `test` still says whether predictions have shifted.
///
/// # Errors
/// - [`Error::ShapeMismatch`] if `confusion` is not the square of the length of `live`.
/// - [`Error::InvalidInput`] if there are fewer than two or more than 1,000 classes, a class has no true row in the
///   baseline, there is no live row, `confidence` is not in (0, 1), or predictions do not tell the classes apart (`C` has
///   no inverse): the error names the class.
///
/// # Source
/// Lipton, Wang and Smola (2018), arXiv:1802.03916. `tests/golden/multivariate.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::label_shift;
///
/// // 90 of 100 right in each of two classes; live, six in ten predictions are of class 1.
/// let shift = label_shift(&[90, 10, 10, 90], &[400, 600], 0.95)?;
/// assert!((shift.live_shares[1].value - 0.625).abs() < 1e-12);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn label_shift(confusion: &[u64], live: &[u64], confidence: f64) -> Result<LabelShift> {
    check_confidence(confidence)?;
    let k = live.len();
    if !(2..=1_000).contains(&k) {
        return Err(Error::invalid("live", format!("needs 2 to 1000 classes, got {k}")));
    }
    if confusion.len() != k * k {
        return Err(Error::shape("confusion", k * k, confusion.len()));
    }
    let predicted: Vec<u64> =
        confusion.chunks_exact(k).map(|row| row.iter().fold(0_u64, |sum, x| sum.saturating_add(*x))).collect();
    let test = chi_square(&CountTable::from_counts(&predicted, live)?, confidence)?;
    let (n, m) = (test.n[0] as f64, test.n[1] as f64);
    let joint: Vec<f64> = confusion.iter().map(|x| *x as f64 / n).collect();
    let mu: Vec<f64> = live.iter().map(|x| *x as f64 / m).collect();
    let truth: Vec<f64> = (0..k).map(|j| (0..k).map(|i| joint[i * k + j]).sum()).collect();
    if let Some(class) = truth.iter().position(|share| *share == 0.0) {
        return Err(Error::invalid("confusion", format!("class {class} has no true row, leave it out")));
    }
    // Columns as shares within a true class, so that the size of a class does not decide what is singular.
    let given_truth = (0..k * k).map(|at| joint[at] / truth[at % k]).collect();
    let inverse = invert(given_truth, k).map_err(|class| {
        Error::invalid("confusion", format!("predictions do not tell class {class} from the others, join them"))
    })?;
    let (mut weights, mut live_shares) = (Vec::with_capacity(k), Vec::with_capacity(k));
    let z = two_sided_z(confidence);
    let shares: Vec<f64> = (0..k).map(|j| (0..k).map(|i| inverse[j * k + i] * mu[i]).sum()).collect();
    for j in 0..k {
        let line = &inverse[j * k..(j + 1) * k];
        // Of a live row predicted i the influence on the share is line[i]; of a baseline row (i, t) it is
        // -(line[i] - [t = j]) · w_t, whose mean is 0 within each true class.
        let live_variance = line.iter().zip(&mu).map(|(x, mu)| mu * (x - shares[j]).powi(2)).sum::<f64>() / m;
        let mut baseline_variance = 0.0;
        for i in 0..k {
            for t in 0..k {
                let influence = (line[i] - f64::from(u8::from(t == j))) * shares[t] / truth[t];
                baseline_variance += joint[i * k + t] * influence * influence / n;
            }
        }
        let share_margin = z * (live_variance + baseline_variance).sqrt();
        let value = shares[j];
        live_shares.push(Estimate::new(
            value,
            (value - share_margin).clamp(0.0, 1.0),
            (value + share_margin).clamp(0.0, 1.0),
            test.n[1],
        ));
        // The weight also varies with the class's share in the baseline.
        let w = value / truth[j];
        let mut variance = live_variance / (truth[j] * truth[j]);
        for i in 0..k {
            for t in 0..k {
                let own = f64::from(u8::from(t == j));
                let influence = (line[i] - own) * shares[t] / truth[t] / truth[j] + w * (own - truth[j]) / truth[j];
                variance += joint[i * k + t] * influence * influence / n;
            }
        }
        let margin = z * variance.sqrt();
        weights.push(Estimate::new(w, (w - margin).max(0.0), (w + margin).max(0.0), test.n[1]));
    }
    Ok(LabelShift { weights, live_shares, test })
}
