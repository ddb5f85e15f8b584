//! What runs, logged models and experiments have by name: params, tags, metrics.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mlops_core::{Digest, RunId};
use serde_json::{Map, Value, json};

use crate::sql::db::{self, Arg, Backend as _, Conn, FromRow};
use crate::tracking::{ArtifactOwner, LoggedModelId, Metric};
use crate::{Error, Result};

/// The statements on one table of named texts.
pub(super) struct Texts {
    select: &'static str,
    insert: &'static str,
    /// What follows the values where a key takes the last.
    replace: &'static str,
    delete: &'static str,
    pub(super) select_in: &'static str,
}

macro_rules! texts {
    ($table:literal, $owner:literal) => {
        Texts {
            select: concat!("SELECT name, value FROM ", $table, " WHERE ", $owner, " = $1"),
            insert: concat!("INSERT INTO ", $table, " (", $owner, ", name, value)"),
            replace: concat!("ON CONFLICT (", $owner, ", name) DO UPDATE SET value = excluded.value"),
            delete: concat!("DELETE FROM ", $table, " WHERE ", $owner, " = $1 AND name = $2"),
            select_in: concat!("SELECT ", $owner, ", name, value FROM ", $table, " WHERE ", $owner),
        }
    };
}

pub(super) const EXPERIMENT_TAGS: Texts = texts!("experiment_tags", "experiment_key");
pub(super) const RUN_PARAMS: Texts = texts!("run_params", "run_id");
pub(super) const RUN_TAGS: Texts = texts!("run_tags", "run_id");
pub(super) const MODEL_PARAMS: Texts = texts!("logged_model_params", "model_id");
pub(super) const MODEL_TAGS: Texts = texts!("logged_model_tags", "model_id");

/// What changed, for the audit log: what was there, and what is.
#[derive(Default)]
pub(super) struct Changed {
    pub(super) before: Map<String, Value>,
    pub(super) after: Map<String, Value>,
}

impl Changed {
    pub(super) fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }
}

/// A value as the audit log keeps it: a long one by its digest.
fn brief(value: &str) -> Value {
    const MOST: usize = 1_000;
    match value.len() {
        0..=MOST => value.into(),
        bytes => json!({ "digest": Digest::of(value.as_bytes()), "bytes": bytes }),
    }
}

/// Every row of `select` whose column is one of `keys`, however many; `order` holds among the rows of one key.
pub(super) async fn select_many<T: FromRow>(
    conn: &mut Conn,
    select: &'static str,
    keys: &[String],
    order: &'static str,
) -> Result<Vec<T>> {
    let mut rows = Vec::new();
    for keys in keys.chunks(1_000) {
        rows.extend(db::select_in(conn, select, keys, order).await.during("read", "what was logged")?);
    }
    Ok(rows)
}

impl Texts {
    pub(super) async fn read(&self, conn: &mut Conn, owner: &str) -> Result<BTreeMap<String, String>> {
        let rows: Vec<(String, String)> =
            db::query(self.select).bind(owner).fetch_all(conn).await.during("read", owner)?;
        Ok(rows.into_iter().collect())
    }

