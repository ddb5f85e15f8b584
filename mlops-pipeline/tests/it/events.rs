//! A run as OpenLineage events, against the official schemas.

use std::collections::BTreeSet;
use std::time::Duration;

use mlops_core::Digest;
use mlops_core::conformance::OpenLineageSchemas;
use mlops_core::lineage::openlineage::*;
use mlops_core::lineage::{
    Graph, LineageStore, LineageStoreExt, MemoryLineage, MemorySink, NodeKind, NodeRef, StoreTransport, Transport,
};
use mlops_core::store::MemoryStore;
use mlops_pipeline::{FailureMode, LineageEvents, Pipeline, Runner};

use crate::support::{dataset, pipeline, run_id};

fn events(sink: &MemorySink) -> LineageEvents {
    let location = SourceCodeLocationFacet::git("https://git.example/shop/train.rs".parse().unwrap());
    let environment = EnvironmentFacet::new().commit("4f92db1").seed(7u64);
    LineageEvents::to(sink.clone()).namespace("shop").environment(environment).source(location)
}

/// `train COMPLETE`, in order.
fn told(sink: &MemorySink) -> Vec<String> {
    let word = |e: &RunEvent| serde_json::to_value(e.event_type).unwrap().as_str().unwrap().to_owned();
    sink.events().iter().map(|e| format!("{} {}", e.job.name, word(e))).collect()
}

fn validate(sink: &MemorySink) {
    OpenLineageSchemas::new().check(&sink.events());
}

#[tokio::test]
async fn a_run_and_its_steps_start_and_complete() {
    let sink = MemorySink::default();
    let run = run_id("one");
    let runner = Runner::new(MemoryStore::default()).run_id(run).lineage_events(events(&sink));
    pipeline().run(&runner).await.unwrap();
    validate(&sink);
    let steps = ["prices.ingest START", "prices.ingest COMPLETE", "prices.train START", "prices.train COMPLETE"];
    assert_eq!(told(&sink), [&["prices START"][..], &steps, &["prices COMPLETE"]].concat());
    let all = sink.events();
    let parent = all[1].run.facets.find::<ParentFacet>().unwrap().unwrap();
    assert_eq!((parent.run.run_id, &*parent.job.name, &*parent.job.namespace), (run, "prices", "shop"));
    assert_eq!(all[0].run.run_id, run);
    assert_eq!(all[1].run.run_id, all[2].run.run_id);
    assert_ne!(all[1].run.run_id, all[3].run.run_id);
    assert_eq!(all[2].inputs, [Dataset::reference("shop", &dataset("feed")).into()]);
    assert_eq!(all[2].outputs, [Dataset::reference("shop", &dataset("prices")).into()]);
    let train = all[4].run.facets.find::<StepFacet>().unwrap().unwrap();
    assert_eq!(train.inputs.keys().collect::<Vec<_>>(), ["ingest"]);
    assert_eq!((train.output, train.computed_by), (Some(Digest::of(b"0.5")), Some(run)));
    assert_eq!(train.code.as_deref(), Some("declared:v1"));
}

#[tokio::test]
async fn a_failing_step_fails_its_run_and_says_why_and_on_what() {
    let mut p = Pipeline::builder("prices");
    let first = p.step("first", (), |ctx, ()| async move {
        ctx.reads(&dataset("feed"));
        if ctx.attempt() == 1 { Err("no connection".into()) } else { Err::<u8, _>("no labels".into()) }
    });
    p.options(first).retries(1).backoff(Duration::from_millis(1), Duration::from_millis(1));
    p.step("second", first, |_, n| async move { Ok(n) });
    let sink = MemorySink::default();
    p.build().unwrap().run(&Runner::new(MemoryStore::default()).lineage_events(events(&sink))).await.unwrap_err();
    validate(&sink);
    assert_eq!(told(&sink), ["prices START", "prices.first START", "prices.first FAIL", "prices FAIL"]);
    for event in &sink.events()[2..] {
        let error = event.run.facets.find::<ErrorMessageFacet>().unwrap().unwrap();
        assert!(error.message.ends_with("after 2 attempt(s): no labels"), "{}", error.message);
    }
    assert_eq!(sink.events()[2].inputs, [Dataset::reference("shop", &dataset("feed")).into()]);
}

