//! What a thing has for a field, and whether that fits: the meaning of a filter, without a database.

use std::cmp::Ordering;

use super::{Clause, Comparison, DatasetFilter, Field, Filter, Order, Test};

/// A value of a field.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// There is none.
    Missing,
    /// A text.
    Text(String),
    /// A metric's value; may be NaN.
    Number(f64),
    /// A count.
    Count(i64),
    /// Microseconds since 1970.
    Time(i64),
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::Missing, Self::Text)
    }
}

/// A thing that can be searched for: what backends that filter in memory, and tests of those that do not, go by.
pub trait Searched {
    /// The values that it has for a field; a metric's only on these datasets, if any are given.
    fn values(&self, field: &Field, datasets: &[DatasetFilter]) -> Vec<Value>;

    /// The one value that an order goes by.
    fn key(&self, order: &Order) -> Value;
}

impl Filter {
    /// Whether every clause holds for `thing`.
    pub fn fits(&self, thing: &impl Searched, datasets: &[DatasetFilter]) -> bool {
        self.clauses.iter().all(|clause| clause.fits(&thing.values(&clause.field, datasets)))
    }
}

impl Clause {
    fn fits(&self, values: &[Value]) -> bool {
        let mut present = values.iter().filter(|v| **v != Value::Missing).peekable();
        match (&self.test, present.peek().is_some()) {
            (Test::Null(wanted), there) => *wanted != there,
            (_, false) => self.or_missing,
            (_, true) => present.any(|value| self.test.fits(value)),
        }
    }
}

impl Test {
    fn fits(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Number(comparison, wanted), Value::Number(found)) => comparison.holds(*found, *wanted),
            (Self::Number(comparison, wanted), Value::Count(found)) => comparison.holds(*found as f64, *wanted),
            (Self::Number(comparison, wanted), Value::Time(micros)) => {
                comparison.holds(micros.div_euclid(1_000) as f64, *wanted)
            }
            (Self::Is(wanted), Value::Text(found)) => found == wanted,
            (Self::IsNot(other), Value::Text(found)) => found != other,
            (Self::Like { pattern, any_case: false }, Value::Text(found)) => like(pattern, found),
            (Self::Like { pattern, any_case: true }, Value::Text(found)) => {
                like(&pattern.to_ascii_lowercase(), &found.to_ascii_lowercase())
            }
            (Self::In { values, negated }, Value::Text(found)) => values.contains(found) != *negated,
            _ => false,
        }
    }
}

impl Comparison {
    fn holds(self, found: f64, wanted: f64) -> bool {
        match self {
            Self::Equal => found == wanted || found.is_nan() && wanted.is_nan(),
            Self::NotEqual => !Self::Equal.holds(found, wanted),
            Self::Above => found > wanted,
            Self::AtLeast => found >= wanted,
            Self::Below => found < wanted,
            Self::AtMost => found <= wanted,
        }
    }
}

/// Whether the whole text fits the pattern, in time that grows with the product of their lengths at most.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last `%` stands, and how much of the text it takes so far.
    let mut last: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('%') => {
                last = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '_' || c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match last {
                Some((at, taken)) => {
                    last = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '%')
}

impl Order {
    /// How two things stand to each other in this order alone.
    pub fn compare(&self, a: &impl Searched, b: &impl Searched) -> Ordering {
        let (a, b) = (self.key(a), self.key(b));
        let class = |value: &Value| match value {
            Value::Missing => 2,
            Value::Number(number) if number.is_nan() => 1,
            _ => 0,
        };
        let values = match (&a, &b) {
            (Value::Text(a), Value::Text(b)) => a.cmp(b),
            (Value::Number(a), Value::Number(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            (Value::Count(a), Value::Count(b)) | (Value::Time(a), Value::Time(b)) => a.cmp(b),
            _ => Ordering::Equal,
        };
        class(&a).cmp(&class(&b)).then(if self.ascending { values } else { values.reverse() })
    }

    fn key(&self, thing: &impl Searched) -> Value {
        thing.key(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("a%c", "abbc", true),
            ("a%c", "abcd", false),
            ("_b%", "äbx", true),
            ("%a%b%", "xaxbx", true),
            ("%_", "", false),
            ("*", "x", false),
            ("[a]", "a", false),
            ("\\%", "\\anything", true),
        ] {
            assert_eq!(like(pattern, text), fits, "{pattern} {text}");
        }
    }
}
