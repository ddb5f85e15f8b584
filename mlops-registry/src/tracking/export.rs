//! Runs and histories of metrics as Arrow batches, ready for Parquet or a query engine.
//!
//! ```
//! # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use mlops_core::store::MemoryStore;
//! # use mlops_core::{Principal, Role, clock::from_micros};
//! # use mlops_registry::{LogBatch, NewExperiment, NewRun, SqlRegistry, TrackingStore};
//! use futures::TryStreamExt;
//! use mlops_registry::{Search, export};
//! # let registry = SqlRegistry::builder().artifacts(MemoryStore::default()).open_in_memory().await?;
//! # let ana = Principal::new("ana").with_role(Role::Contributor);
//! # let experiment = registry.create_experiment(&ana, NewExperiment::new("prices")).await?.id;
//! # let run = registry.start_run(&ana, NewRun::new("prices")).await?.id();
//! # registry.log_batch(&ana, run, LogBatch::new().param("lr", 0.1).metric("loss", 0.5, 1, from_micros(0))).await?;
//! let batches: Vec<_> = export::runs(&registry, &[experiment], Search::default()).try_collect().await?;
//! assert_eq!((batches.len(), batches[0].num_rows()), (1, 1));
//! let points: Vec<_> = export::metric_history(&registry, run, "loss", 10_000).try_collect().await?;
//! assert_eq!(points[0].num_rows(), 1);
//! # Ok(()) }
//! # #[cfg(not(feature = "sqlite"))] fn main() {}
//! ```
//!
//! Every batch of a stream has the same schema ([`run_schema`], [`metric_schema`]), whatever the runs have. Params, metrics
//! and tags are maps by key; times are microseconds in UTC.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Float64Builder, Int64Array, MapBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use futures::stream::{self, Stream};
use mlops_core::{Error as CoreError, ExperimentId, RunId, Timestamp};

use super::{Metric, Run, TrackingStore};
use crate::Result;
use crate::search::Search;

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn map(name: &str, values: DataType) -> Field {
    let entries = vec![Field::new("keys", DataType::Utf8, false), Field::new("values", values, true)];
    let entries = Field::new("entries", DataType::Struct(entries.into()), false);
    Field::new(name, DataType::Map(Arc::new(entries), false), false)
}

/// The columns of a run: `run_id`, `experiment`, `experiment_id`, `name`, `parent`, `status`, `stage`, `author`,
/// `started_at`, `ended_at`, and the maps `params`, `metrics` (the latest values) and `tags`.
#[must_use]
pub fn run_schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        text("run_id"),
        text("experiment"),
        text("experiment_id"),
        text("name"),
        Field::new("parent", DataType::Utf8, true),
        text("status"),
        text("stage"),
        text("author"),
        Field::new("started_at", time(), false),
        Field::new("ended_at", time(), true),
        map("params", DataType::Utf8),
        map("metrics", DataType::Float64),
        map("tags", DataType::Utf8),
    ]))
}

/// The columns of a point: `run_id`, `key`, `step`, `at`, `value`, `model`, `dataset`, `digest`.
#[must_use]
pub fn metric_schema() -> SchemaRef {
    let text = |name, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("run_id", false),
        text("key", false),
        Field::new("step", DataType::Int64, false),
        Field::new("at", time(), false),
        Field::new("value", DataType::Float64, false),
        text("model", true),
        text("dataset", true),
        text("digest", true),
    ]))
}

fn texts<T: AsRef<str>>(values: impl Iterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn times(values: impl Iterator<Item = Option<Timestamp>>) -> ArrayRef {
    let micros = values.map(|at| at.map(|at| at.timestamp_micros()));
    Arc::new(TimestampMicrosecondArray::from_iter(micros).with_timezone("UTC"))
}

fn failed(error: arrow::error::ArrowError) -> crate::Error {
    CoreError::invalid("export", error).into()
}

fn text_maps<'r>(maps: impl Iterator<Item = &'r std::collections::BTreeMap<String, String>>) -> Result<ArrayRef> {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for map in maps {
        for (key, value) in map {
            builder.keys().append_value(key);
            builder.values().append_value(value);
        }
        builder.append(true).map_err(failed)?;
    }
    Ok(Arc::new(builder.finish()))
}

