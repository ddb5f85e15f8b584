//! Charts as HTML: the plot is an SVG that stretches, the words around it are text that does not.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mlops_core::Timestamp;
use serde_json::json;

use super::scale::{fraction, number_ticks, thinned, time_ticks};
use super::{Format, Heatmap, LineChart, Marker, MarkerKind, Point, StackedArea, escape, script_json, table};

/// Rows of the table beside a chart, at most.
const TABLE_ROWS: usize = 400;
/// Colours before they repeat.
const COLOURS: usize = 6;
/// Width and height of a plot in its own units.
const SIDE: f64 = 1000.0;

type Ends = (Timestamp, Timestamp);

fn colour(index: usize) -> String {
    format!("var(--s{})", index % COLOURS)
}

fn stamp(at: Timestamp) -> String {
    let midnight = at.time() == chrono::NaiveTime::MIN;
    at.format(if midnight { "%Y-%m-%d" } else { "%Y-%m-%d %H:%M UTC" }).to_string()
}

/// A figure's frame: title, caption and description, then `body`, then the numbers as a table.
struct Frame<'a> {
    number: usize,
    class: &'a str,
    title: &'a str,
    caption: String,
}

impl Frame<'_> {
    fn open(&self, out: &mut String) {
        let Self { number, class, title, caption } = self;
        push!(out, "<figure class=\"{class}\" data-chart aria-labelledby=\"t{number}\">\n<figcaption>");
        push!(out, "<h3 id=\"t{number}\">{}</h3>", escape(title));
        if !caption.is_empty() {
            push!(out, "<p>{}</p>", escape(caption));
        }
        out.push_str("</figcaption>\n");
    }

    /// The opening of the plot and its SVG.
    fn plot(&self, class: &str, style: &str, description: &str, out: &mut String) {
        let Self { number, title, .. } = self;
        push!(out, "<div class=\"plot {class}\"{style} tabindex=\"0\" role=\"group\" aria-labelledby=\"t{number}\">");
        push!(out, "<svg viewBox=\"0 0 {SIDE} {SIDE}\" preserveAspectRatio=\"none\" role=\"img\" ");
        push!(out, "aria-labelledby=\"n{number} d{number}\">");
        push!(
            out,
            "<title id=\"n{number}\">{}</title><desc id=\"d{number}\">{}</desc>",
            escape(title),
            escape(description)
        );
    }

    fn close(&self, data: &serde_json::Value, headers: &[String], rows: &[Vec<String>], out: &mut String) {
        let all = rows.len();
        let every = all.div_ceil(TABLE_ROWS).max(1);
        let rows: Vec<Vec<String>> = rows.iter().step_by(every).cloned().collect();
        let what = if every > 1 { format!("Numbers (one in {every} of {all} rows)") } else { "Numbers".to_owned() };
        push!(out, "<details><summary>{what}</summary>");
        table(headers, &rows, &format!("{}: numbers", self.title), out);
        push!(out, "</details>\n<script type=\"application/json\">{}</script>\n</figure>\n", script_json(data));
    }

    fn empty(&self, out: &mut String) {
        self.open(out);
        out.push_str("<p class=\"empty\">No data.</p>\n</figure>\n");
    }
}

fn x_axis(ends: Ends, out: &mut String) {
    let ticks = time_ticks(ends.0, ends.1, 10).into_iter().map(|(at, label)| (fraction(at, ends), label));
    x_labels(ticks, out);
}

fn x_labels(ticks: impl Iterator<Item = (f64, String)>, out: &mut String) {
    out.push_str("<div></div><div class=\"xs\" aria-hidden=\"true\">");
    for (i, (x, label)) in ticks.enumerate() {
        let edge = match x {
            x if x < 0.04 => " first",
            x if x > 0.96 => " last",
            _ => "",
        };
        let minor = if i % 2 == 1 { " minor" } else { "" };
        push!(out, "<span class=\"tick{edge}{minor}\" style=\"left:{:.3}%\">{}</span>", x * 100.0, escape(&label));
    }
    out.push_str("</div>");
}

/// Tick labels left of a plot that ends at `low` and `high`.
fn y_axis(ticks: &[f64], step: f64, (low, high): (f64, f64), format: Format, out: &mut String) {
    out.push_str("<div class=\"ys\" aria-hidden=\"true\">");
    for tick in ticks {
        let top = 100.0 - share(*tick, low, high) * 100.0;
        push!(out, "<span class=\"tick\" style=\"top:{top:.3}%\">{}</span>", escape(&format.tick(*tick, step)));
    }
    out.push_str("</div>");
}

