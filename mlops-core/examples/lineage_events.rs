//! A night of a small shop as OpenLineage events, in a file that any OpenLineage client reads:
//! `cargo run -p mlops-core --example lineage_events -- lineage.jsonl`.

use mlops_core::lineage::openlineage::{
    ColumnLineageFacet, ColumnMetrics, DataQualityMetricsFacet, Dataset, DeploymentFacet, EnvironmentFacet,
    ErrorMessageFacet, EventType, InputDataset, InputField, Job, JobTypeFacet, ModelFacet, NominalTimeFacet,
    ParentFacet, PredictionsFacet, Run, RunEvent, SchemaFacet, SchemaField, SourceCodeLocationFacet, StepFacet,
    Transformation,
};
use mlops_core::lineage::{
    FanOut, FileTransport, LineageQueue, LineageSink, LineageStore as _, LineageStoreExt, MemoryLineage, NodeRef,
    StoreTransport,
};
use mlops_core::{DatasetRef, Digest, RunId, Timestamp};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("say which file to write")?;
    let graph = MemoryLineage::default();
    let (file, to_file) = LineageQueue::new(FileTransport::open(path)?, 1000);
    let (store, to_store) = LineageQueue::new(StoreTransport::new(graph.clone(), "shop"), 1000);
    night(&FanOut::default().with(file).with(store))?;
    futures::executor::block_on(async {
        println!("file: {}\nstore: {}\n", to_file.run().await, to_store.run().await);
        println!("{}", graph.origins(&NodeRef::prediction_batch("1996-05-07")).await?);
        println!("{}", graph.impact(&NodeRef::dataset(&rows("feed"))).await?);
        print!("{}", graph.upstream(&NodeRef::deployment("web"), usize::MAX).await?.to_mermaid());
        Ok(())
    })
}

fn rows(name: &str) -> DatasetRef {
    DatasetRef { name: name.to_owned(), digest: Digest::of(name.as_bytes()) }
}

/// A pipeline cleans the feed and trains, the model is deployed and scores a day, and an export fails.
fn night(sink: &dyn LineageSink) -> Result<(), Box<dyn std::error::Error>> {
    let midnight: Timestamp = "1996-05-07T00:00:00Z".parse()?;
    let minute = |n: u64| midnight + std::time::Duration::from_secs(60 * n);
    let day = NominalTimeFacet::new(midnight).until(minute(24 * 60));
    let environment = EnvironmentFacet::new().commit("4f92db1").dirty(false).toolchain("rustc 1.95.0").seed(7u64);
    let environment = environment.lock_file(Digest::of(b"Cargo.lock"));
    let code = SourceCodeLocationFacet::git("https://git.example/shop/blob/4f92db1/src/train.rs".parse()?);
    let code = code.repo_url("git@git.example:shop.git").path("src/train.rs").version("4f92db1").branch("main");
    let job = |name: &str| Job::new("shop", name).facet(JobTypeFacet::batch()).facet(code.clone());

    let run = RunId::new(midnight);
    let whole = Run::new(run).facet(day).facet(environment.clone());
    sink.emit(RunEvent::new(EventType::Start, minute(0), whole.clone(), job("prices")));
    let part =
        |facet: StepFacet| Run::step(run, &facet.step).facet(parent(run)).facet(environment.clone()).facet(facet);
    sink.emit(RunEvent::new(EventType::Start, minute(1), part(StepFacet::new("clean")), job("prices.clean")));

    let price = ColumnMetrics { null_count: Some(1), min: Some(0.05), max: Some(0.07), ..ColumnMetrics::default() };
    let quality = DataQualityMetricsFacet::new().row_count(48u64).column("price", price);
    let made = InputField::new("shop", "feed", "price").transformation(Transformation::direct("IDENTITY"));
    let clean = Dataset::reference("shop", &rows("clean"))
        .facet(SchemaFacet::new([SchemaField::new("price", "Float64"), SchemaField::new("day", "Date32")]))
        .facet(quality.clone())
        .facet(ColumnLineageFacet::new().column("price", [made]));
    let feed = InputDataset::from(Dataset::reference("shop", &rows("feed"))).input_facet(quality);
    let cleaned = part(StepFacet::new("clean").output(Digest::of(b"clean")).computed_by(run));
    let event = RunEvent::new(EventType::Complete, minute(2), cleaned, job("prices.clean"));
    sink.emit(event.input(feed).output(clean.clone()));

    let model = Dataset::model("shop", ModelFacet::new("prices", 3).package(Digest::of(b"package")));
    let trained = part(StepFacet::new("train").input("clean", Digest::of(b"clean")).computed_by(run));
    let event = RunEvent::new(EventType::Complete, minute(3), trained, job("prices.train"));
    sink.emit(event.input(clean).output(model.clone()));
    sink.emit(RunEvent::new(EventType::Complete, minute(4), whole, job("prices")));

    let deploy = RunEvent::new(EventType::Complete, minute(5), Run::new(RunId::new(minute(5))), job("deploy"));
    let web = Dataset::deployment("shop", DeploymentFacet::new("web").arm("champion", 0.9).arm("canary", 0.1));
    sink.emit(deploy.input(model.clone()).output(web));
    let score = RunEvent::new(EventType::Complete, minute(6), Run::new(RunId::new(minute(6))), job("score"));
    let batch = PredictionsFacet::new("1996-05-07").between(midnight, minute(5)).rows(48u64).deployment("web");
    sink.emit(score.input(model).output(Dataset::predictions("shop", batch)));
    let export = Run::new(RunId::new(minute(7))).facet(ErrorMessageFacet::new("disk full").stack_trace("export.rs:7"));
    sink.emit(RunEvent::new(EventType::Fail, minute(8), export, job("export")));
    Ok(())
}

fn parent(run: RunId) -> ParentFacet {
    ParentFacet::new(Run::new(run), Job::new("shop", "prices"))
}
