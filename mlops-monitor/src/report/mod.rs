//! Reports: one HTML file with charts, that needs nothing else.
//!
//! ```
//! use mlops_core::Timestamp;
//! use mlops_monitor::report::{Format, LineChart, Marker, MarkerKind, Report, Series};
//!
//! let week = |n: i64| -> Timestamp { "1997-01-06T00:00:00Z".parse::<Timestamp>().unwrap() + chrono::TimeDelta::weeks(n) };
//! let html = Report::new("Elec2")
//!     .subtitle("Electricity prices in New South Wales")
//!     .section("Quality")
//!     .paragraph("Accuracy by week, with 95 % intervals.")
//!     .line_chart(
//!         LineChart::new("Accuracy")
//!             .format(Format::Percent(1))
//!             .series(Series::new("retrained", [(week(0), 0.81, 0.78, 0.84), (week(1), 0.79, 0.76, 0.82)]))
//!             .series(Series::new("always up", [(week(0), 0.42), (week(1), 0.43)]).baseline())
//!             .marker(Marker::new(week(1), MarkerKind::Promotion, "v2")),
//!     )
//!     .table(["version", "verdict"], [["1", "pass"], ["2", "fail"]])
//!     .render();
//! assert!(html.starts_with("<!doctype html>") && html.contains("always up"));
//! ```
//!
//! # Rules
//! - **Self-contained.** No request leaves the page; a content security policy in it forbids them.
//! - **Any text is safe.** Everything a caller gives is escaped, wherever it ends up.
//! - **Readable without scripts.** Charts are SVG in the file; scripts add tooltips and switch series off and on.
//! - **Accessible.** Every chart has a name, a description and its numbers as a table; plots take the arrow keys; no
//!   meaning rests on colour alone. Light or dark follows the reader's setting.
//! - **Gaps stay gaps.** A value that is not finite breaks a line and leaves a cell empty.
//! - **Long series are thinned** for drawing: of each of 400 equal spans of time the first, lowest, highest and last point
//!   stay (M4, which changes no pixel at that width: Jugel et al. 2014, doi:10.14778/2732951.2732953). The caption says so.
//! - Same report, same bytes.

/// `write!` into a `String`, which cannot fail.
macro_rules! push {
    ($out:expr, $($args:tt)*) => { { let _ = write!($out, $($args)*); } };
}

mod chart;
mod scale;

use std::fmt::Write as _;

use mlops_core::Timestamp;

pub use scale::Format;

/// A report under construction; [`render`](Report::render) gives the file.
#[derive(Clone, Debug)]
#[must_use = "a report does nothing until `render`"]
pub struct Report {
    title: String,
    subtitle: Option<String>,
    blocks: Vec<Block>,
}

#[derive(Clone, Debug)]
enum Block {
    Section(String),
    Paragraph(String),
    Figures(Vec<Figure>),
    Table { headers: Vec<String>, rows: Vec<Vec<String>> },
    Line(LineChart),
    Heat(Heatmap),
    Area(StackedArea),
}