fn grid(ticks: &[f64], (low, high): (f64, f64), out: &mut String) {
    for (i, tick) in ticks.iter().enumerate() {
        let y = y_of(*tick, low, high);
        let class = if i == 0 { "grid zero" } else { "grid" };
        push!(out, "<line class=\"{class}\" x1=\"0\" x2=\"{SIDE}\" y1=\"{y:.2}\" y2=\"{y:.2}\"/>");
    }
}

/// Where a value lies between the ends, without overflow.
fn share(value: f64, low: f64, high: f64) -> f64 {
    (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0)
}

fn y_of(value: f64, low: f64, high: f64) -> f64 {
    // Far outside, the exact place does not show, and a renderer may not take the number.
    (SIDE - share(value, low, high) * SIDE).clamp(-4.0 * SIDE, 5.0 * SIDE)
}

fn millis(at: Timestamp) -> i64 {
    at.timestamp_millis()
}

fn number(value: f64) -> serde_json::Value {
    if value.is_finite() { json!(value) } else { serde_json::Value::Null }
}

/// Ends of the vertical axis, its ticks and their step.
fn y_scale(range: Option<(f64, f64)>, values: impl Iterator<Item = f64>) -> ((f64, f64), Vec<f64>, f64) {
    let (mut low, mut high) = range.unwrap_or_else(|| {
        values.filter(|v| v.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
    });
    if low > high {
        (low, high) = (0.0, 1.0);
    }
    if low == high {
        let room = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
        (low, high) = ((low - room).max(f64::MIN), (high + room).min(f64::MAX));
    }
    let (mut ticks, step) = number_ticks(low, high, 5);
    match range {
        Some((low, high)) => ticks.retain(|tick| (low - step * 1e-6..=high + step * 1e-6).contains(tick)),
        None => {
            low = ticks.first().copied().unwrap_or(low).min(low);
            high = ticks.last().copied().unwrap_or(high).max(high);
        }
    }
    ((low, high), ticks, step)
}

impl MarkerKind {
    fn name(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Retrain => "retrain",
            Self::Promotion => "promotion",
            Self::Rollback => "rollback",
            Self::Note => "note",
        }
    }

    fn lane(self) -> &'static str {
        match self {
            Self::Alert => "alerts",
            Self::Retrain => "retrain",
            Self::Promotion => "promote",
            Self::Rollback => "rollback",
            Self::Note => "notes",
        }
    }

    /// A shape of its own within 12 by 12.
    fn shape(self) -> &'static str {
        match self {
            Self::Alert => "M6 1.2 11.2 10.6H.8Z",
            Self::Retrain => "M2 2H10V10H2Z",
            Self::Promotion => "M6 1A5 5 0 1 1 6 11A5 5 0 1 1 6 1Z",
            Self::Rollback => "M6 .5 11.5 6 6 11.5.5 6Z",
            Self::Note => "M5 1H7V5H11V7H7V11H5V7H1V5H5Z",
        }
    }
}

/// One lane for each kind of marker that lies within the ends.
fn lanes(markers: &[Marker], ends: Ends, out: &mut String) {
    let mut by_kind: BTreeMap<MarkerKind, Vec<&Marker>> = BTreeMap::new();
    for marker in markers.iter().filter(|m| (ends.0..=ends.1).contains(&m.at)) {
        by_kind.entry(marker.kind).or_default().push(marker);
    }
    for (kind, mut markers) in by_kind {
        markers.sort_by_key(|marker| marker.at);
        push!(out, "<div class=\"lane-name\" aria-hidden=\"true\">{}</div><div class=\"lane\">", kind.lane());
        for (i, marker) in markers.iter().enumerate() {
            let x = fraction(marker.at, ends);
            let next = markers.get(i + 1).map_or(1.0, |next| fraction(next.at, ends));
            // An alert's label is a sentence: it stands in the tooltip and in the table.
            let short = kind != MarkerKind::Alert && marker.label.chars().count() <= 12;
            let room = 0.012 * marker.label.chars().count() as f64 + 0.03;
            let flip = short && markers.len() == i + 1 && 1.0 - x < room;
            let shown = short && (next - x >= room || flip);
            let place =
                if flip { format!("right:{:.3}%", 100.0 - x * 100.0) } else { format!("left:{:.3}%", x * 100.0) };
            let (kind_name, label) = (kind.name(), escape(&marker.label));
            let title = format!("{}, {}: {label}", stamp(marker.at), kind_name);
            let class = if flip { " flip" } else { "" };
            push!(out, "<span class=\"mark m-{kind_name}{class}\" style=\"{place}\" title=\"{title}\">");
            push!(
                out,
                "<svg viewBox=\"0 0 12 12\" aria-hidden=\"true\"><path fill=\"currentColor\" d=\"{}\"/></svg>",
                kind.shape()
            );
            push!(out, "<span{}>{label}</span></span>", if shown { "" } else { " class=\"sr\"" });
        }
        out.push_str("</div>");
    }
}

