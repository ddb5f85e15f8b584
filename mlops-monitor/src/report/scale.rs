//! Axes: ticks at round numbers and dates, and what values look like in words.

use chrono::{Datelike, Days, Months, NaiveTime, TimeDelta};
use mlops_core::Timestamp;

use super::Point;

/// How values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// As many decimals as the size asks for.
    #[default]
    Auto,
    /// That many decimals.
    Fixed(u8),
    /// A share as per cent with that many decimals: 0.5 is 50 %.
    Percent(u8),
}

impl Format {
    pub(super) fn text(self, value: f64) -> String {
        if !value.is_finite() {
            return "–".to_owned();
        }
        match self {
            Self::Fixed(digits) => format!("{value:.*}", usize::from(digits)),
            Self::Percent(digits) => format!("{:.*}%", usize::from(digits), value * 100.0),
            Self::Auto => auto(value),
        }
    }

    /// Ticks need the decimals that tell them apart, and no more.
    pub(super) fn tick(self, value: f64, step: f64) -> String {
        let (value, step, unit) =
            if let Self::Percent(_) = self { (value * 100.0, step * 100.0, "%") } else { (value, step, "") };
        if step >= 1e6 || value.abs() >= 1e9 || step < 1e-6 {
            return format!("{value:.1e}{unit}");
        }
        let digits = (-(step * 1.000_001).log10().floor()).clamp(0.0, 7.0) as usize;
        format!("{value:.digits$}{unit}")
    }

    pub(super) fn code(self) -> serde_json::Value {
        match self {
            Self::Auto => serde_json::json!(["auto", 0]),
            Self::Fixed(digits) => serde_json::json!(["fixed", digits]),
            Self::Percent(digits) => serde_json::json!(["percent", digits]),
        }
    }
}

