//! How it went: a table to read, a summary to compare, a page to look at.

use std::collections::BTreeSet;
use std::fmt;

use chrono::TimeDelta;
use mlops_core::lineage::{NodeKind, Trace};
use mlops_core::{Timestamp, Verdict};
use mlops_monitor::metrics::wilson;
use mlops_monitor::report::{Figure, Format, Heatmap, LineChart, Marker, MarkerKind, Report, Series, StackedArea};
use mlops_registry::Promotion;
use mlops_serve::Health;
use serde::{Deserialize, Serialize};

use super::evidence::{Checked, LINEAGE_FILE};
use super::state::{AlertNote, Attempt, SERIES, Scores, State};
use super::{MODEL, Options};
use crate::Result;

/// What came of a run: equal for equal options, killed and resumed or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The seed.
    pub seed: u64,
    /// Whether a tenth of the stream was replayed.
    pub quick: bool,
    /// Every model that was made, and what became of it.
    pub attempts: Vec<Attempt>,
    /// Prequential scores of the models and the baselines.
    pub scores: Scores,
    /// The alerts that went out.
    pub alerts: Vec<AlertNote>,
    /// How often it was retrained because of an alert.
    pub retrainings: usize,
    /// The version that is champion at the end.
    pub champion: u64,
    /// Moves of the alias, oldest first: version, state, who asked, who approved.
    pub promotions: Vec<(u64, String, String, Vec<String>)>,
    /// The evidence that is left behind, as it was found when it was checked.
    pub checked: Checked,
    /// Records that could not be captured, failed shadows, dropped shadows.
    pub unhealthy: [u64; 3],
    /// From the last prediction back: what each node is, without times.
    pub origins: Vec<String>,
    /// The walk in full, as it is printed.
    #[serde(skip)]
    trace: String,
}

impl Summary {
    pub(crate) fn new(
        options: &Options,
        state: &State,
        trace: &Trace,
        checked: Checked,
        promotions: &[Promotion],
        health: Health,
    ) -> Result<Self> {
        let moves = promotions.iter().map(|p| {
            let approvers = p.approvals.iter().map(|a| a.by.clone()).collect();
            (p.version, p.state.to_string(), p.requested_by.clone(), approvers)
        });
        let planted = |a: &&Attempt| !a.why.starts_with("planted") && a.why != "first model";
        let kinds = [NodeKind::Model, NodeKind::Run, NodeKind::Dataset];
        let origins = trace.origins.nodes.iter().filter(|n| kinds.contains(&n.node.kind));
        Ok(Self {
            seed: options.seed,
            quick: options.quick,
            attempts: state.attempts.clone(),
            scores: state.scores.clone(),
            alerts: state.alerts.clone(),
            retrainings: state.attempts.iter().filter(planted).count(),
            champion: state.champion,
            promotions: moves.collect(),
            checked,
            unhealthy: [health.capture_failures, health.shadow_failures, health.shadows_dropped],
            origins: origins.map(|n| n.node.to_string()).collect(),
            trace: trace.to_string(),
        })
    }
}

impl Checked {
    fn audit(&self) -> String {
        let Self { audit_entries, signed_by, .. } = self;
        format!("audit chain of {audit_entries} entries verified, under a checkpoint signed by {signed_by}")
    }

    fn lineage(&self) -> String {
        let [datasets, models, deployments] = self.lineage;
        format!("{LINEAGE_FILE}: {datasets} dataset versions, {models} model versions, {deployments} deployment(s)")
    }
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most { text.to_owned() } else { text.chars().take(most - 1).chain(['…']).collect() }
}

fn day(at: Timestamp) -> String {
    at.format("%Y-%m-%d").to_string()
}

impl Attempt {
    fn cells(&self) -> [String; 7] {
        [
            self.version.map_or_else(|| "–".to_owned(), |v| format!("v{v}")),
            day(self.at),
            self.why.clone(),
            self.dataset.short(),
            self.gates.to_string(),
            day(self.decided),
            self.outcome.clone(),
        ]
    }
}

