//! From text to clauses. Whatever the text, the answer is a filter or an error that says where.

use mlops_core::Error as CoreError;

use super::{Attribute, Clause, Comparison, Entity, Field, Filter, Kind, Order, Test};
use crate::Result;

/// Longest filter or order text, in bytes.
const LONGEST: usize = 64_000;
/// Most clauses in a filter, and values in a list: each is a part of one SQL statement.
const MOST: (usize, usize) = (64, 1_000);
/// The tag of MLflow's that a model has as `'false'` by not having it.
const PROMPT: &str = "mlflow.prompt.is_prompt";
/// Longest text that a value is compared with, in bytes: what a pattern may become stays within SQLite's 50,000.
const VALUE: usize = 16_000;

#[derive(Clone, Debug, PartialEq)]
enum Token<'a> {
    /// A bare word, with what of a field's key is quoted in it taken apart by [`field`].
    Word(&'a str),
    /// A word that is or holds quoted text: prefix, key.
    Field(Option<&'a str>, String),
    Number(f64),
    Text(String),
    Symbol(&'a str),
    End,
}

/// A token with its place, in bytes.
struct At<'a> {
    token: Token<'a>,
    start: usize,
    end: usize,
}

struct Parser<'a> {
    what: &'static str,
    text: &'a str,
    at: usize,
}

fn is_bare(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && !"'\"`=!<>(),;".contains(c)
}

/// The text up to the closing quote, a doubled one standing for one, and how far that goes.
fn unquote(rest: &str, quote: char) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            text.push(c);
        } else if chars.peek().is_some_and(|(_, next)| *next == quote) {
            chars.next();
            text.push(c);
        } else {
            return Some((text, at + c.len_utf8()));
        }
    }
    None
}