fn auto(value: f64) -> String {
    let size = value.abs();
    if size >= 1e9 || (size > 0.0 && size < 1e-4) {
        return format!("{value:.2e}");
    }
    let digits = match size {
        s if s >= 1_000.0 => 0,
        s if s >= 10.0 => 1,
        s if s >= 1.0 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Round numbers from at most `low` to at least `high`, about `count` of them, and their step.
pub(super) fn number_ticks(low: f64, high: f64, count: u32) -> (Vec<f64>, f64) {
    let raw = (high / f64::from(count) - low / f64::from(count)).max(f64::MIN_POSITIVE * 1e6);
    let power = 10.0_f64.powf(raw.log10().floor());
    let step = power * [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|m| m * power >= raw * 0.999_999).unwrap_or(10.0);
    let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
    if !(step.is_finite() && (1.0..=50.0).contains(&(last - first))) {
        return (vec![low, high], high / 2.0 - low / 2.0);
    }
    let ticks = (0..=(last - first) as u32).map(|i| (first + f64::from(i)) * step).collect();
    (ticks, step)
}

/// Dates and times that people count in, within `from..=until`, at most `most` of them, with their labels.
pub(super) fn time_ticks(from: Timestamp, until: Timestamp, most: usize) -> Vec<(Timestamp, String)> {
    let span = until - from;
    let minutes = span.num_minutes() as f64 / most as f64;
    const HOUR: f64 = 60.0;
    const DAY: f64 = 24.0 * HOUR;
    for step in [1_i64, 5, 15, 30, 60, 120, 180, 360, 720] {
        if minutes <= step as f64 {
            return clock_ticks(from, until, TimeDelta::minutes(step));
        }
    }
    for days in [1_u64, 2, 7, 14] {
        if minutes <= days as f64 * DAY {
            return day_ticks(from, until, days);
        }
    }
    for months in [1_u32, 2, 3, 6, 12, 24, 60, 120, 240, 600, 1_200, 6_000, 12_000] {
        if minutes <= f64::from(months) * 30.4 * DAY {
            return month_ticks(from, until, months);
        }
    }
    vec![(from, from.format("%Y").to_string()), (until, until.format("%Y").to_string())]
}

fn midnight(at: Timestamp) -> Timestamp {
    at.date_naive().and_time(NaiveTime::MIN).and_utc()
}

fn clock_ticks(from: Timestamp, until: Timestamp, step: TimeDelta) -> Vec<(Timestamp, String)> {
    let mut ticks = Vec::new();
    let mut at = midnight(from);
    while at <= until {
        if at >= from {
            let label = if at == midnight(at) { at.format("%-d %b") } else { at.format("%H:%M") };
            ticks.push((at, label.to_string()));
        }
        let Some(next) = at.checked_add_signed(step) else { break };
        at = next;
    }
    ticks
}

fn day_ticks(from: Timestamp, until: Timestamp, days: u64) -> Vec<(Timestamp, String)> {
    let mut at = midnight(from);
    if days >= 7 {
        let back = u64::from(at.weekday().num_days_from_monday());
        at = at.checked_sub_days(Days::new(back)).unwrap_or(at);
    }
    let mut ticks: Vec<(Timestamp, String)> = Vec::new();
    while at <= until {
        if at >= from {
            let new_year = ticks.last().is_none_or(|(last, _)| last.year() != at.year());
            let label = if new_year { at.format("%-d %b %Y") } else { at.format("%-d %b") };
            ticks.push((at, label.to_string()));
        }
        let Some(next) = at.checked_add_days(Days::new(days)) else { break };
        at = next;
    }
    ticks
}

fn month_ticks(from: Timestamp, until: Timestamp, months: u32) -> Vec<(Timestamp, String)> {
    let years = months / 12;
    let start = midnight(from).with_day(1).and_then(|at| at.with_month(1));
    let start = match (start, i32::try_from(years)) {
        (Some(at), Ok(years)) if years > 1 => at.with_year(at.year() - at.year().rem_euclid(years)),
        (start, _) => start,
    };
    let Some(mut at) = start else { return Vec::new() };
    let mut ticks: Vec<(Timestamp, String)> = Vec::new();
    while at <= until {
        if at >= from {
            let new_year = ticks.last().is_none_or(|(last, _)| last.year() != at.year());
            let label = match (years > 0, new_year) {
                (true, _) => at.format("%Y"),
                (false, true) => at.format("%b %Y"),
                (false, false) => at.format("%b"),
            };
            ticks.push((at, label.to_string()));
        }
        let Some(next) = at.checked_add_months(Months::new(months)) else { break };
        at = next;
    }
    ticks
}

/// Where `at` lies between the ends, from 0 to 1 if it lies between them.
pub(super) fn fraction(at: Timestamp, (from, until): (Timestamp, Timestamp)) -> f64 {
    let micros = |span: TimeDelta| span.num_microseconds().map_or(span.num_seconds() as f64 * 1e6, |m| m as f64);
    micros(at - from) / micros(until - from).max(1.0)
}

/// Spans of time that a long series is thinned to.
const SPANS: usize = 400;

/// The points to draw: all, or the first, lowest, highest and last of each span, in order (M4). A gap stays a gap.
pub(super) fn thinned(points: &[Point]) -> Vec<Point> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    if points.len() <= 4 * SPANS {
        return points.to_vec();
    }
    let ends = (first.at, last.at);
    let span_of = |point: &Point| ((fraction(point.at, ends) * SPANS as f64) as usize).min(SPANS - 1);
    let mut kept = Vec::with_capacity(4 * SPANS);
    let mut start = 0;
    while start < points.len() {
        let span = span_of(&points[start]);
        let end = start + points[start..].iter().take_while(|point| span_of(point) == span).count();
        let bucket = &points[start..end];
        let finite = || (start..end).filter(|i| points[*i].value.is_finite());
        let by_value = |a: &usize, b: &usize| points[*a].value.total_cmp(&points[*b].value);
        let mut picked: Vec<usize> = [Some(start), finite().min_by(by_value), finite().max_by(by_value), Some(end - 1)]
            .into_iter()
            .flatten()
            .collect();
        // One gap of each span, where it is: more would not show.
        picked.extend(bucket.iter().position(|point| !point.value.is_finite()).map(|i| start + i));
        picked.sort_unstable();
        picked.dedup();
        kept.extend(picked.into_iter().map(|i| points[i]));
        start = end;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn number_ticks_are_round_and_cover_the_data() {
        assert_eq!(number_ticks(0.0, 1.0, 5).0.len(), 6);
        let (ticks, step) = number_ticks(0.712, 0.868, 5);
        assert!((ticks[0] - 0.7).abs() < 1e-12 && (step - 0.05).abs() < 1e-12);
        let labels: Vec<String> = ticks.iter().map(|t| Format::Percent(1).tick(*t, step)).collect();
        assert_eq!(labels, ["70%", "75%", "80%", "85%", "90%"]);
        for (low, high) in
            [(0.0, 1e300), (-1e300, 1e300), (1.0, 1.0 + f64::EPSILON), (f64::MIN, f64::MAX), (0.0, 5e-324)]
        {
            let (ticks, _) = number_ticks(low, high, 5);
            assert!(ticks.len() >= 2 && ticks.len() <= 52, "{low} {high}: {}", ticks.len());
        }
    }

    #[test]
    fn time_ticks_are_dates_people_use() {
        let labels = |from: &str, until: &str| -> Vec<String> {
            time_ticks(at(from), at(until), 8).into_iter().map(|(_, label)| label).collect()
        };
        assert_eq!(
            labels("1996-11-03T00:00:00Z", "1998-12-06T00:00:00Z"),
            ["Jan 1997", "Jul", "Jan 1998", "Jul"].map(str::to_owned)
        );
        assert_eq!(labels("1997-01-06T06:00:00Z", "1997-01-06T12:00:00Z")[0], "06:00");
        assert_eq!(labels("1997-01-06T00:00:00Z", "1997-01-20T00:00:00Z")[0], "6 Jan 1997");
        assert!(labels("1900-01-01T00:00:00Z", "2100-01-01T00:00:00Z").contains(&"2000".to_owned()));
        let all = time_ticks(Timestamp::MIN_UTC, Timestamp::MAX_UTC, 8);
        assert!(!all.is_empty() && all.len() < 100);
    }

    #[test]
    fn thinning_keeps_extremes_ends_and_gaps() {
        let start = at("1997-01-06T00:00:00Z");
        let mut points: Vec<Point> =
            (0..50_000_i32).map(|i| (start + TimeDelta::seconds(i.into()), f64::from(i % 97)).into()).collect();
        points[31_234].value = 1e6;
        points[40_000].value = f64::NAN;
        let kept = thinned(&points);
        assert!(kept.len() <= 5 * SPANS && kept.is_sorted_by_key(|p| p.at));
        assert_eq!((kept[0], kept[kept.len() - 1]), (points[0], points[49_999]));
        assert!(kept.iter().any(|p| p.value == 1e6) && kept.iter().any(|p| p.value.is_nan()));
    }
}
