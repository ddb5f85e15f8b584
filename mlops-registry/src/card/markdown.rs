use std::fmt::Write as _;

use super::ModelCard;
use super::document::{Block, UNSTATED, is_hidden};

impl ModelCard {
    /// The card as Markdown, with the front matter that Hugging Face reads: licence, tags, data, and the evaluations as a
    /// `model-index`. Numbers that are not finite are in the table alone.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let document = self.document();
        let mut out = self.front_matter();
        let _ = writeln!(out, "# {}", plain(&document.title));
        for paragraph in document.lead.iter().flat_map(|text| text.split("\n\n")).filter(|p| !p.trim().is_empty()) {
            let _ = write!(out, "\n{}\n", plain(paragraph));
        }
        for (title, blocks) in document.sections {
            let _ = write!(out, "\n## {title}\n");
            for block in blocks {
                out.push('\n');
                match block {
                    Block::Text(text) => out.push_str(&format!("{}\n", plain(&text))),
                    Block::Facts(facts) => {
                        for (name, value) in facts {
                            let _ = writeln!(out, "- **{name}:** {}", plain(&value));
                        }
                    }
                    Block::List(title, items) if items.is_empty() => {
                        let _ = writeln!(out, "**{title}:** {UNSTATED}");
                    }
                    Block::List(title, items) => {
                        let _ = write!(out, "**{title}:**\n\n");
                        for item in items {
                            let _ = writeln!(out, "- {}", plain(&item));
                        }
                    }
                    Block::Table(head, rows) => {
                        let _ = writeln!(out, "| {} |", head.join(" | "));
                        let _ = writeln!(out, "|{}", " --- |".repeat(head.len()));
                        for row in rows {
                            let cells: Vec<String> = row.iter().map(|cell| plain(cell)).collect();
                            let _ = writeln!(out, "| {} |", cells.join(" | "));
                        }
                    }
                }
            }
        }
        out
    }

    fn front_matter(&self) -> String {
        let mut out = "---\n".to_owned();
        if let Some(license) = &self.license {
            if license.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+".contains(&b)) {
                let _ = writeln!(out, "license: {}", quoted(&license.to_lowercase()));
            } else {
                let _ = writeln!(out, "license: other\nlicense_name: {}", quoted(license));
            }
        }
        if let Some(task) = &self.task {
            let _ = writeln!(out, "pipeline_tag: {}", quoted(task));
        }
        let tag =
            |(key, value): (&String, &String)| if value.is_empty() { key.clone() } else { format!("{key}:{value}") };
        list(&mut out, "tags", self.tags.iter().map(tag).collect());
        let mut names: Vec<String> = self.datasets.iter().map(|input| input.name.clone()).collect();
        names.dedup();
        list(&mut out, "datasets", names);
        let measured: Vec<_> = self.evaluations.iter().filter(|e| e.measurement.value.is_finite()).collect();
        if !measured.is_empty() {
            let _ = writeln!(out, "model-index:\n- name: {}\n  results:", quoted(&self.title()));
            let task = quoted(self.task.as_deref().unwrap_or("other"));
            for evaluation in measured {
                let m = &evaluation.measurement;
                let dataset = quoted(evaluation.dataset.as_deref().unwrap_or(UNSTATED));
                let name = match &evaluation.slice {
                    Some(slice) => format!("{} ({slice})", m.name),
                    None => m.name.clone(),
                };
                let _ = write!(
                    out,
                    "  - task:\n      type: {task}\n    dataset:\n      name: {dataset}\n      type: {dataset}\n    metrics:\n    \
                     - type: {}\n      name: {}\n      value: {:?}\n",
                    quoted(&m.name),
                    quoted(&name),
                    m.value
                );
            }
        }
        if out == "---\n" { String::new() } else { out + "---\n\n" }
    }
}

fn list(out: &mut String, key: &str, items: Vec<String>) {
    if !items.is_empty() {
        let _ = writeln!(out, "{key}:");
        items.iter().for_each(|item| out.push_str(&format!("- {}\n", quoted(item))));
    }
}

/// A YAML scalar in double quotes.
fn quoted(text: &str) -> String {
    let mut out = "\"".to_owned();
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // Control characters, and those that YAML takes for the end of a line or of the text.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out + "\""
}

/// Text on one line in which nothing is markup, neither Markdown's nor HTML's.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || is_hidden(c)).filter(|w| !w.is_empty()).collect();
    for c in words.join(" ").chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\\' | '`' | '*' | '[' | ']' | '#' | '|' | '~' | '!' | '$' => out.extend(['\\', c]),
            // Within a word it is no markup: `tabular_data` stays readable.
            '_' if !out.ends_with(char::is_alphanumeric) => out.push_str("\\_"),
            c => out.push(c),
        }
    }
    // At the start of a line a few more would be: a list, a heading's underline, a number.
    if out.starts_with(['-', '+', '=']) {
        out.insert(0, '\\');
    }
    let digits = out.len() - out.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits > 0 && out[digits..].starts_with(['.', ')']) && out[digits + 1..].starts_with([' ']) {
        out.insert(digits, '\\');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_text() {
        assert_eq!(
            plain("a <b>&\n| [x](y) *z* _q_ snake_case"),
            "a &lt;b&gt;&amp; \\| \\[x\\](y) \\*z\\* \\_q_ snake_case"
        );
        assert_eq!(
            [plain("- a"), plain("1. a"), plain("1.5 a"), plain("== b")],
            ["\\- a", "1\\. a", "1.5 a", "\\== b"]
        );
        assert_eq!(quoted("a\"\\\n\u{2028}ä: -"), r#""a\"\\\u000a\u2028ä: -""#);
    }
}