fn shown(text: &str) -> String {
    let mut start: String = text.chars().take(60).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

impl<'a> Parser<'a> {
    fn new(what: &'static str, text: &'a str) -> Result<Self> {
        if text.len() > LONGEST {
            return Err(CoreError::invalid(what, format!("{} bytes; at most {LONGEST}", text.len())).into());
        }
        if text.contains('\0') {
            return Err(CoreError::invalid(what, "must not contain the character U+0000").into());
        }
        Ok(Self { what, text, at: 0 })
    }

    fn error<T>(&self, at: usize, reason: impl std::fmt::Display) -> Result<T> {
        let place = self.text[..at].chars().count() + 1;
        Err(CoreError::invalid(self.what, format!("{reason} (at character {place})")).into())
    }

    fn raw(&self, at: &At<'_>) -> String {
        if at.token == Token::End { "the end".to_owned() } else { shown(&self.text[at.start..at.end]) }
    }

    fn peek(&self) -> Result<At<'a>> {
        let start = self.text.len() - self.text[self.at..].trim_start().len();
        let rest = &self.text[start..];
        let found = |token, length| Ok(At { token, start, end: start + length });
        let Some(first) = rest.chars().next() else { return found(Token::End, 0) };
        for symbol in ["!=", ">=", "<=", "=", ">", "<", "(", ")", ",", ";"] {
            if rest.starts_with(symbol) {
                return found(Token::Symbol(&rest[..symbol.len()]), symbol.len());
            }
        }
        if let '\'' | '"' | '`' = first {
            let Some((text, length)) = unquote(rest, first) else {
                return self.error(start, format!("the text {} has no end: close it with {first}", shown(rest)));
            };
            // A key may be in double quotes, and so may a value: where it stands decides.
            return found(if first == '`' { Token::Field(None, text) } else { Token::Text(text) }, length);
        }
        if !is_bare(first) {
            return self.error(start, format!("{first:?} is not expected here"));
        }
        let word = rest.split(|c| !is_bare(c)).next().unwrap_or_default();
        let after = &rest[word.len()..];
        if let (Some(prefix), Some(quote @ ('"' | '`'))) = (word.strip_suffix('.'), after.chars().next()) {
            let Some((key, length)) = unquote(after, quote) else {
                return self
                    .error(start + word.len(), format!("the key {} has no end: close it with {quote}", shown(after)));
            };
            return found(Token::Field(Some(prefix), key), word.len() + length);
        }
        match number(word) {
            Some(number) => found(Token::Number(number), word.len()),
            None => found(Token::Word(word), word.len()),
        }
    }

    fn next(&mut self) -> Result<At<'a>> {
        let at = self.peek()?;
        self.at = at.end;
        Ok(at)
    }

    /// Takes the word if it comes next.
    fn word(&mut self, word: &str) -> Result<bool> {
        let at = self.peek()?;
        let found = matches!(at.token, Token::Word(found) if found.eq_ignore_ascii_case(word));
        if found {
            self.at = at.end;
        }
        Ok(found)
    }

    fn field(&mut self, entity: Entity, order: bool) -> Result<Field> {
        let at = self.next()?;
        let (prefix, key) = match at.token {
            Token::Word(word) => match word.split_once('.') {
                Some((prefix, key)) => (Some(prefix), key.to_owned()),
                None => (None, word.to_owned()),
            },
            Token::Field(prefix, key) => (prefix, key),
            Token::Text(key) if self.text[at.start..].starts_with('"') => (None, key),
            _ => {
                let reason = format!(
                    "Invalid clause(s) in filter string: expected a field such as metrics.`a` or {}, found {}",
                    entity.attributes()[0].name,
                    self.raw(&at)
                );
                return self.error(at.start, reason);
            }
        };
        let shown_key = shown(&key);
        if key.is_empty() {
            return self.error(at.start, "Invalid identifier: the key is empty");
        }
        let field = match prefix {
            Some("metric" | "metrics") if entity.has_metrics() => Field::Metric(key),
            Some("param" | "params" | "parameter" | "parameters") if entity.has_metrics() => Field::Param(key),
            Some("tag" | "tags") if !order || entity.has_metrics() => Field::Tag(key),
            Some("dataset" | "datasets") if entity == Entity::Runs && !order => {
                match ["name", "digest", "context"].into_iter().find(|known| *known == key) {
                    Some(known) => Field::Dataset(known),
                    None => {
                        let reason = format!(
                            "Invalid dataset key '{shown_key}' specified. Valid keys are 'name', 'digest', 'context'"
                        );
                        return self.error(at.start, reason);
                    }
                }
            }
            None | Some("attribute" | "attributes" | "attr" | "run") => {
                let allowed = |a: &&Attribute| if order { a.order } else { a.filter };
                match entity.attribute(&key).filter(allowed) {
                    Some(attribute) => Field::Attribute(attribute.name),
                    None => {
                        let valid: Vec<_> =
                            entity.attributes().iter().filter(allowed).map(|a| format!("'{}'", a.name)).collect();
                        let reason = format!(
                            "Invalid attribute key '{shown_key}' specified. Valid keys are {}",
                            valid.join(", ")
                        );
                        return self.error(at.start, reason);
                    }
                }
            }
            Some(other) => {
                let mut valid = vec!["attribute"];
                if !order || entity.has_metrics() {
                    valid.push("tag");
                }
                if entity.has_metrics() {
                    valid.extend(["metric", "param"]);
                }
                if entity == Entity::Runs && !order {
                    valid.push("dataset");
                }
                let reason = format!("Invalid entity type '{}'. Valid values are {}", shown(other), valid.join(", "));
                return self.error(at.start, reason);
            }
        };
        Ok(field)
    }

    fn clause(&mut self, entity: Entity) -> Result<Clause> {
        let field = self.field(entity, false)?;
        let at = self.next()?;
        let (name, numeric, list, null) = match &field {
            Field::Metric(_) => ("metric", true, false, false),
            Field::Param(_) => ("param", false, false, true),
            Field::Tag(_) => ("tag", false, false, true),
            Field::Dataset(_) => ("dataset", false, true, false),
            Field::Attribute(name) => {
                let known = entity.attribute(name);
                let numeric = known.is_some_and(|a| a.kind != Kind::Text);
                ("attribute", numeric, known.is_some_and(|a| a.list), false)
            }
        };
        let comparison = match at.token {
            Token::Symbol("=") => Some(Comparison::Equal),
            Token::Symbol("!=") => Some(Comparison::NotEqual),
            Token::Symbol(">") => Some(Comparison::Above),
            Token::Symbol(">=") => Some(Comparison::AtLeast),
            Token::Symbol("<") => Some(Comparison::Below),
            Token::Symbol("<=") => Some(Comparison::AtMost),
            _ => None,
        };
        let is = |word: &str| matches!(at.token, Token::Word(found) if found.eq_ignore_ascii_case(word));
        let test = if let Some(comparison) = comparison.filter(|_| numeric) {
            Test::Number(comparison, self.number(&field, name, comparison)?)
        } else if let Some(equal) = comparison.and_then(|c| match c {
            Comparison::Equal => Some(true),
            Comparison::NotEqual => Some(false),
            _ => None,
        }) {
            let text = self.string(name)?;
            if equal { Test::Is(text) } else { Test::IsNot(text) }
        } else if (is("LIKE") || is("ILIKE")) && !numeric {
            Test::Like { any_case: is("ILIKE"), pattern: self.string(name)? }
        } else if is("IN") && !numeric {
            self.list(entity, list, &at, false)?
        } else if is("NOT") && !numeric && self.word("IN")? {
            self.list(entity, list, &at, true)?
        } else if is("IS") {
            let negated = self.word("NOT")?;
            if !self.word("NULL")? {
                let next = self.peek()?;
                return self.error(next.start, format!("expected NULL after IS, found {}", self.raw(&next)));
            }
            if !null {
                return self.error(at.start, format!("IS NULL is for params and tags, not for a {name}"));
            }
            Test::Null(!negated)
        } else {
            let valid = match (numeric, null, list) {
                (true, ..) => "'=', '!=', '>', '>=', '<', '<='",
                (_, true, _) => "'=', '!=', 'LIKE', 'ILIKE', 'IS NULL', 'IS NOT NULL'",
                (_, _, true) => "'=', '!=', 'LIKE', 'ILIKE', 'IN', 'NOT IN'",
                _ => "'=', '!=', 'LIKE', 'ILIKE'",
            };
            return self
                .error(at.start, format!("Invalid comparator '{}' for {field}: not one of {valid}", self.raw(&at)));
        };
        // MLflow's way to tell prompts, which carry the tag, from models, which do not.
        let prompt = matches!(entity, Entity::Models | Entity::Versions) && field == Field::Tag(PROMPT.to_owned());
        let or_missing = prompt && (test == Test::IsNot("true".into()) || test == Test::Is("false".into()));
        Ok(Clause { test: if is_id(&field) { test.canonical() } else { test }, field, or_missing })
    }

    fn number(&mut self, field: &Field, name: &str, comparison: Comparison) -> Result<f64> {
        let at = self.next()?;
        let found = match at.token {
            Token::Number(number) => Some(number),
            Token::Word(word) => named_number(word),
            _ => None,
        };
        let is_metric = name == "metric";
        match found {
            Some(number) if number.is_finite() => Ok(number),
            Some(number) if is_metric => {
                let equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
                if number.is_nan() && !equality {
                    return self.error(at.start, "NaN is neither above nor below a number: compare it by = or !=");
                }
                Ok(number)
            }
            _ if is_metric => {
                self.error(at.start, format!("Expected numeric value type for metric. Found {}", self.raw(&at)))
            }
            _ => {
                let Field::Attribute(key) = field else { return self.error(at.start, "expected a number") };
                let raw = self.raw(&at);
                self.error(at.start, format!("Expected numeric value type for numeric attribute: {key}. Found {raw}"))
            }
        }
    }

    fn string(&mut self, name: &str) -> Result<String> {
        let at = self.next()?;
        match at.token {
            Token::Text(text) if text.len() <= VALUE => Ok(text),
            Token::Text(text) => self.error(at.start, format!("a value of {} bytes; at most {VALUE}", text.len())),
            _ => {
                let raw = self.raw(&at);
                self.error(
                    at.start,
                    format!("Expected a quoted string value for {name} (e.g. 'my-value'). Got value {raw}"),
                )
            }
        }
    }

    fn list(&mut self, entity: Entity, allowed: bool, operator: &At<'_>, negated: bool) -> Result<Test> {
        if !allowed {
            let known: Vec<_> =
                entity.attributes().iter().filter(|a| a.list).map(|a| format!("'{}'", a.name)).collect();
            let which = if known.is_empty() { "no".to_owned() } else { format!("the {}", known.join(", ")) };
            let reason = format!("Only {which} attribute supports comparison with a list of quoted string values.");
            return self.error(operator.start, reason);
        }
        let expect = |parser: &mut Self, symbols: &[&str]| -> Result<bool> {
            let at = parser.next()?;
            match at.token {
                Token::Symbol(found) if symbols.contains(&found) => Ok(found == ","),
                _ => {
                    let (wanted, raw) = (symbols.join("' or '"), parser.raw(&at));
                    parser.error(at.start, format!("expected '{wanted}' in a list of quoted strings, found {raw}"))
                }
            }
        };
        expect(self, &["("])?;
        let mut values = Vec::new();
        loop {
            if values.len() == MOST.1 {
                return self.error(self.at, format!("more than {} values in a list", MOST.1));
            }
            values.push(self.string("list")?);
            if !expect(self, &[",", ")"])? {
                return Ok(Test::In { values, negated });
            }
        }
    }
}

