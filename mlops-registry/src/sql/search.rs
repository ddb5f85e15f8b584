//! Searches as SQL: which rows, in which order, behind which place.

use mlops_core::Result;

use super::db::{self, Arg, Backend as _, Conn, FromRow};
use crate::search::{Clause, Comparison, Entity, Field, Order, Plan, Test, Value};

/// A clause that so few rows fit is where SQLite begins; it cannot tell by itself.
const FEW: i64 = 1_000;

/// Where values by name are kept: params, tags, metrics.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    pub(super) table: &'static str,
    /// Its columns that name the owner: `run_id`.
    pub(super) owner: &'static str,
    /// What they are in the rows that are searched: `r.id`.
    pub(super) of: &'static str,
}

/// How things of a kind lie in tables.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) entity: Entity,
    /// What is selected: `r.id`.
    pub(super) columns: &'static str,
    /// From where, with an alias: `runs r`.
    pub(super) from: &'static str,
    /// The expression of an attribute, and whether it may be NULL.
    pub(super) attribute: fn(&str) -> (&'static str, bool),
    pub(super) tags: Named,
    pub(super) params: Option<Named>,
    /// With `name`, `is_nan`, `value`.
    pub(super) metrics: Option<Named>,
    /// With `dataset`, `digest`, `context`.
    pub(super) inputs: Option<Named>,
}

/// A statement under construction; values are bound where the text has them.
pub(super) struct Sql {
    text: String,
    args: Vec<Arg<'static>>,
    sqlite: bool,
}

impl Sql {
    pub(super) fn new(conn: &Conn) -> Self {
        Self { text: String::new(), args: Vec::new(), sqlite: conn.is_sqlite() }
    }

    pub(super) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    pub(super) fn bind(&mut self, value: impl Into<Arg<'static>>) -> &mut Self {
        self.args.push(value.into());
        // SQLite looks named ones up one by one.
        if self.sqlite {
            self.text.push('?');
        } else {
            self.text.push_str(&format!("${}", self.args.len()));
        }
        self
    }

    /// `(a, b, c)`; there must be some.
    pub(super) fn list<T: Into<Arg<'static>>>(&mut self, values: impl IntoIterator<Item = T>) -> &mut Self {
        for (i, value) in values.into_iter().enumerate() {
            self.push(if i == 0 { "(" } else { ", " }).bind(value);
        }
        self.push(")")
    }

    pub(super) async fn fetch_all<T: FromRow>(self, conn: &mut Conn, what: &'static str, key: &str) -> Result<Vec<T>> {
        db::built(self.text, self.args).fetch_all(conn).await.during(what, key)
    }
}

/// One column that rows are ordered by, and its value at the place to go on from.
struct Key {
    expression: String,
    ascending: bool,
    at: Option<Bound>,
}

#[derive(Clone)]
enum Bound {
    Int(i64),
    Float(f64),
    Text(String),
}

impl From<Bound> for Arg<'static> {
    fn from(bound: Bound) -> Self {
        match bound {
            Bound::Int(value) => value.into(),
            Bound::Float(value) => value.into(),
            Bound::Text(value) => value.into(),
        }
    }
}

/// Which metrics an index is walked for, so that they need not be sorted: numbers, NaN, or none of that name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Class {
    Number,
    Nan,
    Missing,
}

impl Class {
    fn of(value: &Value) -> Self {
        match value {
            Value::Missing => Self::Missing,
            Value::Number(number) if number.is_nan() => Self::Nan,
            _ => Self::Number,
        }
    }
}

/// Carries out a search: at most one row more than the limit, to tell whether there is another page.
///
/// `scope` writes the condition on the rows themselves: the experiments, the stage.
pub(super) async fn find<T: FromRow + Send>(
    conn: &mut Conn,
    layout: &Layout,
    plan: &Plan,
    scope: impl Fn(&mut Sql),
) -> Result<Vec<T>> {
    let wanted = plan.limit + 1;
    let first = match conn.is_sqlite() {
        true => fewest(conn, layout, plan).await?,
        false => None,
    };
    if matches!(first, Some((_, 0))) {
        return Ok(Vec::new());
    }
    let first = first.map(|(clause, _)| clause);
    let metric = match (plan.order.first(), layout.entity, first) {
        (Some(Order { field: Field::Metric(key), ascending, .. }), Entity::Runs, None) => Some((key, *ascending)),
        _ => None,
    };
    let Some((metric, ascending)) = metric else {
        let sql = statement(conn, layout, plan, first, None, wanted, &scope);
        return sql.fetch_all(conn, "search", layout.from).await;
    };
    let start = plan.after.as_ref().map_or(Class::Number, |after| Class::of(&after.0[0]));
    let mut rows = Vec::new();
    for class in [Class::Number, Class::Nan, Class::Missing] {
        if rows.len() < wanted && class as u8 >= start as u8 {
            let walk = Walk { metric, ascending, class, goes_on: plan.after.is_some() && class == start };
            let sql = statement(conn, layout, plan, None, Some(&walk), wanted - rows.len(), &scope);
            rows.extend(sql.fetch_all(conn, "search", layout.from).await?);
        }
    }
    Ok(rows)
}