/// A line through the finite points, broken at the others; a lone point is a dot.
fn line_path(points: &[Point], ends: Ends, (low, high): (f64, f64)) -> String {
    let mut path = String::new();
    let mut alone = None;
    for point in points {
        if !point.value.is_finite() {
            path.push_str(if alone == Some(true) { "h0" } else { "" });
            alone = None;
            continue;
        }
        let (x, y) = (fraction(point.at, ends) * SIDE, y_of(point.value, low, high));
        push!(path, "{}{x:.2} {y:.2}", if alone.is_none() { 'M' } else { 'L' });
        alone = Some(alone.is_none());
    }
    path.push_str(if alone == Some(true) { "h0" } else { "" });
    path
}

/// The bands of each unbroken run of points that have one.
fn band_path(points: &[Point], ends: Ends, (low, high): (f64, f64)) -> String {
    let mut path = String::new();
    let has_band =
        |point: &Point| point.value.is_finite() && point.band.is_some_and(|(l, h)| l.is_finite() && h.is_finite());
    for run in points.chunk_by(|a, b| has_band(a) && has_band(b)).filter(|run| run.len() > 1) {
        let upper = run.iter().filter_map(|p| p.band.map(|(_, h)| (p.at, h)));
        let lower = run.iter().rev().filter_map(|p| p.band.map(|(l, _)| (p.at, l)));
        for (i, (at, value)) in upper.chain(lower).enumerate() {
            let command = if i == 0 { 'M' } else { 'L' };
            push!(path, "{command}{:.2} {:.2}", fraction(at, ends) * SIDE, y_of(value, low, high));
        }
        path.push('Z');
    }
    path
}

