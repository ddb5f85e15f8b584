//! Reports: safe, self-contained, and true to their data.

use chrono::TimeDelta;
use mlops_core::Timestamp;
use mlops_monitor::report::{
    Figure, Format, Heatmap, LineChart, Marker, MarkerKind, Point, Report, Series, StackedArea,
};
use proptest::prelude::*;
use serde_json::Value;

fn day(n: i64) -> Timestamp {
    "1997-01-06T00:00:00Z".parse::<Timestamp>().unwrap() + TimeDelta::days(n)
}

/// The data of each chart, as the page's script reads it.
fn data(html: &str) -> Vec<Value> {
    let parts = html.split("<script type=\"application/json\">").skip(1);
    parts.map(|part| serde_json::from_str(part.split("</script>").next().unwrap()).unwrap()).collect()
}

/// Every element that is opened is closed, in order; void ones apart.
fn assert_well_formed(html: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        let end = rest.find('>').expect("a tag ends");
        let tag = &rest[..end];
        rest = &rest[end + 1..];
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "near {:?}", rest.chars().take(80).collect::<String>());
        } else if !(tag.ends_with('/') || tag.starts_with('!') || name == "meta") {
            open.push(name);
            if name == "script" || name == "style" {
                rest = &rest[rest.find(&format!("</{name}>")).expect("is closed")..];
            }
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

fn everything(text: &str, values: &[f64]) -> Report {
    let points = values.iter().enumerate().map(|(i, v)| (day(i as i64), *v, v - 1.0, v + 1.0));
    let times = || (0..values.len()).map(|i| day(i as i64));
    let marker = |kind, i| Marker::new(day(i), kind, text);
    let kinds = [MarkerKind::Alert, MarkerKind::Retrain, MarkerKind::Promotion, MarkerKind::Rollback, MarkerKind::Note];
    Report::new(text)
        .subtitle(text)
        .section(text)
        .paragraph(text)
        .figures([Figure::new(text, text).note(text)])
        .line_chart(
            LineChart::new(text)
                .caption(text)
                .series(Series::new(text, points))
                .series(Series::new(text, values.iter().map(|v| (day(1), *v))).baseline())
                .markers(kinds.into_iter().zip(0..).map(|(kind, i)| marker(kind, i)))
                .threshold(values.first().copied().unwrap_or(0.0), text),
        )
        .heatmap(
            Heatmap::new(text, times())
                .caption(text)
                .row(text, values.to_vec())
                .row(text, [])
                .alert_at(values.last().copied().unwrap_or(0.5), text),
        )
        .section(text)
        .stacked_area(StackedArea::new(text, times()).caption(text).layer(text, values.to_vec()).layer(text, [0.5]))
        .table([text, text], [vec![text], vec![text, text, text]])
}

#[test]
fn text_is_escaped_wherever_it_stands() {
    let attack = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\"&\u{2028}]]>-->";
    let html = everything(attack, &[0.1, 0.2, 0.3]).render();
    let plain = everything("plain", &[0.1, 0.2, 0.3]).render();
    for part in ["<script", "</script", "<img", "<style"] {
        assert_eq!(html.matches(part).count(), plain.matches(part).count(), "{part}");
    }
    let outside: String = html.split("<script").map(|part| part.split("</script>").last().unwrap()).collect();
    assert!(!outside.contains("onerror='"), "a quote ends no attribute");
    assert!(html.contains("&lt;/script&gt;&lt;script&gt;alert(1)"));
    assert_well_formed(&html);
    assert_eq!(data(&html)[0]["s"][0]["n"], attack, "and the script reads what was meant");
}

#[test]
fn a_report_needs_nothing_from_outside() {
    let html = everything("plain", &[0.1, 0.2]).render();
    for part in ["http:", "https:", "src=", "@import", "href="] {
        assert!(!html.contains(part), "{part}");
    }
    assert!(html.contains("default-src 'none'"));
    assert_eq!(html, everything("plain", &[0.1, 0.2]).render());
}

#[test]
fn the_numbers_of_a_line_are_those_of_the_data() {
    let values = [0.712_345_678_901_234_5, f64::NAN, 0.8, 0.65];
    let series =
        Series::new("accuracy", values.iter().enumerate().map(|(i, v)| (day(i as i64), *v, v - 0.05, v + 0.05)));
    let chart = LineChart::new("Accuracy").format(Format::Percent(1)).y_range(0.6, 0.8).series(series);
    let html = Report::new("r").line_chart(chart).render();
    let data = &data(&html)[0];
    let got: Vec<Option<f64>> = data["s"][0]["v"].as_array().unwrap().iter().map(Value::as_f64).collect();
    assert_eq!(got, [Some(values[0]), None, Some(0.8), Some(0.65)]);
    assert_eq!(data["s"][0]["t"][3].as_i64(), Some(day(3).timestamp_millis()));
    assert_eq!(data["s"][0]["b"][2][1].as_f64(), Some(0.8 + 0.05));

    // A dot before the gap, a line after it; the axis from 0.6 to 0.8 is 1000 high, three days are 1000 wide.
    let path = html.split("class=\"line\"").nth(1).unwrap().split("d=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(path, "M0.00 438.27h0M666.67 0.00L1000.00 750.00");
    assert!(html.contains("<td class=\"n\">71.2% [66.2%, 76.2%]</td>") && html.contains("<td class=\"n\">–</td>"));
    for tick in ["60%", "70%", "80%"] {
        assert!(html.contains(&format!(">{tick}</span>")), "{tick}");
    }
}

#[test]
fn a_long_series_is_thinned_and_says_so() {
    let points =
        (0..50_000_i64).map(|i| (day(0) + TimeDelta::minutes(i), if i == 31_234 { 9.5 } else { (i % 7) as f64 }));
    let html = Report::new("r").line_chart(LineChart::new("Long").series(Series::new("x", points))).render();
    let data = &data(&html)[0];
    let values: Vec<f64> = data["s"][0]["v"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    assert!(values.len() <= 1_600 && values.contains(&9.5), "{} points", values.len());
    assert!(html.contains(&format!("x: {} of 50000 points drawn (M4).", values.len())));
    assert!(html.len() < 300_000, "{} bytes", html.len());
    assert_well_formed(&html);
}

#[test]
fn heat_maps_show_each_cell_and_leave_gaps() {
    let heat = Heatmap::new("Drift", (0..3).map(day))
        .row("price", [0.0, 0.19, 0.2])
        .row("demand", [f64::NAN, 0.9, f64::INFINITY])
        .row("short", [0.1])
        .alert_at(0.2, "drift")
        .scale(0.0, 0.5);
    let html = Report::new("r").heatmap(heat).render();
    assert_eq!(html.matches("<rect class=\"cell cold\"").count(), 3);
    assert_eq!(html.matches("<rect class=\"cell hot\"").count(), 2);
    assert!(html.contains("Highest: demand on 1997-01-07, 0.9. Cells at 0.2 or above: 2."));
    let rows = &data(&html)[0]["rows"];
    assert_eq!((rows[0][1][1].as_f64(), rows[1][1][0].is_null(), rows[2][1][2].is_null()), (Some(0.19), true, true));
    assert_well_formed(&html);
}

#[test]
fn traffic_is_stacked_and_holds_until_the_next_change() {
    let area =
        StackedArea::new("Traffic", [day(0), day(5)]).until(day(10)).layer("v1", [1.0, 0.75]).layer("v2", [0.0, 0.25]);
    let html = Report::new("r").stacked_area(area).render();
    let paths: Vec<&str> = html
        .split("class=\"layer\"")
        .skip(1)
        .map(|p| p.split("d=\"").nth(1).unwrap().split('"').next().unwrap())
        .collect();
    assert_eq!(paths[1], "M500.00 0.00L1000.00 0.00L1000.00 250.00L500.00 250.00Z");
    assert!(paths[0].starts_with("M0.00 0.00L500.00 0.00L500.00 250.00L1000.00 250.00"));
}

#[test]
fn charts_have_names_descriptions_and_their_numbers_as_a_table() {
    let html = everything("plain", &[0.1, 0.2, 0.3]).render();
    assert_eq!(html.matches("role=\"img\"").count(), 3);
    assert_eq!(html.matches("<desc ").count(), 3);
    assert_eq!(html.matches("<details>").count(), 3);
    let mut ids: Vec<&str> = html.split(" id=\"").skip(1).filter_map(|part| part.split('"').next()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "ids are unique");
    for named in html.split("aria-labelledby=\"").skip(1).filter_map(|part| part.split('"').next()) {
        assert!(named.split(' ').all(|id| ids.contains(&id)), "{named}");
    }
}

#[test]
fn tables_mark_verdicts_and_align_numbers_but_not_dates() {
    let html = Report::new("r")
        .table(["v", "when", "n"], [["pass", "1997-01-06", "4,368"], ["fail", "1997-02-03", "–"]])
        .render();
    assert!(
        html.contains("<span class=\"badge pass\">pass</span>")
            && html.contains("<span class=\"badge fail\">fail</span>")
    );
    assert!(html.contains("<td class=\"n\">4,368</td>") && html.contains("<td class=\"s\">1997-01-06</td>"));
}

#[test]
fn nothing_to_show_is_said() {
    let nothing: [Point; 0] = [];
    let html = Report::new("r")
        .line_chart(LineChart::new("a").series(Series::new("x", nothing)))
        .heatmap(Heatmap::new("b", []).row("x", []))
        .stacked_area(StackedArea::new("c", []))
        .table::<&str, [&str; 0], &str>([], [])
        .render();
    assert_eq!(html.matches("No data.").count(), 3);
    assert_well_formed(&html);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_values_and_texts_give_a_well_formed_page(text in any::<String>(), values in prop::collection::vec(any::<f64>(), 0..12)) {
        let html = everything(&text, &values).render();
        assert_well_formed(&html);
        for chart in data(&html) {
            prop_assert!(chart.is_object());
        }
        prop_assert!(!html.contains("NaN") || text.contains("NaN"));
        for path in html.split(" d=\"M").skip(1).filter_map(|part| part.split('"').next()) {
            prop_assert!(!path.contains("inf"), "{}", path);
        }
    }
}