const HEADERS: [&str; 7] = ["version", "made", "why", "data", "gates", "decided", "outcome"];

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 7]> = self.attempts.iter().map(|a| a.cells().map(|c| cut(&c, 58))).collect();
        let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0).max(HEADERS[i].len());
        let widths: Vec<usize> = (0..HEADERS.len()).map(width).collect();
        let line = |f: &mut fmt::Formatter<'_>, cells: &[String; 7]| {
            let padded: Vec<String> = cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
            writeln!(f, "{}", padded.join("  ").trim_end())
        };
        writeln!(f, "Models of {MODEL}\n")?;
        line(f, &HEADERS.map(str::to_owned))?;
        rows.iter().try_for_each(|row| line(f, row))?;

        writeln!(f, "\nPrequential scores on {} answers\n", self.scores.total[0].n)?;
        writeln!(f, "{:<24}  {:>8}  {:>16}  {:>6}", "", "accuracy", "95 % interval", "Brier")?;
        for (name, tally) in SERIES.iter().zip(&self.scores.total) {
            let interval = wilson(tally.correct, tally.n, 0.95).map(|e| format!("[{:.4}, {:.4}]", e.low, e.high));
            let interval = interval.unwrap_or_default();
            writeln!(f, "{name:<24}  {:>8.4}  {interval:>16}  {:>6.4}", tally.accuracy(), tally.brier())?;
        }
        writeln!(
            f,
            "\nLabels come a day late: \"at once\" knows a label that nobody has yet, and is shown for comparison."
        )?;
        let approved = self.promotions.iter().filter(|p| p.1 == "promoted" || p.1 == "applied").count();
        writeln!(f, "{} alerts, {} retrainings, {approved} promotions", self.alerts.len(), self.retrainings)?;
        let [captures, failed, dropped] = self.unhealthy;
        writeln!(f, "{captures} captures failed, {failed} shadow predictions failed, {dropped} dropped")?;
        writeln!(f, "{}", self.checked.audit())?;
        writeln!(f, "{}", self.checked.lineage())?;
        write!(f, "\n{}", self.trace)
    }
}