impl LineChart {
    pub(super) fn render(&self, id: usize, out: &mut String) {
        let drawn: Vec<Vec<Point>> = self.series.iter().map(|series| thinned(&series.points)).collect();
        let caption = self.caption.clone().unwrap_or_default();
        let long: Vec<String> = self
            .series
            .iter()
            .zip(&drawn)
            .filter(|(series, drawn)| drawn.len() < series.points.len())
            .map(|(series, drawn)| {
                format!("{}: {} of {} points drawn (M4).", series.name, drawn.len(), series.points.len())
            })
            .collect();
        let caption = [vec![caption], long].concat().join(" ").trim().to_owned();
        let frame = Frame { number: id, class: "chart", title: &self.title, caption };
        let points = || drawn.iter().flatten();
        let times = || points().filter(|p| p.value.is_finite()).map(|p| p.at);
        let (Some(from), Some(mut until)) = (times().min(), times().max()) else { return frame.empty(out) };
        if from == until {
            until = crate::time::after(until, std::time::Duration::from_secs(3_600));
        }
        let ends = (from, until);
        let level = self.threshold.iter().map(|(value, _)| *value);
        let bands = points().filter_map(|p| p.band).flat_map(|(low, high)| [low, high]);
        let (range, ticks, step) = y_scale(self.y_range, points().map(|p| p.value).chain(bands).chain(level));

        frame.open(out);
        self.legend(out);
        out.push_str("<div class=\"row\">");
        lanes(&self.markers, ends, out);
        y_axis(&ticks, step, range, self.format, out);
        let thin = if drawn.iter().any(|points| points.len() > SIDE as usize) { "thin" } else { "" };
        frame.plot(thin, "", &self.describe(ends), out);
        push!(out, "<clipPath id=\"k{id}\"><rect x=\"-20\" y=\"-6\" width=\"1040\" height=\"1012\"/></clipPath>");
        grid(&ticks, range, out);
        for marker in &self.markers {
            if matches!(marker.kind, MarkerKind::Promotion | MarkerKind::Rollback)
                && (from..=until).contains(&marker.at)
            {
                let (x, kind) = (fraction(marker.at, ends) * SIDE, marker.kind.name());
                push!(out, "<line class=\"event m-{kind}\" x1=\"{x:.2}\" x2=\"{x:.2}\" y1=\"0\" y2=\"{SIDE}\"/>");
            }
        }
        push!(out, "<g clip-path=\"url(#k{id})\">");
        for (i, (series, points)) in self.series.iter().zip(&drawn).enumerate() {
            let colour = self.colour(i);
            push!(out, "<g data-series=\"{i}\"{}>", if series.baseline { " class=\"base\"" } else { "" });
            let band = band_path(points, ends, range);
            if !band.is_empty() {
                push!(out, "<path class=\"band\" fill=\"{colour}\" d=\"{band}\"/>");
            }
            push!(out, "<path class=\"line\" stroke=\"{colour}\" d=\"{}\"/></g>", line_path(points, ends, range));
        }
        if let Some((value, _)) = &self.threshold {
            let y = y_of(*value, range.0, range.1);
            push!(out, "<line class=\"limit\" x1=\"0\" x2=\"{SIDE}\" y1=\"{y:.2}\" y2=\"{y:.2}\"/>");
        }
        out.push_str("</g></svg>");
        if let Some((value, label)) = &self.threshold {
            let top = 100.0 - share(*value, range.0, range.1) * 100.0;
            push!(out, "<span class=\"level\" style=\"top:{top:.3}%\">{}</span>", escape(label));
        }
        out.push_str("</div>");
        x_axis(ends, out);
        out.push_str("</div>\n");
        frame.close(&self.data(&drawn, ends), &self.headers(), &self.rows(&drawn), out);
    }

    /// Series have the colours in their order; baselines are grey and use none up.
    fn colour(&self, index: usize) -> String {
        if self.series[index].baseline {
            return "var(--base)".to_owned();
        }
        colour(self.series[..index].iter().filter(|series| !series.baseline).count())
    }

    fn legend(&self, out: &mut String) {
        out.push_str("<div class=\"legend\">");
        for (i, series) in self.series.iter().enumerate() {
            let (colour, class) = (self.colour(i), if series.baseline { " class=\"base\"" } else { "" });
            push!(
                out,
                "<button type=\"button\" aria-pressed=\"true\" disabled><svg viewBox=\"0 0 20 12\" aria-hidden=\"true\"{class}>"
            );
            push!(
                out,
                "<path d=\"M1 6H19\" stroke=\"{colour}\" stroke-width=\"2.5\"/></svg>{}</button>",
                escape(&series.name)
            );
        }
        out.push_str("</div>\n");
    }

    fn describe(&self, (from, until): Ends) -> String {
        let mut text = format!("Lines over time, from {} to {}.", stamp(from), stamp(until));
        for series in &self.series {
            let finite = || series.points.iter().filter(|point| point.value.is_finite()).map(|point| point.value);
            let Some(last) = finite().next_back() else { continue };
            let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
            let text_of = |value| self.format.text(value);
            push!(text, " {}: {} to {}, last {}.", series.name, text_of(low), text_of(high), text_of(last));
        }
        let mut kinds: BTreeMap<MarkerKind, usize> = BTreeMap::new();
        for marker in &self.markers {
            *kinds.entry(marker.kind).or_default() += 1;
        }
        for (kind, n) in kinds {
            push!(text, " Markers of kind {}: {n}.", kind.name());
        }
        text
    }

    fn data(&self, drawn: &[Vec<Point>], (from, until): Ends) -> serde_json::Value {
        let series = self.series.iter().zip(drawn).map(|(series, points)| {
            let band = |p: &Point| p.band.map(|(low, high)| [number(low), number(high)]);
            let bands = points.iter().any(|p| p.band.is_some());
            json!({
                "n": series.name,
                "t": points.iter().map(|p| millis(p.at)).collect::<Vec<_>>(),
                "v": points.iter().map(|p| number(p.value)).collect::<Vec<_>>(),
                "b": bands.then(|| points.iter().map(band).collect::<Vec<_>>()),
            })
        });
        let markers = self.markers.iter().map(|m| json!([millis(m.at), m.label, m.kind.name()]));
        json!({
            "x": [millis(from), millis(until)],
            "f": self.format.code(),
            "s": series.collect::<Vec<_>>(),
            "m": markers.collect::<Vec<_>>(),
        })
    }

