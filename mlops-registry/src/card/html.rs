use std::fmt::Write as _;

use super::ModelCard;
use super::document::{Block, UNSTATED, is_hidden};

/// One column of text; tables scroll by themselves where they do not fit, and long words break.
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:0 auto;padding:1rem;overflow-wrap:anywhere}\
h1{font-size:1.6rem;line-height:1.2}h2{font-size:1.2rem;margin-top:2rem;border-bottom:1px solid #8886}\
h3{font-size:1rem;margin-bottom:.2rem}\
dl{display:grid;grid-template-columns:minmax(6.5rem,auto) 1fr;gap:.3rem .8rem}dt{opacity:.75}dd{margin:0}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}\
th,td{text-align:left;vertical-align:top;padding:.3rem .7rem .3rem 0;border-bottom:1px solid #8884;min-width:3.5rem;overflow-wrap:normal}\
td.long{min-width:12rem;overflow-wrap:anywhere}\
.none{opacity:.65;font-style:italic}";

impl ModelCard {
    /// The card as one HTML page: no script, nothing loaded from elsewhere, readable on a telephone, all text escaped.
    #[must_use]
    pub fn to_html(&self) -> String {
        let document = self.document();
        let title = escaped(&document.title);
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        );
        for paragraph in document.lead.iter().flat_map(|text| text.split("\n\n")).filter(|p| !p.trim().is_empty()) {
            let _ = writeln!(out, "<p>{}</p>", escaped(paragraph));
        }
        for (title, blocks) in document.sections {
            let _ = writeln!(out, "<section>\n<h2>{title}</h2>");
            blocks.into_iter().for_each(|block| write(&mut out, block));
            out.push_str("</section>\n");
        }
        out + "</body>\n</html>\n"
    }
}

fn write(out: &mut String, block: Block) {
    match block {
        Block::Text(text) => {
            let _ = writeln!(out, "<p{}>{}</p>", none(&text), escaped(&text));
        }
        Block::Facts(facts) => {
            out.push_str("<dl>\n");
            for (name, value) in facts {
                let _ = writeln!(out, "<dt>{name}</dt><dd{}>{}</dd>", none(&value), escaped(&value));
            }
            out.push_str("</dl>\n");
        }
        Block::List(title, items) => {
            let _ = writeln!(out, "<h3>{title}</h3>");
            if items.is_empty() {
                let _ = writeln!(out, "<p class=\"none\">{UNSTATED}</p>");
                return;
            }
            out.push_str("<ul>\n");
            for item in items {
                let _ = writeln!(out, "<li>{}</li>", escaped(&item));
            }
            out.push_str("</ul>\n");
        }
        Block::Table(head, rows) => {
            out.push_str("<div class=\"scroll\"><table>\n<tr>");
            head.iter().for_each(|cell| {
                let _ = write!(out, "<th>{cell}</th>");
            });
            out.push_str("</tr>\n");
            for row in rows {
                out.push_str("<tr>");
                for cell in &row {
                    let class = if cell.chars().count() > 24 { " class=\"long\"" } else { none(cell) };
                    let _ = write!(out, "<td{class}>{}</td>", escaped(cell));
                }
                out.push_str("</tr>\n");
            }
            out.push_str("</table></div>\n");
        }
    }
}

fn none(text: &str) -> &'static str {
    if text == UNSTATED { " class=\"none\"" } else { "" }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if is_hidden(c) => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