#[tokio::test]
async fn a_cached_step_tells_who_computed_it_and_writes_nothing() {
    let (sink, store) = (MemorySink::default(), MemoryStore::default());
    for run in ["one", "two"] {
        let runner = Runner::new(store.clone()).run_id(run_id(run)).lineage_events(events(&sink));
        pipeline().run(&runner).await.unwrap();
    }
    validate(&sink);
    let told = told(&sink);
    assert_eq!((told.len(), &told[..6]), (12, &told[6..]), "the second run tells the same");
    let cached = &sink.events()[8];
    let step = cached.run.facets.find::<StepFacet>().unwrap().unwrap();
    assert_eq!((&*step.step, step.computed_by), ("ingest", Some(run_id("one"))));
    assert_eq!(cached.inputs, [Dataset::reference("shop", &dataset("feed")).into()]);
    assert_eq!(cached.outputs, []);
}

#[tokio::test]
async fn what_is_stopped_is_aborted_once() {
    let mut p = Pipeline::builder("prices");
    p.step("long", (), |ctx, ()| async move {
        ctx.reads(&dataset("feed"));
        std::future::pending::<()>().await;
        Ok(1)
    });
    let stuck = p.build().unwrap();
    let sink = MemorySink::default();
    let runner = Runner::new(MemoryStore::default()).lineage_events(events(&sink));
    let cut = tokio::time::timeout(Duration::from_millis(50), stuck.run(&runner)).await;
    assert!(cut.is_err());
    validate(&sink);
    assert_eq!(told(&sink), ["prices START", "prices.long START", "prices.long ABORT", "prices ABORT"]);

    let mut p = Pipeline::builder("prices");
    p.step("a_long", (), |_, ()| async {
        std::future::pending::<()>().await;
        Ok(1)
    });
    p.step("b_bad", (), |_, ()| async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Err::<(), _>("broken".into())
    });
    let sink = MemorySink::default();
    let runner = Runner::new(MemoryStore::default()).workers(2).on_failure(FailureMode::FailFast);
    p.build().unwrap().run(&runner.lineage_events(events(&sink))).await.unwrap_err();
    validate(&sink);
    let ends = ["prices.b_bad FAIL", "prices.a_long ABORT", "prices FAIL"];
    assert_eq!(told(&sink)[3..], ends);
}

#[tokio::test]
async fn events_make_the_graph_that_the_runner_records_itself() {
    let (sink, store) = (MemorySink::default(), MemoryStore::default());
    let (recorded, told) = (MemoryLineage::default(), MemoryLineage::default());
    for run in ["one", "two"] {
        let runner = Runner::new(store.clone()).run_id(run_id(run)).lineage(recorded.clone());
        pipeline().run(&runner.lineage_events(events(&sink))).await.unwrap();
    }
    let into = StoreTransport::new(told.clone(), "shop");
    for event in sink.events() {
        into.send(&event).await.unwrap();
    }
    let edges = |graph: Graph| {
        let kept = graph.edges.into_iter().filter(|e| e.from.kind != NodeKind::Job);
        kept.collect::<BTreeSet<_>>()
    };
    let end = NodeRef::run(run_id("two"));
    let expected = edges(recorded.upstream(&end, usize::MAX).await.unwrap());
    assert!(expected.len() > 6, "{expected:?}");
    assert_eq!(edges(told.upstream(&end, usize::MAX).await.unwrap()), expected);
    let origins = told.origins(&end).await.unwrap();
    assert_eq!(origins.commits(), BTreeSet::from(["4f92db1"]));
    assert_eq!(origins.datasets().count(), 2);
}