/// Whether a field holds ids that are UUIDs.
fn is_id(field: &Field) -> bool {
    matches!(field, Field::Attribute("run_id" | "experiment_id" | "source_run_id"))
}

impl Test {
    /// With ids in the one spelling that they are stored in.
    fn canonical(self) -> Self {
        let id = |text: String| text.parse::<mlops_core::RunId>().map_or(text, |id| id.to_string());
        match self {
            Self::Is(text) => Self::Is(id(text)),
            Self::IsNot(text) => Self::IsNot(id(text)),
            Self::In { values, negated } => Self::In { values: values.into_iter().map(id).collect(), negated },
            other => other,
        }
    }
}

/// A number as SQL writes it.
fn number(word: &str) -> Option<f64> {
    let digits = word.strip_prefix(['-', '+']).unwrap_or(word);
    let plain = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b));
    plain.then(|| word.parse().ok()).flatten()
}

/// `nan`, `inf`, `infinity`, with a sign or without.
fn named_number(word: &str) -> Option<f64> {
    let name = word.strip_prefix(['-', '+']).unwrap_or(word);
    let known = ["nan", "inf", "infinity"].iter().any(|n| name.eq_ignore_ascii_case(n));
    known.then(|| word.parse().ok()).flatten()
}

impl Filter {
    /// Reads a filter on things of that kind; an empty text is a filter that all pass.
    ///
    /// # Errors
    /// [`InvalidInput`](mlops_core::Error::InvalidInput) saying what is wrong and at which character, in MLflow's words
    /// where it has some.
    pub fn parse(entity: Entity, text: &str) -> Result<Self> {
        let mut parser = Parser::new("filter", text)?;
        let mut clauses = Vec::new();
        if parser.peek()?.token == Token::End {
            return Ok(Self { clauses });
        }
        loop {
            if clauses.len() == MOST.0 {
                return parser.error(parser.at, format!("more than {} clauses", MOST.0));
            }
            clauses.push(parser.clause(entity)?);
            if parser.word("AND")? {
                continue;
            }
            let rest = parser.peek()?;
            if rest.token == Token::End {
                return Ok(Self { clauses });
            }
            let reason =
                format!("Invalid clause(s) in filter string: expected AND or the end, found {}", parser.raw(&rest));
            return parser.error(rest.start, reason);
        }
    }
}