/// A walk along the index of one metric's values.
struct Walk<'a> {
    metric: &'a str,
    ascending: bool,
    class: Class,
    /// Whether the place to go on from lies in this class.
    goes_on: bool,
}

/// The clause that the fewest rows fit, if they are few, and how many.
async fn fewest(conn: &mut Conn, layout: &Layout, plan: &Plan) -> Result<Option<(usize, i64)>> {
    let mut best = None;
    let mut most = FEW;
    for (i, clause) in plan.filter.clauses.iter().enumerate() {
        if clause.or_missing || matches!(clause.test, Test::Null(true)) {
            continue;
        }
        let Some(named) = layout.named(&clause.field) else { continue };
        let mut sql = Sql::new(conn);
        sql.push("SELECT COUNT(*) FROM (SELECT 1 FROM ").push(named.table).push(" t WHERE ");
        layout.named_test(&mut sql, clause, plan);
        sql.push(" LIMIT ").bind(most + 1).push(")");
        let found: Vec<i64> = sql.fetch_all(conn, "search", layout.from).await?;
        if let Some(&found) = found.first()
            && found <= most
        {
            (best, most) = (Some((i, found)), found);
        }
    }
    Ok(best)
}

fn statement(
    conn: &Conn,
    layout: &Layout,
    plan: &Plan,
    first: Option<usize>,
    walk: Option<&Walk<'_>>,
    limit: usize,
    scope: &impl Fn(&mut Sql),
) -> Sql {
    let mut sql = Sql::new(conn);
    sql.push("SELECT ").push(layout.columns).push(" FROM ");
    // What stands left of CROSS JOIN is where SQLite begins, whatever it thinks.
    let driver = first.and_then(|i| Some((&plan.filter.clauses[i], layout.named(&plan.filter.clauses[i].field)?)));
    if let Some((clause, named)) = driver {
        sql.push("(SELECT DISTINCT ").push(named.owner).push(" FROM ").push(named.table).push(" t WHERE ");
        layout.named_test(&mut sql, clause, plan);
        sql.push(") d CROSS JOIN ");
    }
    let walks = walk.filter(|w| w.class != Class::Missing).zip(layout.metrics);
    if let Some((_, named)) = &walks {
        sql.push(named.table).push(" k0 CROSS JOIN ");
    }
    sql.push(layout.from);
    let mut keys = Vec::new();
    let skipped = usize::from(walk.is_some());
    let at = |i: usize| match walk {
        Some(walk) if !walk.goes_on => None,
        _ => plan.after.as_ref().map(|after| after.0[i].clone()),
    };
    for (i, order) in plan.order.iter().enumerate().skip(skipped) {
        layout.keys(&mut sql, order, i, at(i), &mut keys);
    }
    sql.push(" WHERE ");
    if let Some((_, named)) = driver {
        // Only single columns name an owner here: see `Layout::named`.
        sql.push("d.").push(named.owner).push(" = ").push(named.of).push(" AND ");
    }
    if let Some((walk, named)) = &walks {
        sql.push("k0.")
            .push(named.owner)
            .push(" = ")
            .push(named.of)
            .push(" AND k0.name = ")
            .bind(walk.metric.to_owned());
        sql.push(if walk.class == Class::Nan { " AND k0.is_nan = 1 AND " } else { " AND k0.is_nan = 0 AND " });
        if walk.class == Class::Number {
            let at = at(0).map(|value| bound(value, true));
            keys.insert(0, Key { expression: "k0.value".to_owned(), ascending: walk.ascending, at });
        }
    } else if let Some((walk, named)) = walk.zip(layout.metrics) {
        sql.push("NOT EXISTS (SELECT 1 FROM ").push(named.table).push(" t WHERE t.").push(named.owner).push(" = ");
        sql.push(named.of).push(" AND t.name = ").bind(walk.metric.to_owned()).push(") AND ");
    }
    scope(&mut sql);
    for (i, clause) in plan.filter.clauses.iter().enumerate() {
        if first != Some(i) {
            sql.push(" AND ");
            layout.clause(&mut sql, clause, plan);
        }
    }
    if keys.iter().all(|key| key.at.is_some()) {
        sql.push(" AND ");
        behind(&mut sql, &keys);
    }
    for (i, key) in keys.iter().enumerate() {
        let direction = if key.ascending { "" } else { " DESC" };
        sql.push(if i == 0 { " ORDER BY " } else { ", " }).push(&key.expression).push(direction);
    }
    sql.push(" LIMIT ").bind(db::to_i64(limit as u64));
    sql
}