    async fn write<'q>(
        &self,
        conn: &mut Conn,
        owner: &'q str,
        values: &[(&'q String, &'q String)],
        conflict: &'static str,
    ) -> Result<()> {
        let rows = values.iter().map(|(name, value)| [Arg::from(owner), Arg::from(*name), Arg::from(*value)]).collect();
        Ok(db::insert_all(conn, self.insert, rows, conflict).await.during("log to", owner)?)
    }

    /// Adds values whose keys keep their first; gives those that were not there yet.
    pub(super) async fn add(
        &self,
        conn: &mut Conn,
        of: ArtifactOwner,
        values: &BTreeMap<String, String>,
    ) -> Result<Map<String, Value>> {
        if values.is_empty() {
            return Ok(Map::new());
        }
        let owner = id_of(of);
        let known = self.read(conn, &owner).await?;
        let mut fresh = Vec::new();
        for (key, new) in values {
            match known.get(key) {
                None => fresh.push((key, new)),
                Some(old) if old == new => {}
                Some(old) => {
                    let shorten = |text: &str| text.chars().take(80).collect();
                    return Err(Error::ParamChanged { of, key: key.clone(), old: shorten(old), new: shorten(new) });
                }
            }
        }
        self.write(conn, &owner, &fresh, "").await?;
        Ok(fresh.into_iter().map(|(name, value)| (name.clone(), brief(value))).collect())
    }

    /// Sets values whose keys take the last, and takes others away.
    pub(super) async fn change(
        &self,
        conn: &mut Conn,
        owner: &str,
        set: &BTreeMap<String, String>,
        remove: &BTreeSet<String>,
    ) -> Result<Changed> {
        if set.is_empty() && remove.is_empty() {
            return Ok(Changed::default());
        }
        let known = self.read(conn, owner).await?;
        let set: Vec<_> = set.iter().filter(|(name, value)| known.get(*name) != Some(*value)).collect();
        let remove: Vec<_> = remove.iter().filter_map(|name| Some((name, known.get(name)?))).collect();
        let before = set.iter().filter_map(|(name, _)| Some(((*name).clone(), brief(known.get(*name)?))));
        let before = before.chain(remove.iter().map(|(name, value)| ((*name).clone(), brief(value)))).collect();
        let after = set.iter().map(|(name, value)| ((*name).clone(), brief(value)));
        let after = after.chain(remove.iter().map(|(name, _)| ((*name).clone(), Value::Null))).collect();
        self.write(conn, owner, &set, self.replace).await?;
        for (name, _) in remove {
            db::query(self.delete).bind(owner).bind(name).execute(&mut *conn).await.during("remove tag of", owner)?;
        }
        Ok(Changed { before, after })
    }
}

/// The id under which a run or a logged model is in its tables.
pub(super) fn id_of(owner: ArtifactOwner) -> String {
    match owner {
        ArtifactOwner::Run(run) => run.to_string(),
        ArtifactOwner::LoggedModel(model) => model.to_string(),
    }
}

/// The order that decides which point is the latest.
pub(super) fn rank(metric: &Metric) -> (i64, i64, bool, f64) {
    let number = !metric.value.is_nan();
    (metric.step, metric.at.timestamp_micros(), number, if number { metric.value } else { 0.0 })
}

/// Keeps the greatest of those that share a key.
fn latest<'m, K: Ord>(points: impl Iterator<Item = (K, &'m Metric)>) -> BTreeMap<K, &'m Metric> {
    let mut latest: BTreeMap<K, &Metric> = BTreeMap::new();
    for (key, metric) in points {
        let best = latest.entry(key).or_insert(metric);
        if rank(metric) > rank(best) {
            *best = metric;
        }
    }
    latest
}

pub(super) async fn put_metrics(conn: &mut Conn, run: RunId, metrics: &[Metric]) -> Result<()> {
    /// What a table of points has, after what says whose point it is.
    fn point(metric: &Metric) -> [Arg<'_>; 7] {
        let (step, at, is_number, value) = rank(metric);
        let dataset = metric.dataset.as_ref();
        [
            step.into(),
            at.into(),
            (!is_number).into(),
            value.into(),
            metric.model.map(|model| model.to_string()).into(),
            dataset.map(|d| &*d.name).into(),
            dataset.map(|d| &*d.digest).into(),
        ]
    }
    let run = run.to_string();
    let newest = latest(metrics.iter().map(|metric| (&*metric.key, metric)));
    let rows = newest.iter().map(|(name, metric)| {
        let [step, at, is_nan, value, model, dataset, digest] = point(metric);
        [Arg::from(&run), Arg::from(*name), step, at, is_nan, value, model, dataset, digest]
    });
    db::insert_all(
        conn,
        "INSERT INTO run_latest_metrics (run_id, name, step, logged_at, is_nan, value, model_id, dataset, digest)",
        rows.collect(),
        "ON CONFLICT (run_id, name) DO UPDATE SET \
           step = excluded.step, logged_at = excluded.logged_at, is_nan = excluded.is_nan, value = excluded.value, \
           model_id = excluded.model_id, dataset = excluded.dataset, digest = excluded.digest \
         WHERE (excluded.step, excluded.logged_at, 1 - excluded.is_nan, excluded.value) \
             > (run_latest_metrics.step, run_latest_metrics.logged_at, \
                1 - run_latest_metrics.is_nan, run_latest_metrics.value)",
    )
    .await
    .during("log to run", &run)?;
    let series = series_of(conn, &run, newest.keys().copied()).await?;
    let rows = metrics.iter().filter_map(|metric| {
        let [step, at, is_nan, value, model, dataset, digest] = point(metric);
        // Each has one, as the row was written above.
        let series = *series.get(&*metric.key)?;
        Some([series.into(), step, at, is_nan, value, model, dataset, digest])
    });
    db::insert_all(
        conn,
        "INSERT INTO run_metrics (series, step, logged_at, is_nan, value, model_id, dataset, digest)",
        rows.collect(),
        "ON CONFLICT (series, step, logged_at, is_nan, value) DO NOTHING",
    )
    .await
    .during("log to run", &run)?;
    put_model_metrics(conn, &run, metrics).await
}