    fn headers(&self) -> Vec<String> {
        let mut headers = vec!["time".to_owned()];
        headers.extend(self.series.iter().map(|series| series.name.clone()));
        if !self.markers.is_empty() {
            headers.push("events".to_owned());
        }
        headers
    }

    fn rows(&self, drawn: &[Vec<Point>]) -> Vec<Vec<String>> {
        let mut rows: BTreeMap<Timestamp, Vec<String>> = BTreeMap::new();
        let width = self.headers().len() - 1;
        let blank = || vec![String::new(); width];
        for (i, points) in drawn.iter().enumerate() {
            for point in points {
                let text = |value| self.format.text(value);
                let cell = match point.band {
                    Some((low, high)) if point.value.is_finite() => {
                        format!("{} [{}, {}]", text(point.value), text(low), text(high))
                    }
                    _ => text(point.value),
                };
                rows.entry(point.at).or_insert_with(blank)[i] = cell;
            }
        }
        for marker in &self.markers {
            let row = rows.entry(marker.at).or_insert_with(blank);
            let cell = &mut row[width - 1];
            let comma = if cell.is_empty() { "" } else { "; " };
            push!(cell, "{comma}{} {}", marker.kind.name(), marker.label);
        }
        rows.into_iter().map(|(at, cells)| [vec![stamp(at)], cells].concat()).collect()
    }
}

/// Height of a heat map's row in pixels.
const ROW_PX: usize = 26;

impl Heatmap {
    pub(super) fn render(&self, id: usize, out: &mut String) {
        let frame =
            Frame { number: id, class: "heat", title: &self.title, caption: self.caption.clone().unwrap_or_default() };
        let (columns, rows) = (self.times.len(), self.rows.len());
        let finite = || self.rows.iter().flat_map(|(_, values)| values).copied().filter(|v| v.is_finite());
        if columns == 0 || rows == 0 || finite().next().is_none() {
            return frame.empty(out);
        }
        let (low, high) = self.scale.unwrap_or_else(|| {
            let high = finite().fold(f64::NEG_INFINITY, f64::max);
            let low = finite().fold(0.0, f64::min);
            (low, if high > low { high } else { low + 1.0 })
        });
        frame.open(out);
        self.ramps(low, high, out);
        out.push_str("<div class=\"row\"><div aria-hidden=\"true\">");
        for (name, _) in &self.rows {
            let name = escape(name);
            push!(out, "<div class=\"row-name\" title=\"{name}\"><span>{name}</span></div>");
        }
        out.push_str("</div>");
        let height = rows * ROW_PX;
        frame.plot("", &format!(" style=\"height:{height}px\""), &self.describe(), out);
        let (width, tall) = (SIDE / columns as f64, SIDE / rows as f64);
        let (wide, high_cell) = (width * if columns > 160 { 1.0 } else { 0.92 }, tall * 0.94);
        let mut void = String::new();
        for (row, (_, values)) in self.rows.iter().enumerate() {
            for (column, value) in values.iter().enumerate() {
                let (x, y) = (column as f64 * width, row as f64 * tall);
                if !value.is_finite() {
                    push!(void, "M{x:.2} {:.2}L{:.2} {y:.2}", y + high_cell, x + wide);
                    continue;
                }
                let class = if self.is_hot(*value) { "hot" } else { "cold" };
                push!(out, "<rect class=\"cell {class}\" x=\"{x:.2}\" y=\"{y:.2}\" width=\"{wide:.2}\" ");
                push!(out, "height=\"{high_cell:.2}\" fill-opacity=\"{:.3}\"/>", self.depth(*value, low, high));
            }
        }
        if !void.is_empty() {
            push!(out, "<path class=\"void\" d=\"{void}\"/>");
        }
        out.push_str("</svg></div>");
        let nearest = |at: Timestamp| self.times.partition_point(|time| *time < at);
        let (first, last) = (self.times[0], self.times[columns - 1]);
        let mut ticks: Vec<(f64, String)> = time_ticks(first, last, 10)
            .into_iter()
            .map(|(at, label)| ((nearest(at) as f64 + 0.5) / columns as f64, label))
            .collect();
        ticks.dedup_by(|a, b| a.0 == b.0);
        x_labels(ticks.into_iter(), out);
        out.push_str("</div>\n");
        frame.close(&self.data(), &self.headers(), &self.table_rows(), out);
    }