/// Whether a row comes after the place. The first key is bounded by itself, so that an index on it is entered there.
fn behind(sql: &mut Sql, keys: &[Key]) {
    let [key, rest @ ..] = keys else { return };
    let Some(at) = key.at.clone() else { return };
    let beyond = if key.ascending { " > " } else { " < " };
    if rest.is_empty() {
        sql.push(&key.expression).push(beyond).bind(at);
        return;
    }
    let not_before = if key.ascending { " >= " } else { " <= " };
    sql.push("(").push(&key.expression).push(not_before).bind(at.clone());
    sql.push(" AND (").push(&key.expression).push(beyond).bind(at).push(" OR ");
    behind(sql, rest);
    sql.push("))");
}

/// What a key is where its row has no value: as the expressions of [`Layout::keys`] say.
fn bound(value: Value, number: bool) -> Bound {
    match value {
        Value::Text(text) => Bound::Text(text),
        Value::Number(value) if value.is_nan() => Bound::Float(0.0),
        Value::Number(value) => Bound::Float(value),
        Value::Count(value) | Value::Time(value) => Bound::Int(value),
        Value::Missing if number => Bound::Int(0),
        Value::Missing => Bound::Text(String::new()),
    }
}

impl Layout {
    /// The table that has the values of a field, and begins a search if few rows fit.
    fn named(&self, field: &Field) -> Option<Named> {
        match field {
            Field::Attribute(_) => None,
            Field::Tag(_) => Some(self.tags).filter(|named| !named.owner.contains(',')),
            Field::Param(_) => self.params,
            Field::Metric(_) => self.metrics,
            Field::Dataset(_) => self.inputs,
        }
    }

    fn clause(&self, sql: &mut Sql, clause: &Clause, plan: &Plan) {
        let named = match &clause.field {
            Field::Attribute(name) => {
                let (expression, _) = (self.attribute)(name);
                return test(sql, expression, &clause.test, self.entity.is_time(name));
            }
            Field::Tag(_) => Some(self.tags),
            field => self.named(field),
        };
        // The parser lets no field through that the entity does not have.
        let Some(named) = named else {
            sql.push("1 = 0");
            return;
        };
        if let Test::Null(wanted) = clause.test {
            self.lacks_or_has(sql, named, clause, wanted);
            return;
        }
        if clause.or_missing {
            sql.push("(");
            self.lacks_or_has(sql, named, clause, true);
            sql.push(" OR ");
        }
        if named.owner.contains(',') {
            sql.push(named.of)
                .push(" IN (SELECT ")
                .push(named.owner)
                .push(" FROM ")
                .push(named.table)
                .push(" t WHERE ");
        } else {
            sql.push("EXISTS (SELECT 1 FROM ").push(named.table).push(" t WHERE t.").push(named.owner).push(" = ");
            sql.push(named.of).push(" AND ");
        }
        self.named_test(sql, clause, plan);
        sql.push(if clause.or_missing { "))" } else { ")" });
    }

    fn lacks_or_has(&self, sql: &mut Sql, named: Named, clause: &Clause, lacks: bool) {
        sql.push(named.of).push(if lacks { " NOT IN (" } else { " IN (" });
        sql.push("SELECT ").push(named.owner).push(" FROM ").push(named.table).push(" t WHERE ");
        key_is(sql, &clause.field);
        sql.push(")");
    }

