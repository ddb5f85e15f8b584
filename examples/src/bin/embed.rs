//! The program in the README: registry, serving and drift in one service.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use candle_core::{Device, Tensor};
use mlops_core::inference::{InferenceLog, InferenceSink};
use mlops_core::package::REFERENCE_PROFILE;
use mlops_core::signature::{ColumnSpec, ColumnType};
use mlops_core::store::LocalStore;
use mlops_core::{ModelRef, ModelSourceExt, Principal, PromotionId, Role};
use mlops_core::{Package, Signature};
use mlops_monitor::{Monitor, ReferenceProfile};
use mlops_registry::{AliasPolicy, ModelRegistry, NewModel, NewPromotion, NewVersion, SqlRegistry};
use mlops_serve::runtime::candle::{MlpConfig, Output, add_to_package, to_safetensors};
use mlops_serve::{Deployment, PackageLoader, ParquetInferenceLog, Request, Runtimes, Split};

/// A batch with one column, `price`.
fn prices(values: Vec<f64>) -> mlops_core::Result<RecordBatch> {
    Ok(RecordBatch::try_from_iter([("price", Arc::new(Float64Array::from(values)) as ArrayRef)])?)
}

/// A package with a logistic regression of the price, and the profile of the prices it was trained on.
fn trained() -> mlops_examples::Result<Package> {
    let tensor = |name: &str, tensor: candle_core::Result<Tensor>| tensor.map(|t| (name.to_owned(), t));
    let weights = HashMap::from([
        tensor("input.mean", Tensor::new(&[0.05f64], &Device::Cpu))?,
        tensor("input.scale", Tensor::new(&[0.01f64], &Device::Cpu))?,
        tensor("layers.0.weight", Tensor::new(&[[1f32]], &Device::Cpu))?,
        tensor("layers.0.bias", Tensor::new(&[0f32], &Device::Cpu))?,
    ]);
    let seen = prices((0..200).map(|i| 0.04 + f64::from(i) * 1e-4).collect())?;
    let said: ArrayRef = Arc::new(Float64Array::from_iter_values((0..200).map(|i| f64::from(i) / 200.0)));
    let profile = ReferenceProfile::fit(&seen, &RecordBatch::try_from_iter([("probability_up", said)])?)?;
    let column = |name| [ColumnSpec::new(name, ColumnType::Double)];
    let package = Package::builder(Signature::new(column("price"), column("probability_up"))?);
    let config = MlpConfig { features: 1, hidden: vec![], outputs: 1, output: Output::Sigmoid };
    let package = add_to_package(package, "mlp", &config, to_safetensors(&weights)?)?;
    Ok(package.file(REFERENCE_PROFILE, profile.to_json()?).build()?)
}

#[tokio::main]
async fn main() -> mlops_examples::Result<()> {
    let store = LocalStore::open("data")?;
    let registry = SqlRegistry::builder().artifacts(store.clone()).open_sqlite("data/registry.db").await?;

    // Ana registers what she trained and asks for it to serve; Rita approves; only then can the alias move.
    let (ana, rita) =
        (Principal::new("ana").with_role(Role::Contributor), Principal::new("rita").with_role(Role::Reviewer));
    let (dora, adam) =
        (Principal::new("dora").with_role(Role::Deployer), Principal::new("adam").with_role(Role::Admin));
    registry.create_model(&ana, NewModel::new("prices")).await?;
    registry.set_policy(&adam, "prices", "champion", AliasPolicy::approvals(1)).await?;
    let v1 = registry.create_version(&ana, NewVersion::new("prices", trained()?.save(&store).await?)).await?;
    let request = NewPromotion::new("prices", v1.version, "champion").id(PromotionId::derived(v1.created_at, b"v1"));
    let request = registry.request_promotion(&ana, request).await?;
    registry.approve(&rita, request.id, "the gates pass").await?;
    registry.promote(&dora, request.id).await?;

    // Serve what `champion` points at, and keep every answer.
    let champion = ModelRef::alias("prices", "champion");
    let log = ParquetInferenceLog::new(store, "inference/prices")?;
    let models = PackageLoader::new(registry.clone(), Runtimes::default());
    let service = Deployment::builder("prices", models).sink(log.clone()).audit(registry.clone());
    let service = service.start(Split::only("champion", champion.clone())).await?;
    let answer = service.predict(Request::new("customer 17", prices(vec![0.056])?)).await?;
    println!("{} by v{}", answer.ids[0], answer.version);

    // Watch it: the package brings the profile of its training data. Answers are in the log once it is flushed.
    let profile = ReferenceProfile::from_json(registry.fetch(&champion).await?.file(REFERENCE_PROFILE)?)?;
    let mut monitor = Monitor::builder("prices", profile).version(v1.version).build()?;
    log.flush().await?;
    for record in log.scan(answer.at, answer.at + chrono::TimeDelta::days(7)).await? {
        monitor.observe(&record)?;
    }
    println!("{} answers watched", monitor.stats().rows);
    for alert in monitor.advance(answer.at + chrono::TimeDelta::days(14))? {
        println!("{alert}");
    }
    Ok(())
}