impl Report {
    /// An empty report.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), subtitle: None, blocks: Vec::new() }
    }

    /// A line under the title.
    pub fn subtitle(mut self, text: impl Into<String>) -> Self {
        self.subtitle = Some(text.into());
        self
    }

    fn block(mut self, block: Block) -> Self {
        self.blocks.push(block);
        self
    }

    /// Starts a section.
    pub fn section(self, title: impl Into<String>) -> Self {
        self.block(Block::Section(title.into()))
    }

    /// Adds a paragraph of plain text.
    pub fn paragraph(self, text: impl Into<String>) -> Self {
        self.block(Block::Paragraph(text.into()))
    }

    /// Adds a row of large numbers.
    pub fn figures(self, figures: impl IntoIterator<Item = Figure>) -> Self {
        self.block(Block::Figures(figures.into_iter().collect()))
    }

    /// Adds a table. Columns of numbers are set to the right; a cell that is exactly a verdict or a severity (`pass`,
    /// `fail`, `inconclusive`, `info`, `warning`, `critical`) becomes a badge. Short rows are filled up.
    pub fn table<H, R, C>(self, headers: impl IntoIterator<Item = H>, rows: impl IntoIterator<Item = R>) -> Self
    where
        H: Into<String>,
        R: IntoIterator<Item = C>,
        C: Into<String>,
    {
        let headers = headers.into_iter().map(Into::into).collect();
        let rows = rows.into_iter().map(|row| row.into_iter().map(Into::into).collect()).collect();
        self.block(Block::Table { headers, rows })
    }

    /// Adds a line chart.
    pub fn line_chart(self, chart: LineChart) -> Self {
        self.block(Block::Line(chart))
    }

    /// Adds a heat map.
    pub fn heatmap(self, heatmap: Heatmap) -> Self {
        self.block(Block::Heat(heatmap))
    }

    /// Adds a stacked area chart.
    pub fn stacked_area(self, chart: StackedArea) -> Self {
        self.block(Block::Area(chart))
    }

    /// The report as one HTML file, UTF-8.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(64 * 1024);
        let title = escape(&self.title);
        out.push_str("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
        out.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
        out.push_str("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; ");
        out.push_str("style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n");
        out.push_str("<meta name=\"color-scheme\" content=\"light dark\">\n");
        push!(out, "<title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n", include_str!("style.css"));
        push!(out, "<header><h1>{title}</h1>");
        if let Some(subtitle) = &self.subtitle {
            push!(out, "<p class=\"subtitle\">{}</p>", escape(subtitle));
        }
        out.push_str("</header>\n<main>\n");
        let mut charts = 0;
        let mut in_section = false;
        for block in &self.blocks {
            if let Block::Section(title) = block {
                out.push_str(if in_section { "</section>\n<section>\n" } else { "<section>\n" });
                push!(out, "<h2>{}</h2>\n", escape(title));
                in_section = true;
                continue;
            }
            charts += 1;
            block.render(charts, &mut out);
        }
        out.push_str(if in_section { "</section>\n" } else { "" });
        push!(out, "</main>\n<div class=\"tip\" hidden></div>\n<script>\n{}</script>\n", include_str!("script.js"));
        out.push_str("</body>\n</html>\n");
        out
    }
}

impl Block {
    fn render(&self, number: usize, out: &mut String) {
        match self {
            Self::Section(_) => {}
            Self::Paragraph(text) => push!(out, "<p>{}</p>\n", escape(text)),
            Self::Figures(figures) => {
                out.push_str("<dl class=\"figures\">");
                for Figure { label, value, note } in figures {
                    push!(out, "<div><dt>{}</dt><dd>{}</dd>", escape(label), escape(value));
                    if let Some(note) = note {
                        push!(out, "<dd class=\"note\">{}</dd>", escape(note));
                    }
                    out.push_str("</div>");
                }
                out.push_str("</dl>\n");
            }
            Self::Table { headers, rows } => {
                out.push_str("<div class=\"card\">");
                table(headers, rows, "Table", out);
                out.push_str("</div>\n");
            }
            Self::Line(chart) => chart.render(number, out),
            Self::Heat(chart) => chart.render(number, out),
            Self::Area(chart) => chart.render(number, out),
        }
    }
}

/// A large number with its name.
#[derive(Clone, Debug)]
pub struct Figure {
    label: String,
    value: String,
    note: Option<String>,
}

impl Figure {
    /// `value`, as it shall appear, under `label`.
    pub fn new(label: impl Into<String>, value: impl Into<String>) -> Self {
        Self { label: label.into(), value: value.into(), note: None }
    }

    /// A line in small print below it.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.note = Some(text.into());
        self
    }
}

/// One point of a [`Series`]; from `(at, value)` or `(at, value, low, high)`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Point {
    /// When.
    pub at: Timestamp,
    /// The value; not finite for a gap.
    pub value: f64,
    /// Lower and upper end of an interval around it.
    pub band: Option<(f64, f64)>,
}

impl From<(Timestamp, f64)> for Point {
    fn from((at, value): (Timestamp, f64)) -> Self {
        Self { at, value, band: None }
    }
}

impl From<(Timestamp, f64, f64, f64)> for Point {
    fn from((at, value, low, high): (Timestamp, f64, f64, f64)) -> Self {
        Self { at, value, band: Some((low, high)) }
    }
}

/// A named line.
#[derive(Clone, Debug)]
pub struct Series {
    name: String,
    points: Vec<Point>,
    baseline: bool,
}

impl Series {
    /// A line through these points, in the order of time.
    pub fn new<P: Into<Point>>(name: impl Into<String>, points: impl IntoIterator<Item = P>) -> Self {
        let mut points: Vec<Point> = points.into_iter().map(Into::into).collect();
        points.sort_by_key(|point| point.at);
        Self { name: name.into(), points, baseline: false }
    }