    fn is_hot(&self, value: f64) -> bool {
        self.alert_at.as_ref().is_some_and(|(alert_at, _)| value >= *alert_at)
    }

    /// Opacity of a cell. The two colours run over their own part of the scale, so that neither hides the other.
    fn depth(&self, value: f64, low: f64, high: f64) -> f64 {
        let alert_at = self.alert_at.as_ref().map(|(alert_at, _)| *alert_at);
        if self.is_hot(value) {
            let from = alert_at.unwrap_or(low);
            let share = if high > from { share(value, from, high).clamp(0.0, 1.0) } else { 1.0 };
            return 0.45 + 0.55 * share;
        }
        let to = alert_at.filter(|to| *to > low).unwrap_or(high);
        0.04 + 0.66 * share(value, low, to).clamp(0.0, 1.0)
    }

    fn ramps(&self, low: f64, high: f64, out: &mut String) {
        let text = |value: f64| escape(&self.format.text(value));
        out.push_str("<div class=\"ramp\" aria-hidden=\"true\">");
        let cold_end = self.alert_at.as_ref().map_or(high, |(alert_at, _)| *alert_at);
        // Values beyond a scale that the caller has set have its last colour.
        let more = if self.scale.is_some() { "≥ " } else { "" };
        match &self.alert_at {
            None => {
                push!(out, "<span>{}</span><i class=\"cold-ramp\"></i><span>{more}{}</span>", text(low), text(high))
            }
            Some((_, label)) => {
                push!(out, "<span>{}</span><i class=\"cold-ramp\"></i><span>{}</span>", text(low), text(cold_end));
                push!(out, "<b>{}</b><span>{}</span>", escape(label), text(cold_end));
                push!(out, "<i class=\"hot-ramp\"></i><span>{more}{}</span>", text(high.max(cold_end)));
            }
        }
        let empty = self.rows.iter().any(|(_, values)| values.iter().any(|v| !v.is_finite()));
        out.push_str(if empty { "<i class=\"void-ramp\"></i><span>no data</span>" } else { "" });
        out.push_str("</div>\n");
    }

    fn describe(&self) -> String {
        let cells = self.rows.iter().flat_map(|(name, values)| {
            values.iter().zip(&self.times).filter(|(v, _)| v.is_finite()).map(move |(v, at)| (name, *v, *at))
        });
        let hot = cells.clone().filter(|(_, value, _)| self.is_hot(*value)).count();
        let mut text = format!("Heat map of {} rows and {} times.", self.rows.len(), self.times.len());
        if let Some((name, value, at)) = cells.max_by(|a, b| a.1.total_cmp(&b.1)) {
            push!(text, " Highest: {name} on {}, {}.", stamp(at), self.format.text(value));
        }
        if let Some((alert_at, _)) = &self.alert_at {
            push!(text, " Cells at {} or above: {hot}.", self.format.text(*alert_at));
        }
        text
    }