/// Runs as one batch of [`run_schema`].
///
/// # Errors
/// [`InvalidInput`](CoreError::InvalidInput) if they do not fit into one batch: more than 2 GiB of text in a column.
pub fn runs_to_batch(runs: &[Run]) -> Result<RecordBatch> {
    let info = || runs.iter().map(|run| &run.info);
    let mut metrics = MapBuilder::new(None, StringBuilder::new(), Float64Builder::new());
    for run in runs {
        for (key, metric) in &run.metrics {
            metrics.keys().append_value(key);
            metrics.values().append_value(metric.value);
        }
        metrics.append(true).map_err(failed)?;
    }
    let columns = vec![
        texts(info().map(|i| i.id.to_string())),
        texts(info().map(|i| &i.experiment)),
        texts(info().map(|i| i.experiment_id.to_string())),
        texts(info().map(|i| &i.name)),
        Arc::new(StringArray::from_iter(info().map(|i| i.parent.map(|p| p.to_string())))),
        texts(info().map(|i| i.status.as_str())),
        texts(info().map(|i| i.stage.as_str())),
        texts(info().map(|i| &i.author)),
        times(info().map(|i| Some(i.started_at))),
        times(info().map(|i| i.ended_at)),
        text_maps(runs.iter().map(|run| &run.params))?,
        Arc::new(metrics.finish()),
        text_maps(runs.iter().map(|run| &run.tags))?,
    ];
    RecordBatch::try_new(run_schema(), columns).map_err(failed)
}

/// Points of one run as one batch of [`metric_schema`].
///
/// # Errors
/// [`InvalidInput`](CoreError::InvalidInput) if they do not fit into one batch.
pub fn metrics_to_batch(run: RunId, points: &[Metric]) -> Result<RecordBatch> {
    let dataset = |part: fn(&super::MetricDataset) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter(points.iter().map(|p| p.dataset.as_ref().map(part))))
    };
    let columns = vec![
        texts(points.iter().map(|_| run.to_string())),
        texts(points.iter().map(|p| &p.key)),
        Arc::new(Int64Array::from_iter_values(points.iter().map(|p| p.step))),
        times(points.iter().map(|p| Some(p.at))),
        Arc::new(Float64Array::from_iter_values(points.iter().map(|p| p.value))),
        Arc::new(StringArray::from_iter(points.iter().map(|p| p.model.map(|m| m.to_string())))),
        dataset(|d| &d.name),
        dataset(|d| &d.digest),
    ];
    RecordBatch::try_new(metric_schema(), columns).map_err(failed)
}

/// The runs that a search finds, page after page, each a batch of at most [`Search::limit`] rows. After an error it ends.
pub fn runs<'s>(
    store: &'s (impl TrackingStore + ?Sized),
    experiments: &'s [ExperimentId],
    search: Search,
) -> impl Stream<Item = Result<RecordBatch>> + 's {
    stream::try_unfold(Some(search), move |search| async move {
        let Some(search) = search else { return Ok(None) };
        let page = store.search_runs(experiments, search.clone()).await?;
        let rest = page.next.map(|next| search.after(next));
        Ok(Some((runs_to_batch(&page.items)?, rest)))
    })
}

/// The history of one metric, in batches of at most `rows` points (1 to 50,000). After an error it ends.
pub fn metric_history<'s>(
    store: &'s (impl TrackingStore + ?Sized),
    run: RunId,
    key: &'s str,
    rows: usize,
) -> impl Stream<Item = Result<RecordBatch>> + 's {
    stream::try_unfold(Some(None::<String>), move |place| async move {
        let Some(token) = place else { return Ok(None) };
        let page = store.metric_page(run, key, rows, token.as_deref()).await?;
        Ok(Some((metrics_to_batch(run, &page.items)?, page.next.map(Some))))
    })
}