    /// Draws the line in grey and dashed: something to compare with.
    #[must_use]
    pub fn baseline(mut self) -> Self {
        self.baseline = true;
        self
    }
}

/// What a [`Marker`] stands for; each has its own lane above the plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MarkerKind {
    /// An alert was raised.
    Alert,
    /// A retraining was started.
    Retrain,
    /// A version was promoted; also drawn through the plot.
    Promotion,
    /// A version was rolled back or stopped; also drawn through the plot.
    Rollback,
    /// Anything else.
    Note,
}

/// Something that happened, marked on the time axis.
#[derive(Clone, Debug)]
pub struct Marker {
    at: Timestamp,
    kind: MarkerKind,
    label: String,
}

impl Marker {
    /// A marker with a short label, such as a version.
    pub fn new(at: Timestamp, kind: MarkerKind, label: impl Into<String>) -> Self {
        Self { at, kind, label: label.into() }
    }
}

/// Lines over time, with optional bands and markers.
#[derive(Clone, Debug)]
#[must_use = "a chart does nothing until it is added to a report"]
pub struct LineChart {
    title: String,
    caption: Option<String>,
    series: Vec<Series>,
    markers: Vec<Marker>,
    y_range: Option<(f64, f64)>,
    threshold: Option<(f64, String)>,
    format: Format,
}

impl LineChart {
    /// A chart without lines yet.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            caption: None,
            series: Vec::new(),
            markers: Vec::new(),
            y_range: None,
            threshold: None,
            format: Format::Auto,
        }
    }

    /// A sentence under the title.
    pub fn caption(mut self, text: impl Into<String>) -> Self {
        self.caption = Some(text.into());
        self
    }

    /// Adds a line.
    pub fn series(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    /// Adds a marker.
    pub fn marker(mut self, marker: Marker) -> Self {
        self.markers.push(marker);
        self
    }

    /// Adds markers.
    pub fn markers(mut self, markers: impl IntoIterator<Item = Marker>) -> Self {
        self.markers.extend(markers);
        self
    }

    /// Fixes the ends of the vertical axis (default: round numbers around the data). Ignored unless finite and
    /// `low < high`.
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        self.y_range = (low.is_finite() && high.is_finite() && low < high).then_some((low, high));
        self
    }

    /// Draws a level line, such as a threshold. Ignored unless finite.
    pub fn threshold(mut self, value: f64, label: impl Into<String>) -> Self {
        self.threshold = value.is_finite().then(|| (value, label.into()));
        self
    }

    /// How values are written (default [`Format::Auto`]).
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }
}

/// One value for each pair of a row and a time, such as drift of a feature in a week.
#[derive(Clone, Debug)]
#[must_use = "a chart does nothing until it is added to a report"]
pub struct Heatmap {
    title: String,
    caption: Option<String>,
    times: Vec<Timestamp>,
    rows: Vec<(String, Vec<f64>)>,
    scale: Option<(f64, f64)>,
    alert_at: Option<(f64, String)>,
    format: Format,
}

impl Heatmap {
    /// A heat map with one column for each of `times`, in ascending order.
    pub fn new(title: impl Into<String>, times: impl IntoIterator<Item = Timestamp>) -> Self {
        Self {
            title: title.into(),
            caption: None,
            times: times.into_iter().collect(),
            rows: Vec::new(),
            scale: None,
            alert_at: None,
            format: Format::Auto,
        }
    }

    /// A sentence under the title.
    pub fn caption(mut self, text: impl Into<String>) -> Self {
        self.caption = Some(text.into());
        self
    }

    /// Adds a row with a value for each time; missing ones at the end are empty cells.
    pub fn row(mut self, name: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().take(self.times.len()).collect();
        values.resize(self.times.len(), f64::NAN);
        self.rows.push((name.into(), values));
        self
    }

    /// Values at the palest and the darkest colour (default: 0, or the least below it, to the largest). Ignored unless
    /// finite and `low < high`.
    pub fn scale(mut self, low: f64, high: f64) -> Self {
        self.scale = (low.is_finite() && high.is_finite() && low < high).then_some((low, high));
        self
    }

    /// Value from which a cell is drawn in the colour of alerts, with a name for the legend. Ignored unless finite.
    pub fn alert_at(mut self, value: f64, label: impl Into<String>) -> Self {
        self.alert_at = value.is_finite().then(|| (value, label.into()));
        self
    }

