//! The card of a version that was trained, checked, approved and promoted, in every form:
//! `cargo run -p mlops-registry --example model_card -- DIR` writes `card.md`, `card.html` and `card.cdx.json`.

use mlops_core::package::Provenance;
use mlops_core::signature::{ColumnSpec, ColumnType, Signature};
use mlops_core::store::MemoryStore;
use mlops_core::{
    Clock as _, DatasetRef, Digest, Finding, Measurement, Package, Principal, Role, SystemClock, Verdict,
};
use mlops_registry::card::{Evaluation, Fairness};
use mlops_registry::{
    AliasPolicy, LogBatch, ModelCard, ModelRegistry, NewExperiment, NewModel, NewPromotion, NewRun, NewVersion,
    RunStatus, SqlRegistry, TrackingStore, TrackingStoreExt as _,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::path::PathBuf::from(std::env::args().nth(1).ok_or("say which folder to write to")?);
    let store = MemoryStore::default();
    let registry = SqlRegistry::builder().artifacts(store.clone()).open_in_memory().await?;
    promoted(&registry, &store).await?;

    let accuracy = |value, low, high, n| Measurement::new("accuracy", value).with_interval(low, high).with_n(n);
    let card = ModelCard::gather(&registry, "prices", 1)
        .await?
        .read_package(&store)
        .await?
        .license("Apache-2.0")
        .task("tabular-classification")
        .intended_use("say an hour ahead whether the price will rise")
        .user("traders, beside their own judgement")
        .out_of_scope("setting prices")
        .limit("knows no holidays")
        .risk("what it says moves what it predicts", "a drift alert, and a person who trades")
        .evaluation(Evaluation::new(accuracy(0.912, 0.905, 0.919, 4_368).with_bound(">= 0.9")).dataset("elec2"))
        .evaluation(Evaluation::new(accuracy(0.884, 0.869, 0.898, 1_456)).dataset("elec2").slice("at night"))
        .evaluation(Evaluation::new(accuracy(0.926, 0.918, 0.934, 2_912)).dataset("elec2").slice("by day"))
        .fairness(
            Fairness::new("small producers")
                .measured(accuracy(0.871, 0.843, 0.896, 512))
                .benefits("notice an hour earlier")
                .harms("more forecasts that are wrong")
                .mitigation("their rows count twice in training"),
        );
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("card.md"), card.to_markdown())?;
    std::fs::write(dir.join("card.html"), card.to_html())?;
    std::fs::write(dir.join("card.cdx.json"), serde_json::to_string_pretty(&card.to_cyclonedx())?)?;
    println!("{}", card.to_markdown());
    Ok(())
}

async fn promoted(registry: &SqlRegistry, store: &MemoryStore) -> Result<(), Box<dyn std::error::Error>> {
    let [ana, rob, dan] = [("ana", Role::Contributor), ("rob", Role::Reviewer), ("dan", Role::Deployer)]
        .map(|(name, role)| Principal::new(name).with_role(role));
    let rows = DatasetRef { name: "elec2".to_owned(), digest: Digest::of(b"rows") };
    registry.create_experiment(&ana, NewExperiment::new("weekly")).await?;
    let run = registry.start_run(&ana, NewRun::new("weekly").name("mlp")).await?.id();
    let logged =
        LogBatch::new().param("lr", 0.01).param("hidden", "[32, 16]").metric("loss", 0.31, 7, SystemClock.now());
    registry.log_batch(&ana, run, logged).await?;
    registry.log_input(&ana, run, rows.clone(), "training").await?;
    registry.finish_run(&ana, run, RunStatus::Finished).await?;

    let column = |name| [ColumnSpec::new(name, ColumnType::Double)];
    let mut provenance = Provenance::default();
    provenance.run = Some(run);
    provenance.datasets = vec![rows];
    provenance.commit = Some("4f92db1c".to_owned());
    provenance.dirty = Some(false);
    provenance.toolchain = Some("rustc 1.95.0".to_owned());
    provenance.seed = Some(7);
    let package = Package::builder(Signature::new(column("price"), column("probability_up"))?)
        .flavor("candle", serde_json::json!({"architecture": "mlp"}))
        .file("weights.safetensors", vec![7; 4_096])
        .provenance(provenance)
        .build()?;
    let model = NewModel::new("prices").description("Will the price of electricity rise within the hour?");
    registry.create_model(&ana, model.tag("team", "markets")).await?;
    let version = NewVersion::new("prices", package.save(store).await?).run(run).description("The first one.");
    registry.create_version(&ana, version).await?;
    let root = Principal::new("root").with_role(Role::Admin);
    registry.set_policy(&root, "prices", "champion", AliasPolicy::approvals(1)).await?;
    let passed = Finding::new("accuracy", Verdict::Pass, "above 0.9 on the hold-out rows")
        .with(Measurement::new("accuracy", 0.912).with_interval(0.905, 0.919).with_n(4_368).with_bound(">= 0.9"));
    let request = NewPromotion::new("prices", 1, "champion").evidence([passed]).reason("first model");
    let request = registry.request_promotion(&ana, request).await?;
    registry.approve(&rob, request.id, "looks right").await?;
    registry.promote(&dan, request.id).await?;
    Ok(())
}