impl Order {
    /// Reads one key of an order: a field, then `ASC` (the default) or `DESC`.
    ///
    /// # Errors
    /// [`InvalidInput`](mlops_core::Error::InvalidInput) saying what is wrong and at which character.
    pub fn parse(entity: Entity, text: &str) -> Result<Self> {
        let mut parser = Parser::new("order_by", text)?;
        let field = parser.field(entity, true)?;
        let ascending = !parser.word("DESC")?;
        if ascending {
            parser.word("ASC")?;
        }
        let rest = parser.peek()?;
        if rest.token != Token::End {
            let reason = format!("Invalid order_by clause: expected ASC, DESC or the end, found {}", parser.raw(&rest));
            return parser.error(rest.start, reason);
        }
        Ok(Self { field, ascending, dataset: None })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Filter {
        Filter::parse(Entity::Runs, text).unwrap()
    }

    fn error(entity: Entity, text: &str) -> String {
        Filter::parse(entity, text).unwrap_err().to_string()
    }

    #[test]
    fn every_spelling_of_a_field_is_read() {
        for text in [
            "metrics.a = 1",
            "metric.a=1",
            "metrics.`a` = 1.0",
            "metrics.\"a\" = +1e0",
            "  metrics.a\n=\t1 ",
            "metrics.a = 1.",
        ] {
            assert_eq!(parse(text).to_string(), "metrics.`a` = 1.0", "{text}");
        }
        for text in ["param.x = 'v'", "parameters.x = \"v\"", "parameter.`x` = 'v'", "params.x='v'"] {
            assert_eq!(parse(text).to_string(), "params.`x` = 'v'", "{text}");
        }
        for text in
            ["start_time > 5", "attribute.start_time > 5", "attr.created > 5", "run.Created > 5", "`created` > 5"]
        {
            assert_eq!(parse(text).to_string(), "attributes.start_time > 5.0", "{text}");
        }
        for text in ["attributes.\"run name\" = 'x'", "\"Run name\" = 'x'", "run_name = 'x'", "`Run Name` = 'x'"] {
            assert_eq!(parse(text).to_string(), "attributes.run_name = 'x'", "{text}");
        }
        let text = "tags.`a ``b\" 'c` LIKE 'it''s %' and params.val/loss-x.y is not null AND datasets.name not in ('a', \"b\")";
        let read = parse(text);
        assert_eq!(read.clauses[0].field, Field::Tag("a `b\" 'c".into()));
        assert_eq!(read.clauses[0].test, Test::Like { pattern: "it's %".into(), any_case: false });
        assert_eq!(read.clauses[1].field, Field::Param("val/loss-x.y".into()));
        assert_eq!(read.clauses[2].test, Test::In { values: vec!["a".into(), "b".into()], negated: true });
        assert_eq!(
            parse("metrics.a<-.5 AND metrics.b>=inf").clauses[1].test,
            Test::Number(Comparison::AtLeast, f64::INFINITY)
        );
        let models =
            Filter::parse(Entity::Models, "name LIKE 'x' AND tag.`mlflow.prompt.is_prompt` != 'true'").unwrap();
        assert!(models.clauses[1].or_missing && !models.clauses[0].or_missing);
    }

    #[test]
    fn errors_say_what_and_where() {
        for (text, expected) in [
            ("metrics.a > 'x'", "invalid filter: Expected numeric value type for metric. Found 'x' (at character 13)"),
            (
                "params.a = 5",
                "invalid filter: Expected a quoted string value for param (e.g. 'my-value'). Got value 5 (at character 12)",
            ),
            (
                "start_time > 'x'",
                "invalid filter: Expected numeric value type for numeric attribute: start_time. Found 'x' (at character 14)",
            ),
            (
                "metrics.a > nan",
                "invalid filter: NaN is neither above nor below a number: compare it by = or != (at character 13)",
            ),
            (
                "ü.a = 1",
                "invalid filter: Invalid entity type 'ü'. Valid values are attribute, tag, metric, param, dataset (at character 1)",
            ),
            (
                "params.é = 'a' OR params.b = 'c'",
                "invalid filter: Invalid clause(s) in filter string: expected AND or the end, found OR (at character 16)",
            ),
            (
                "status IN ('a')",
                "invalid filter: Only the 'run_id' attribute supports comparison with a list of quoted string values. (at character 8)",
            ),
            (
                "metrics.a LIKE 'x'",
                "invalid filter: Invalid comparator 'LIKE' for metrics.`a`: not one of '=', '!=', '>', '>=', '<', '<=' (at character 11)",
            ),
            (
                "nope = 'x'",
                "invalid filter: Invalid attribute key 'nope' specified. Valid keys are 'run_id', 'run_name', 'user_id', 'status', 'artifact_uri', 'start_time', 'end_time' (at character 1)",
            ),
            ("tags.a = 'x", "invalid filter: the text 'x has no end: close it with ' (at character 10)"),
            (
                "tags.a",
                "invalid filter: Invalid comparator 'the end' for tags.`a`: not one of '=', '!=', 'LIKE', 'ILIKE', 'IS NULL', 'IS NOT NULL' (at character 7)",
            ),
            (
                "tags.a = 'x' AND",
                "invalid filter: Invalid clause(s) in filter string: expected a field such as metrics.`a` or run_id, found the end (at character 17)",
            ),
            (
                "run_id IN ()",
                "invalid filter: Expected a quoted string value for list (e.g. 'my-value'). Got value ) (at character 12)",
            ),
            ("status IS NULL", "invalid filter: IS NULL is for params and tags, not for a attribute (at character 8)"),
        ] {
            assert_eq!(error(Entity::Runs, text), expected);
        }
        assert!(error(Entity::Models, "metrics.a = 1").contains("Valid values are attribute, tag"));
        assert!(error(Entity::Models, "creation_timestamp > 1").contains("Valid keys are 'name'"));
        assert!(error(Entity::Runs, &"x".repeat(100_000)).len() < 200);
        assert!(error(Entity::Runs, &format!("tags.a = '{}'", "x".repeat(60_000))).len() < 200);
    }

    #[test]
    fn orders_are_read() {
        let read = |text| Order::parse(Entity::Runs, text).map(|o| o.to_string());
        assert_eq!(read("metrics.`a b` desc").unwrap(), "metrics.`a b` DESC");
        assert_eq!(read("start_time").unwrap(), "attributes.start_time ASC");
        assert_eq!(read(" tag.x ASC ").unwrap(), "tags.`x` ASC");
        for bad in ["", "metrics.a DESC ASC", "metrics.a, b", "datasets.name", "metrics.a DOWN"] {
            assert!(read(bad).unwrap_err().to_string().starts_with("invalid order_by"), "{bad}");
        }
        assert!(Order::parse(Entity::Versions, "tags.a").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(?s).{0,80}", entity in 0usize..5) {
            let entity = [Entity::Experiments, Entity::Runs, Entity::LoggedModels, Entity::Models, Entity::Versions][entity];
            if let Ok(filter) = Filter::parse(entity, &text) {
                prop_assert_eq!(Filter::parse(entity, &filter.to_string()).unwrap().to_string(), filter.to_string());
            }
            let _ = Order::parse(entity, &text);
        }

        #[test]
        fn nearly_right_texts_neither(parts in prop::collection::vec(prop::sample::select(vec![
            "metrics", "params", "tags", ".", "a", "`b c`", "\"d\"", "=", "!=", "<", ">=", "'x'", "1", "-2.5e3", "nan",
            "LIKE", "IN", "NOT", "IS", "NULL", "(", ")", ",", "AND", " ", "status", "'", "`", "é", "datasets.name", "start_time",
        ]), 0..14)) {
            let text = parts.concat();
            if let Ok(filter) = Filter::parse(Entity::Runs, &text) {
                prop_assert_eq!(Filter::parse(Entity::Runs, &filter.to_string()).unwrap().to_string(), filter.to_string());
            }
        }
    }
}
