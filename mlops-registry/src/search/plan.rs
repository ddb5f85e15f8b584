//! A search that was read and checked, and where its next page begins.

use mlops_core::{Digest, Error as CoreError};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(any(feature = "sqlite", feature = "postgres"))]
use super::{DatasetFilter, Page, Value, View};
use super::{Entity, Field, Filter, Order, Search};
use crate::Result;

/// Most things that a page may hold.
const LARGEST: usize = 50_000;
/// Most keys of an order, ties aside.
const KEYS: usize = 16;

/// A search that was read and checked, which backends carry out.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) filter: Filter,
    /// The keys asked for, then the entity's ties: no two things are equal in it.
    pub(crate) order: Vec<Order>,
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) datasets: Vec<DatasetFilter>,
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) view: View,
    pub(crate) limit: usize,
    /// The keys of the last thing of the page before.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) after: Option<Position>,
    /// The digest of what decides what is found.
    pub(crate) query: String,
}

/// The keys of a thing within an order.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Position(pub(crate) Vec<Value>);

/// A key as it is in a token.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Key {
    Missing(()),
    Text(String),
    /// The bits of a float: JSON has no infinity, and not every reader keeps the last digit.
    Number {
        bits: u64,
    },
    Int(i64),
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[derive(Serialize, Deserialize)]
struct Token {
    query: String,
    keys: Vec<Key>,
}

fn damaged() -> CoreError {
    CoreError::invalid("page token", "take it unchanged from the page before")
}

/// What is to come back, in digits that no caller takes apart.
pub(crate) fn write_token(place: &impl Serialize) -> String {
    // Texts and numbers are always written.
    serde_json::to_string(place).unwrap_or_default().bytes().map(|b| format!("{b:02x}")).collect()
}

/// What [`write_token`] wrote.
pub(crate) fn read_token<T: DeserializeOwned>(token: &str) -> Result<T> {
    let digits: Option<Vec<u8>> = token.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let digits = digits.filter(|d| d.len() % 2 == 0).ok_or_else(damaged)?;
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    Ok(serde_json::from_slice(&bytes).map_err(|_| damaged())?)
}

pub(crate) fn check_limit(limit: usize) -> Result<()> {
    if (1..=LARGEST).contains(&limit) {
        return Ok(());
    }
    Err(CoreError::invalid("limit", format!("{limit} is not in 1..={LARGEST}")).into())
}