    /// How values are written (default [`Format::Auto`]).
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }
}

/// Shares that add up, over time: which version had how much of the traffic.
#[derive(Clone, Debug)]
#[must_use = "a chart does nothing until it is added to a report"]
pub struct StackedArea {
    title: String,
    caption: Option<String>,
    times: Vec<Timestamp>,
    until: Option<Timestamp>,
    layers: Vec<(String, Vec<f64>)>,
    format: Format,
}

impl StackedArea {
    /// A chart whose layers have one value for each of `times` (ascending), which holds until the next.
    pub fn new(title: impl Into<String>, times: impl IntoIterator<Item = Timestamp>) -> Self {
        Self {
            title: title.into(),
            caption: None,
            times: times.into_iter().collect(),
            until: None,
            layers: Vec::new(),
            format: Format::Percent(0),
        }
    }

    /// A sentence under the title.
    pub fn caption(mut self, text: impl Into<String>) -> Self {
        self.caption = Some(text.into());
        self
    }

    /// Until when the last values hold (default: as long as the mean span before).
    pub fn until(mut self, at: Timestamp) -> Self {
        self.until = Some(at);
        self
    }

    /// Adds a layer on top. Missing, negative and non-finite values count as 0.
    pub fn layer(mut self, name: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> =
            values.into_iter().take(self.times.len()).map(|v| if v.is_finite() && v > 0.0 { v } else { 0.0 }).collect();
        values.resize(self.times.len(), 0.0);
        self.layers.push((name.into(), values));
        self
    }

    /// How values are written (default whole per cents).
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }
}

/// Text for HTML, in an element or a quoted attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // No HTML document may contain these, not even by number.
            '\0'..='\x08' | '\x0b' | '\x0e'..='\x1f' | '\x7f' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// JSON that can stand inside a `script` element.
fn script_json(value: &serde_json::Value) -> String {
    let escapes =
        [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")];
    escapes.iter().fold(value.to_string(), |json, (from, to)| json.replace(*from, to))
}

fn table(headers: &[String], rows: &[Vec<String>], label: &str, out: &mut String) {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0).max(headers.len());
    let numeric: Vec<bool> = (0..width)
        .map(|i| {
            let mut cells = rows.iter().filter_map(|row| row.get(i)).filter(|cell| !is_blank(cell)).peekable();
            cells.peek().is_some() && cells.all(|cell| is_number(cell))
        })
        .collect();
    push!(out, "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{}\"><table>", escape(label));
    if !headers.is_empty() {
        out.push_str("<thead><tr>");
        for (i, numeric) in numeric.iter().enumerate() {
            let header = headers.get(i).map_or("", String::as_str);
            let class = if *numeric { " class=\"n\"" } else { "" };
            push!(out, "<th scope=\"col\"{class}>{}</th>", escape(header));
        }
        out.push_str("</tr></thead>");
    }
    out.push_str("<tbody>");
    for row in rows {
        out.push_str("<tr>");
        for (i, numeric) in numeric.iter().enumerate() {
            let cell = row.get(i).map_or("", String::as_str);
            match cell {
                "pass" | "fail" | "inconclusive" | "info" | "warning" | "critical" => {
                    push!(out, "<td><span class=\"badge {cell}\">{cell}</span></td>");
                }
                _ => {
                    let class = match cell.chars().count() {
                        _ if *numeric => " class=\"n\"",
                        0..=20 => " class=\"s\"",
                        40.. => " class=\"t\"",
                        _ => "",
                    };
                    push!(out, "<td{class}>{}</td>", escape(cell));
                }
            }
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
}

fn is_blank(cell: &str) -> bool {
    matches!(cell.trim(), "" | "-" | "–" | "—")
}

/// Whether a cell reads as a number, with a unit of one sign or an interval at most; dates do not.
fn is_number(cell: &str) -> bool {
    let digits = cell.trim_start_matches(['+', '-', '−', '±', '≥', '≤', '<', '>', '~', ' ']);
    let is_date = digits.len() >= 8 && digits.as_bytes().get(4) == Some(&b'-');
    digits.starts_with(|c: char| c.is_ascii_digit())
        && !is_date
        && cell.chars().all(|c| c.is_ascii_digit() || " .,%+-−±≥≤<>~[]()–/".contains(c))
}