/// The numbers under which the points of a run's metrics are kept.
async fn series_of(
    conn: &mut Conn,
    run: &str,
    names: impl ExactSizeIterator<Item = &str>,
) -> Result<HashMap<String, i64>> {
    const FEW: usize = 4;
    if names.len() > FEW {
        let all = db::query("SELECT name, series FROM run_latest_metrics WHERE run_id = $1").bind(run);
        let rows: Vec<(String, i64)> = all.fetch_all(conn).await.during("log to run", run)?;
        return Ok(rows.into_iter().collect());
    }
    let mut found = HashMap::new();
    for name in names {
        let one = db::query("SELECT series FROM run_latest_metrics WHERE run_id = $1 AND name = $2");
        let series: i64 = one.bind(run).bind(name).fetch_one(&mut *conn).await.during("log to run", run)?;
        found.insert(name.to_owned(), series);
    }
    Ok(found)
}

/// The latest point of each metric of a logged model, for this run and each dataset.
async fn put_model_metrics(conn: &mut Conn, run: &str, metrics: &[Metric]) -> Result<()> {
    type Key<'m> = (LoggedModelId, &'m str, &'m str, &'m str);
    let of_models = metrics.iter().filter_map(|metric| {
        let (dataset, digest) = metric.dataset.as_ref().map_or(("", ""), |d| (&*d.name, &*d.digest));
        Some(((metric.model?, &*metric.key, dataset, digest), metric))
    });
    let rows = latest(of_models).into_iter().map(|((model, name, dataset, digest), metric): (Key<'_>, _)| {
        let (step, at, is_number, value) = rank(metric);
        let owner: [Arg<'_>; 5] = [model.to_string().into(), name.into(), run.into(), dataset.into(), digest.into()];
        let [a, b, c, d, e] = owner;
        [a, b, c, d, e, step.into(), at.into(), (!is_number).into(), value.into()]
    });
    db::insert_all(
        conn,
        "INSERT INTO logged_model_metrics (model_id, name, run_id, dataset, digest, step, logged_at, is_nan, value)",
        rows.collect(),
        "ON CONFLICT (model_id, name, run_id, dataset, digest) DO UPDATE SET \
           step = excluded.step, logged_at = excluded.logged_at, is_nan = excluded.is_nan, value = excluded.value \
         WHERE (excluded.step, excluded.logged_at, 1 - excluded.is_nan, excluded.value) \
             > (logged_model_metrics.step, logged_model_metrics.logged_at, \
                1 - logged_model_metrics.is_nan, logged_model_metrics.value)",
    )
    .await
    .during("log to run", run)
    .map_err(Into::into)
}

/// By owner: what was logged to each, in one query per thousand of them.
pub(super) async fn texts_of(
    conn: &mut Conn,
    texts: &Texts,
    owners: &[String],
) -> Result<HashMap<String, BTreeMap<String, String>>> {
    let rows: Vec<(String, String, String)> = select_many(conn, texts.select_in, owners, "").await?;
    let mut found: HashMap<String, BTreeMap<String, String>> = HashMap::new();
    for (owner, name, value) in rows {
        found.entry(owner).or_default().insert(name, value);
    }
    Ok(found)
}