    /// The condition on a row `t` of the field's table, the owner aside.
    fn named_test(&self, sql: &mut Sql, clause: &Clause, plan: &Plan) {
        if let Field::Dataset(column) = clause.field {
            let column = if column == "name" { "dataset" } else { column };
            return test(sql, &format!("t.{column}"), &clause.test, false);
        }
        key_is(sql, &clause.field);
        sql.push(" AND ");
        match (&clause.field, &clause.test) {
            (Field::Metric(_), Test::Number(comparison, number)) => {
                metric_test(sql, *comparison, *number);
                if self.entity == Entity::LoggedModels && !plan.datasets.is_empty() {
                    for (i, dataset) in plan.datasets.iter().enumerate() {
                        sql.push(if i == 0 { " AND (" } else { " OR " });
                        on_dataset(sql, "t", dataset);
                    }
                    sql.push(")");
                }
            }
            (_, Test::Is(text)) => {
                // The index has the beginnings of the values: PostgreSQL's entries have a greatest length.
                let start: String = text.chars().take(250).collect();
                sql.push("substr(t.value, 1, 250) = ").bind(start).push(" AND t.value = ").bind(text.clone());
            }
            (_, Test::Null(_)) => {
                sql.push("1 = 1");
            }
            (_, other) => test(sql, "t.value", other, false),
        }
    }

    /// Adds the columns that an order goes by, and the join that they need.
    fn keys(&self, sql: &mut Sql, order: &Order, place: usize, at: Option<Value>, keys: &mut Vec<Key>) {
        let ascending = order.ascending;
        let (class, expression, number) = match &order.field {
            Field::Attribute(name) => {
                let (expression, nullable) = (self.attribute)(name);
                let number = self.entity.is_number(name);
                let blank = if number { "0" } else { "''" };
                match nullable {
                    false => (None, expression.to_owned(), number),
                    true => (
                        Some(format!("CASE WHEN {expression} IS NULL THEN 2 ELSE 0 END")),
                        format!("COALESCE({expression}, {blank})"),
                        number,
                    ),
                }
            }
            Field::Metric(_) => {
                let k = self.join(sql, self.metrics, order, place);
                let class = format!("CASE WHEN {k}.value IS NULL THEN 2 WHEN {k}.is_nan = 1 THEN 1 ELSE 0 END");
                (Some(class), format!("COALESCE({k}.value, 0)"), true)
            }
            field => {
                let named = if matches!(field, Field::Param(_)) { self.params } else { Some(self.tags) };
                let k = self.join(sql, named, order, place);
                let class = format!("CASE WHEN {k}.value IS NULL THEN 2 ELSE 0 END");
                (Some(class), format!("COALESCE({k}.value, '')"), false)
            }
        };
        if let Some(expression) = class {
            let at = at.as_ref().map(|value| {
                Bound::Int(match Class::of(value) {
                    Class::Number => 0,
                    Class::Nan => 1,
                    Class::Missing => 2,
                })
            });
            keys.push(Key { expression, ascending: true, at });
        }
        keys.push(Key { expression, ascending, at: at.map(|value| bound(value, number)) });
    }

    fn join(&self, sql: &mut Sql, named: Option<Named>, order: &Order, place: usize) -> String {
        let alias = format!("k{place}");
        // The parser lets no field through that the entity does not have.
        let Some(Named { table, owner, of }) = named else { return alias };
        let key = match &order.field {
            Field::Metric(key) | Field::Param(key) | Field::Tag(key) => key.clone(),
            Field::Attribute(_) | Field::Dataset(_) => String::new(),
        };
        sql.push(&format!(" LEFT JOIN {table} {alias} ON {alias}.{owner} = {of} AND {alias}.name = ")).bind(key);
        if matches!(order.field, Field::Metric(_)) && self.entity == Entity::LoggedModels {
            // A model's metric has a point per run and dataset: the latest of them counts.
            let rank = |t: &str| {
                format!("({t}.step, {t}.logged_at, 1 - {t}.is_nan, {t}.value, {t}.run_id, {t}.dataset, {t}.digest)")
            };
            if let Some(dataset) = &order.dataset {
                sql.push(" AND ");
                on_dataset(sql, &alias, dataset);
            }
            sql.push(&format!(
                " AND NOT EXISTS (SELECT 1 FROM {table} b WHERE b.{owner} = {alias}.{owner} AND b.name = {alias}.name \
                 AND {} > {}",
                rank("b"),
                rank(&alias)
            ));
            if let Some(dataset) = &order.dataset {
                sql.push(" AND ");
                on_dataset(sql, "b", dataset);
            }
            sql.push(")");
        }
        alias
    }
}

