//! What the lifecycle remembers: enough to go on after being killed anywhere.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::Write;
use std::path::Path;

use mlops_core::{Digest, PredictionId, PromotionId, Timestamp, Verdict};
use mlops_monitor::alert::Alerter;
use mlops_monitor::{Monitor, RetrainTrigger};
use mlops_serve::rollout::Rollout;
use serde::{Deserialize, Serialize};

use super::Options;
use crate::Result;

/// Everything that changes while the stream is replayed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The next row to be asked about.
    pub(crate) next: usize,
    pub(crate) champion: u64,
    /// The package of the champion.
    pub(crate) package: Digest,
    /// The row up to which the champion's data went.
    pub(crate) trained_until: usize,
    pub(crate) monitor: Monitor,
    pub(crate) alerter: Alerter,
    pub(crate) trigger: RetrainTrigger,
    pub(crate) trial: Option<Trial>,
    /// Which of the planted faults have been tried.
    pub(crate) planted: usize,
    /// Answers whose labels are not known yet, oldest first.
    pub(crate) open: VecDeque<(usize, PredictionId)>,
    pub(crate) scores: Scores,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) alerts: Vec<AlertNote>,
    /// Answers by day since the start of the replay and version.
    pub(crate) traffic: Vec<BTreeMap<u64, u64>>,
    pub(crate) last_prediction: Option<PredictionId>,
}

/// What a run must share with the one it resumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) seed: u64,
    pub(crate) quick: bool,
}

/// A candidate on trial in live traffic.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) rollout: Rollout,
    pub(crate) promotion: PromotionId,
    pub(crate) version: u64,
    pub(crate) package: Digest,
    /// The row up to which its data went.
    pub(crate) trained_until: usize,
    /// Its place in `attempts`.
    pub(crate) attempt: usize,
    /// By row, what champion and candidate said, until the label comes.
    pub(crate) pairs: BTreeMap<usize, (bool, bool)>,
}

/// One model that was made, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it was made.
    pub at: Timestamp,
    /// Why.
    pub why: String,
    /// The rows it was made from.
    pub dataset: Digest,
    /// Its package.
    pub package: Digest,
    /// What the gates said.
    pub gates: Verdict,
    /// Its number in the registry, if the gates let it through.
    pub version: Option<u64>,
    /// What became of it, in a few words.
    pub outcome: String,
    /// When that was decided.
    pub decided: Timestamp,
}

/// An alert, as the report shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertNote {
    /// When.
    pub at: Timestamp,
    /// The rule that raised it.
    pub rule: String,
    /// What it says.
    pub summary: String,
}

/// The models and baselines that are compared.
pub const SERIES: [&str; 5] = [
    "monitored and retrained",
    "first model, frozen",
    "last label, a day old",
    "last label, at once",
    "majority class",
];

/// Right answers and squared errors of one series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Answers.
    pub n: u64,
    /// Right answers, with 0.5 as the threshold.
    pub correct: u64,
    /// Sum of squared differences between probability and label.
    pub squared: f64,
}

impl Tally {
    fn add(&mut self, probability: f64, label: bool) {
        self.n += 1;
        self.correct += u64::from((probability >= 0.5) == label);
        self.squared += (probability - f64::from(u8::from(label))).powi(2);
    }

    /// Share of right answers.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.n as f64
    }

    /// Brier score: mean squared difference between probability and label.
    #[must_use]
    pub fn brier(&self) -> f64 {
        self.squared / self.n as f64
    }
}

/// Prequential scores: each answer is scored once, in order, whole and by week.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The whole replay, one for each of [`SERIES`].
    pub total: [Tally; 5],
    /// By week since its start.
    pub weeks: Vec<[Tally; 5]>,
    /// Labels known so far, and how many were up: what the majority class is taken from.
    pub(crate) known: (u64, u64),
}

impl Scores {
    pub(crate) fn add(&mut self, week: usize, probabilities: [f64; 5], label: bool) {
        if self.weeks.len() <= week {
            self.weeks.resize(week + 1, Default::default());
        }
        for (series, probability) in probabilities.into_iter().enumerate() {
            self.total[series].add(probability, label);
            self.weeks[week][series].add(probability, label);
        }
    }
}

const FILE: &str = "state.json";

/// The file that marks a directory as one of ours, and says which run it belongs to.
pub(crate) const OWNER: &str = "lifecycle.json";

/// Marks the directory as this run's.
pub(crate) fn own(options: &Options) -> Result<()> {
    let draft = options.out.join("state.json.new");
    fs::write(&draft, serde_json::to_vec(&options.identity())?)?;
    Ok(fs::rename(draft, options.out.join(OWNER))?)
}

/// Checks that what is to be resumed was started with the same options; where nothing was started, anything goes.
pub(crate) fn check_owner(options: &Options) -> Result<()> {
    let text = match fs::read(options.out.join(OWNER)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let found: Identity = serde_json::from_slice(&text).map_err(|e| format!("{OWNER} cannot be read ({e})"))?;
    if found != options.identity() {
        let quick = if found.quick { " --quick" } else { "" };
        let (out, seed) = (options.out.display(), found.seed);
        return Err(format!("--resume: the run in {out} was started with --seed {seed}{quick}").into());
    }
    Ok(())
}

impl State {
    /// Keeps the state: a crash leaves the old file or the new one.
    pub(crate) fn save(&self, out: &Path) -> Result<()> {
        let draft = out.join("state.json.new");
        let mut file = fs::File::create(&draft)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        Ok(fs::rename(draft, out.join(FILE))?)
    }

    /// The state that was kept, if there is one.
    pub(crate) fn load(options: &Options) -> Result<Option<Self>> {
        let text = match fs::read(options.out.join(FILE)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let state: Self = serde_json::from_slice(&text)
            .map_err(|e| format!("{} cannot be read ({e}); start again without --resume", FILE))?;
        Ok(Some(state))
    }
}