/// The page.
pub(crate) fn html(summary: &Summary, state: &State, start: Timestamp) -> String {
    let week = |n: usize| start + TimeDelta::weeks(n as i64);
    let mut markers: Vec<Marker> = summary
        .alerts
        .iter()
        .map(|a| Marker::new(a.at, MarkerKind::Alert, format!("{}: {}", a.rule, a.summary)))
        .collect();
    for attempt in &summary.attempts {
        let name = attempt.version.map_or_else(|| "a candidate".to_owned(), |v| format!("v{v}"));
        let kind = if attempt.outcome.starts_with("champion") { MarkerKind::Promotion } else { MarkerKind::Rollback };
        if attempt.why != "first model" {
            markers.push(Marker::new(attempt.at, MarkerKind::Retrain, format!("{name}: {}", attempt.why)));
            markers.push(Marker::new(attempt.decided, kind, format!("{name}: {}", attempt.outcome)));
        }
    }

    let series = |i: usize| {
        let points = summary.scores.weeks.iter().enumerate().map(move |(n, tallies)| {
            let tally = tallies[i];
            let interval = wilson(tally.correct, tally.n, 0.95).map_or((f64::NAN, f64::NAN), |e| (e.low, e.high));
            (week(n), tally.accuracy(), interval)
        });
        let name = SERIES[i];
        match i {
            0 => Series::new(name, points.map(|(at, value, (low, high))| (at, value, low, high))),
            1 => Series::new(name, points.map(|(at, value, _)| (at, value))),
            _ => Series::new(name, points.map(|(at, value, _)| (at, value))).baseline(),
        }
    };
    let accuracy = LineChart::new("Accuracy by week")
        .caption("Each answer scored once, in order. The band is the 95 % Wilson interval of the first line.")
        .format(Format::Percent(1))
        .series(series(0))
        .series(series(1))
        .markers(markers);
    let mut beside = LineChart::new("The same beside the baselines").format(Format::Percent(0));
    for i in 0..SERIES.len() {
        beside = beside.series(series(i));
    }
    let mut brier =
        LineChart::new("Brier score by week").caption("Mean squared error of the probability; lower is better.");
    for (i, name) in SERIES.iter().enumerate().take(2) {
        let points = summary.scores.weeks.iter().enumerate().map(|(n, t)| (week(n), t[i].brier()));
        brier = brier.series(Series::new(*name, points));
    }

    let windows: Vec<_> = state.monitor.reports().collect();
    let names: BTreeSet<&str> = windows.iter().flat_map(|w| w.features.iter().map(|c| c.column.as_str())).collect();
    let mut drift = Heatmap::new("Drift of each input, by window", windows.iter().map(|w| w.from))
        .caption("Population stability index against the training data of the version that was serving, its noise taken off.")
        .scale(0.0, 1.0)
        .alert_at(0.2, "drift from here on");
    for name in names {
        let value = |w: &&&mlops_monitor::WindowReport| {
            w.features.iter().find(|c| c.column == name).map(|c| c.psi.effect.value)
        };
        drift = drift.row(name, windows.iter().map(|w| value(&w).unwrap_or(f64::NAN)));
    }
    drift = drift.row("(prediction)", windows.iter().map(|w| w.prediction.psi.effect.value));

    let versions: BTreeSet<u64> = state.traffic.iter().flat_map(|d| d.keys().copied()).collect();
    let days = state.traffic.iter().enumerate().map(|(n, _)| start + TimeDelta::days(n as i64));
    let mut traffic = StackedArea::new("Who answered, by day", days)
        .caption(
            "Share of the answers given by each version: canaries show as thin bands before they take over or vanish.",
        )
        .until(start + TimeDelta::days(state.traffic.len() as i64))
        .format(Format::Percent(0));
    for version in versions {
        let share = |day: &std::collections::BTreeMap<u64, u64>| {
            let all: u64 = day.values().sum();
            day.get(&version).copied().unwrap_or(0) as f64 / all.max(1) as f64
        };
        traffic = traffic.layer(format!("v{version}"), state.traffic.iter().map(share));
    }

    let total = &summary.scores.total;
    let percent = |x: f64| format!("{:.2} %", 100.0 * x);
    let stopped = summary.attempts.iter().filter(|a| a.gates != Verdict::Pass).count();
    let rolled_back = summary.attempts.iter().filter(|a| a.outcome.starts_with("rolled back")).count();
    let scores = SERIES.iter().zip(total).map(|(name, t)| {
        let interval = wilson(t.correct, t.n, 0.95).map(|e| format!("{} to {}", percent(e.low), percent(e.high)));
        [(*name).to_owned(), percent(t.accuracy()), interval.unwrap_or_default(), format!("{:.4}", t.brier())]
    });
    Report::new("The life of a model")
        .subtitle(format!(
            "Half-hourly electricity prices, New South Wales, {} to {}; seed {}",
            day(start),
            day(week(summary.scores.weeks.len())),
            summary.seed
        ))
        .figures([
            Figure::new("accuracy, monitored and retrained", percent(total[0].accuracy())).note(format!("{} answers", total[0].n)),
            Figure::new("accuracy, first model frozen", percent(total[1].accuracy())),
            Figure::new("alerts", summary.alerts.len().to_string()),
            Figure::new("retrainings", summary.retrainings.to_string()),
            Figure::new("bad candidates", format!("{}", stopped + rolled_back))
                .note(format!("{stopped} stopped by a gate, {rolled_back} rolled back")),
        ])
        .section("How good the answers were")
        .line_chart(accuracy)
        .line_chart(brier)
        .line_chart(beside)
        .table(["", "accuracy", "95 % interval", "Brier score"], scores)
        .paragraph(
            "Labels come a day late, so the label of the half hour before is not known when an answer is given; the line \
             that uses it is there for comparison only.",
        )
        .section("What the monitor saw")
        .heatmap(drift)
        .section("Versions")
        .stacked_area(traffic)
        .table(HEADERS, summary.attempts.iter().map(Attempt::cells))
        .section("From the last prediction back to its origins")
        .paragraph(summary.checked.audit())
        .paragraph(summary.checked.lineage())
        .table(["trace"], summary.trace.lines().map(|line| [line.to_owned()]))
        .section("Every alert")
        .table(["when", "rule", "what"], summary.alerts.iter().map(|a| [day(a.at), a.rule.clone(), a.summary.clone()]))
        .render()
}