fn key_is(sql: &mut Sql, field: &Field) {
    let (Field::Metric(key) | Field::Param(key) | Field::Tag(key)) = field else { return };
    sql.push("t.name = ").bind(key.clone());
}

fn on_dataset(sql: &mut Sql, alias: &str, dataset: &crate::search::DatasetFilter) {
    sql.push(&format!("({alias}.dataset = ")).bind(dataset.name.clone());
    if let Some(digest) = &dataset.digest {
        sql.push(&format!(" AND {alias}.digest = ")).bind(digest.clone());
    }
    sql.push(")");
}

fn metric_test(sql: &mut Sql, comparison: Comparison, number: f64) {
    match comparison {
        Comparison::Equal if number.is_nan() => sql.push("t.is_nan = 1"),
        Comparison::NotEqual if number.is_nan() => sql.push("t.is_nan = 0"),
        Comparison::NotEqual => sql.push("(t.is_nan = 1 OR t.value <> ").bind(number).push(")"),
        _ => sql.push("t.is_nan = 0 AND t.value ").push(comparison.as_str()).push(" ").bind(number),
    };
}

/// Whether an expression that is no metric passes; NULL passes nothing.
fn test(sql: &mut Sql, expression: &str, test: &Test, time: bool) {
    match test {
        Test::Number(comparison, number) if time => {
            time_test(sql, expression, *comparison, *number);
            sql
        }
        Test::Number(comparison, number) => {
            sql.push(expression).push(" ").push(comparison.as_str()).push(" ").bind(*number)
        }
        Test::Is(text) => sql.push(expression).push(" = ").bind(text.clone()),
        Test::IsNot(text) => sql.push(expression).push(" <> ").bind(text.clone()),
        Test::Like { pattern, any_case } => {
            let pattern = if *any_case { pattern.to_ascii_lowercase() } else { pattern.clone() };
            let expression = if *any_case { format!("lower({expression})") } else { expression.to_owned() };
            if sql.sqlite {
                sql.push(&expression).push(" GLOB ").bind(glob(&pattern))
            } else {
                sql.push(&expression).push(" LIKE ").bind(pattern).push(" ESCAPE ''")
            }
        }
        Test::In { values, negated } => {
            sql.push(expression).push(if *negated { " NOT IN " } else { " IN " }).list(values.iter().cloned())
        }
        Test::Null(wanted) => sql.push(expression).push(if *wanted { " IS NULL" } else { " IS NOT NULL" }),
    };
}

/// A LIKE pattern in SQLite's GLOB, which minds the case.
fn glob(pattern: &str) -> String {
    let mut glob = String::with_capacity(pattern.len() + 8);
    for c in pattern.chars() {
        match c {
            '%' => glob.push('*'),
            '_' => glob.push('?'),
            '*' | '?' | '[' => glob.extend(['[', c, ']']),
            other => glob.push(other),
        }
    }
    glob
}

/// Times are kept in microseconds and compared in whole milliseconds.
fn time_test(sql: &mut Sql, expression: &str, comparison: Comparison, number: f64) {
    // A float beyond the range becomes its end.
    let micros = |millis: f64| (millis as i64).saturating_mul(1_000);
    let (from, to) = (micros(number.ceil()), micros(number.floor() + 1.0));
    let whole = number.fract() == 0.0;
    match comparison {
        Comparison::Above => sql.push(expression).push(" >= ").bind(to),
        Comparison::AtLeast => sql.push(expression).push(" >= ").bind(from),
        Comparison::Below => sql.push(expression).push(" < ").bind(from),
        Comparison::AtMost => sql.push(expression).push(" < ").bind(to),
        Comparison::Equal if whole => {
            sql.push("(").push(expression).push(" >= ").bind(from);
            sql.push(" AND ").push(expression).push(" < ").bind(to).push(")")
        }
        Comparison::NotEqual if whole => {
            sql.push("(").push(expression).push(" < ").bind(from);
            sql.push(" OR ").push(expression).push(" >= ").bind(to).push(")")
        }
        Comparison::Equal => sql.push("1 = 0"),
        Comparison::NotEqual => sql.push(expression).push(" IS NOT NULL"),
    };
}