impl Plan {
    /// Reads a search of things of that kind. `scope` is what else decides what is found: the experiments.
    ///
    /// # Errors
    /// [`InvalidInput`](CoreError::InvalidInput): of the filter, the order, the limit, or a page token that is damaged or
    /// belongs to another search.
    pub(crate) fn new(entity: Entity, search: &Search, scope: &impl Serialize) -> Result<Self> {
        check_limit(search.limit)?;
        if search.order_by.len() > KEYS {
            return Err(CoreError::invalid("order_by", format!("more than {KEYS} keys")).into());
        }
        if search.datasets.len() > KEYS {
            return Err(CoreError::invalid("datasets", format!("more than {KEYS}")).into());
        }
        let filter = Filter::parse(entity, &search.filter)?;
        let mut order: Vec<Order> = Vec::new();
        for (i, text) in search.order_by.iter().enumerate() {
            let mut key = Order::parse(entity, text)?;
            key.dataset = search.order_datasets.get(i).cloned().flatten();
            let of_metric = entity == Entity::LoggedModels && matches!(key.field, Field::Metric(_));
            if key.dataset.is_some() && !of_metric {
                let reason = format!("a dataset goes with a metric of logged models, not with {key}");
                return Err(CoreError::invalid("order_by", reason).into());
            }
            // A key that is there already decides nothing.
            if !order.iter().any(|o| (&o.field, &o.dataset) == (&key.field, &key.dataset)) {
                order.push(key);
            }
        }
        for tie in entity.ties() {
            if !order.iter().any(|o| o.field == tie.field) {
                order.push(tie);
            }
        }
        let order_datasets: Vec<_> = order.iter().map(|o| (o.to_string(), &o.dataset)).collect();
        let whole = (entity, filter.to_string(), order_datasets, &search.datasets, search.view, scope);
        let mut query = Digest::of_json(&whole)?.to_string();
        query.truncate(16);
        let plan = Self {
            filter,
            order,
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            datasets: search.datasets.clone(),
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            view: search.view,
            limit: search.limit,
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            after: None,
            query,
        };
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        if let Some(token) = &search.page_token {
            let after = Some(plan.read(entity, token)?);
            return Ok(Self { after, ..plan });
        }
        Ok(plan)
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    /// What goes on behind a thing with these keys.
    pub(crate) fn token(&self, position: Position) -> String {
        let keys = position.0.into_iter().map(|value| match value {
            Value::Missing => Key::Missing(()),
            Value::Text(text) => Key::Text(text),
            Value::Number(number) => Key::Number { bits: number.to_bits() },
            Value::Count(number) | Value::Time(number) => Key::Int(number),
        });
        let token = Token { query: self.query.clone(), keys: keys.collect() };
        write_token(&token)
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    fn read(&self, entity: Entity, token: &str) -> Result<Position> {
        let token: Token = read_token(token)?;
        if token.query != self.query {
            let reason = "it belongs to another search: a filter, order, view or experiment differs";
            return Err(CoreError::invalid("page token", reason).into());
        }
        if token.keys.len() != self.order.len() {
            return Err(damaged().into());
        }
        let keys = token.keys.into_iter().zip(&self.order).map(|(key, order)| {
            let kind = match order.field {
                Field::Attribute(name) => entity.attribute(name).map(|a| a.kind),
                _ => None,
            };
            match (key, &order.field, kind) {
                (Key::Missing(()), ..) => Some(Value::Missing),
                (Key::Number { bits }, Field::Metric(_), _) => Some(Value::Number(f64::from_bits(bits))),
                (Key::Text(text), Field::Param(_) | Field::Tag(_), _)
                | (Key::Text(text), _, Some(super::Kind::Text))
                    if !text.contains('\0') =>
                {
                    Some(Value::Text(text))
                }
                (Key::Int(number), _, Some(super::Kind::Number)) => Some(Value::Count(number)),
                (Key::Int(number), _, Some(super::Kind::Time)) => Some(Value::Time(number)),
                _ => None,
            }
        });
        Ok(Position(keys.collect::<Option<Vec<_>>>().ok_or_else(damaged)?))
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    /// Makes the page of what was found: up to one more than the limit was asked for, to see whether there is more.
    pub(crate) fn page<T: super::Searched>(&self, mut found: Vec<T>) -> Page<T> {
        let more = found.len() > self.limit;
        found.truncate(self.limit);
        let last = found.last().filter(|_| more);
        let next = last.map(|last| self.token(Position(self.order.iter().map(|order| last.key(order)).collect())));
        Page { items: found, next }
    }
}

#[cfg(all(test, any(feature = "sqlite", feature = "postgres")))]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_belongs_to_its_search() {
        let search = Search::new("metrics.a > 1").order_by("metrics.b DESC").order_by("params.c");
        let plan = Plan::new(Entity::Runs, &search, &["e"]).unwrap();
        for number in [f64::NEG_INFINITY, -0.1, f64::NAN, 5e-324] {
            let keys = [Value::Number(number), Value::Missing, Value::Time(-5), Value::Text("é\"".into())];
            let token = plan.token(Position(keys.to_vec()));
            let read = Plan::new(Entity::Runs, &search.clone().after(&token), &["e"]).unwrap().after.unwrap();
            assert_eq!(format!("{:?}", read.0), format!("{keys:?}"));
            let others = [
                (search.clone().order_by("tags.x").after(&token), "e"),
                (search.clone().view(View::All).after(&token), "e"),
                (search.clone().after(&token), "f"),
                (Search { filter: "metrics.a > 2".into(), ..search.clone() }.after(&token), "e"),
            ];
            for (other, scope) in others {
                let error = Plan::new(Entity::Runs, &other, &[scope]).unwrap_err().to_string();
                assert!(error.starts_with("invalid page token: it belongs to another"), "{error}");
            }
            // The same filter in another spelling is the same search.
            let same = Search { filter: "metric.`a`>1.0".into(), ..search.clone() };
            Plan::new(Entity::Runs, &same.limit(5).after(&token), &["e"]).unwrap();
            for bad in ["", "zz", "abc", "é", &token[2..], "7b7d"] {
                let error = Plan::new(Entity::Runs, &search.clone().after(bad), &["e"]).unwrap_err().to_string();
                assert!(error.starts_with("invalid page token: take it"), "{bad}: {error}");
            }
        }
    }
}