    fn data(&self) -> serde_json::Value {
        let row =
            |(name, values): &(String, Vec<f64>)| json!([name, values.iter().map(|v| number(*v)).collect::<Vec<_>>()]);
        json!({
            "t": self.times.iter().map(|at| millis(*at)).collect::<Vec<_>>(),
            "f": self.format.code(),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    fn headers(&self) -> Vec<String> {
        std::iter::once("time".to_owned()).chain(self.rows.iter().map(|(name, _)| name.clone())).collect()
    }

    fn table_rows(&self) -> Vec<Vec<String>> {
        let cells = |i: usize| self.rows.iter().map(move |(_, values)| self.format.text(values[i]));
        self.times.iter().enumerate().map(|(i, at)| std::iter::once(stamp(*at)).chain(cells(i)).collect()).collect()
    }
}

impl StackedArea {
    pub(super) fn render(&self, id: usize, out: &mut String) {
        let frame =
            Frame { number: id, class: "chart", title: &self.title, caption: self.caption.clone().unwrap_or_default() };
        let (Some(from), Some(last)) = (self.times.first().copied(), self.times.last().copied()) else {
            return frame.empty(out);
        };
        if self.layers.is_empty() {
            return frame.empty(out);
        }
        let spans = i32::try_from(self.times.len() - 1).unwrap_or(i32::MAX);
        let usual = if spans > 0 { (last - from) / spans } else { chrono::TimeDelta::hours(1) };
        let until = self.until.filter(|until| *until > last);
        let ends = (from, until.or(last.checked_add_signed(usual)).unwrap_or(last));
        let total = |i: usize| self.layers.iter().map(|(_, values)| values[i]).sum::<f64>();
        let most = (0..self.times.len()).map(total).fold(0.0, f64::max);
        // Shares that add up to 1 but for rounding end at 1.
        let top = if (most - 1.0).abs() < 1e-9 { 1.0 } else { most };
        let (range, ticks, step) = y_scale(None, [0.0, top].into_iter());

        frame.open(out);
        out.push_str("<div class=\"legend\">");
        for (i, (name, _)) in self.layers.iter().enumerate() {
            push!(
                out,
                "<button type=\"button\" aria-pressed=\"true\" disabled><svg viewBox=\"0 0 20 12\" aria-hidden=\"true\">"
            );
            push!(
                out,
                "<rect x=\"4\" width=\"12\" height=\"12\" rx=\"2.5\" fill=\"{}\"/></svg>{}</button>",
                colour(i),
                escape(name)
            );
        }
        out.push_str("</div>\n<div class=\"row\">");
        y_axis(&ticks, step, range, self.format, out);
        frame.plot("area", "", &self.describe(ends), out);
        grid(&ticks, range, out);
        let x = |i: usize| self.times.get(i).map_or(SIDE, |at| fraction(*at, ends) * SIDE);
        let mut floor = vec![0.0; self.times.len()];
        for (layer, (_, values)) in self.layers.iter().enumerate() {
            let mut path = String::new();
            let shown: Vec<usize> = (0..values.len()).collect();
            for run in shown.chunk_by(|a, b| values[*a] > 0.0 && values[*b] > 0.0).filter(|run| values[run[0]] > 0.0) {
                let mut command = 'M';
                let mut corner = |i: usize, value: f64| {
                    push!(path, "{command}{:.2} {:.2}", x(i), y_of(value, range.0, range.1));
                    command = 'L';
                };
                for &i in run {
                    corner(i, floor[i] + values[i]);
                    corner(i + 1, floor[i] + values[i]);
                }
                for &i in run.iter().rev() {
                    corner(i + 1, floor[i]);
                    corner(i, floor[i]);
                }
                path.push('Z');
            }
            push!(out, "<path class=\"layer\" data-series=\"{layer}\" fill=\"{}\" d=\"{path}\"/>", colour(layer));
            floor.iter_mut().zip(values).for_each(|(floor, value)| *floor += value);
        }
        out.push_str("</svg></div>");
        x_axis(ends, out);
        out.push_str("</div>\n");
        frame.close(&self.data(ends), &self.headers(), &self.rows(), out);
    }

    fn describe(&self, (from, until): Ends) -> String {
        let mut text = format!("Stacked areas over time, from {} to {}. At the end:", stamp(from), stamp(until));
        for (name, values) in &self.layers {
            push!(text, " {name} {}.", self.format.text(values.last().copied().unwrap_or(0.0)));
        }
        text
    }

    fn data(&self, (from, until): Ends) -> serde_json::Value {
        let times: Vec<i64> = self.times.iter().map(|at| millis(*at)).collect();
        let layer = |(name, values): &(String, Vec<f64>)| json!({"n": name, "t": times, "v": values});
        json!({
            "x": [millis(from), millis(until)],
            "f": self.format.code(),
            "hold": true,
            "s": self.layers.iter().map(layer).collect::<Vec<_>>(),
        })
    }

    fn headers(&self) -> Vec<String> {
        std::iter::once("from".to_owned()).chain(self.layers.iter().map(|(name, _)| name.clone())).collect()
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let cells = |i: usize| self.layers.iter().map(move |(_, values)| self.format.text(values[i]));
        self.times.iter().enumerate().map(|(i, at)| std::iter::once(stamp(*at)).chain(cells(i)).collect()).collect()
    }
}
