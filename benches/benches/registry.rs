//! `mlops-registry` on a SQLite file: what a training loop, a request path and a release cost.
#![allow(clippy::unwrap_used, missing_docs)] // nothing to do but stop where the set-up fails

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mlops_core::clock::from_micros;
use mlops_core::signature::{ColumnSpec, ColumnType};
use mlops_core::store::MemoryStore;
use mlops_core::{ModelRef, ModelSource, Package, Principal, Role, RunId, Signature};
use mlops_registry::{
    AliasPolicy, Durability, LogBatch, ModelRegistry, NewExperiment, NewModel, NewPromotion, NewRun, NewVersion,
    ResolveCache, SqlRegistry, TrackingStore,
};
use tokio::runtime::Runtime;

fn who(name: &str, role: Role) -> Principal {
    Principal::new(name).with_role(role)
}

/// A registry in a file, with model `m`, two versions of it, and experiment `e` with one run.
async fn registry(durability: Durability) -> (SqlRegistry, RunId, tempfile::TempDir) {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::default());
    let registry = SqlRegistry::builder().artifacts(store.clone()).durability(durability);
    let registry = registry.open_sqlite(dir.path().join("registry.db")).await.unwrap();
    let (ana, root) = (who("ana", Role::Contributor), who("root", Role::Admin));
    registry.create_model(&ana, NewModel::new("m")).await.unwrap();
    for seed in 0..2 {
        let column = |name: &str| ColumnSpec::new(name, ColumnType::Double);
        let signature = Signature::new([column("x")], [column("y")]).unwrap();
        let package = Package::builder(signature).flavor("test", Default::default());
        let package = package.file("weights", vec![seed]).build().unwrap();
        let package = package.save(&store).await.unwrap();
        registry.create_version(&ana, NewVersion::new("m", package)).await.unwrap();
    }
    registry.set_policy(&root, "m", "champion", AliasPolicy::approvals(1)).await.unwrap();
    registry.create_experiment(&ana, NewExperiment::new("e")).await.unwrap();
    let run = registry.start_run(&ana, NewRun::new("e")).await.unwrap().id();
    (registry, run, dir)
}

/// Request, approval and move of one alias to the version it does not point at.
async fn release(registry: &SqlRegistry, n: u64) {
    let request = NewPromotion::new("m", 1 + n % 2, "champion").reason("bench");
    let id = registry.request_promotion(&who("ana", Role::Contributor), request).await.unwrap().id;
    registry.approve(&who("rob", Role::Reviewer), id, "").await.unwrap();
    registry.promote(&who("dan", Role::Deployer), id).await.unwrap();
}

fn bench(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    for (name, durability) in [("disk", Durability::Disk), ("process", Durability::Process)] {
        let (registry, run, _dir) = runtime.block_on(registry(durability));
        let ana = who("ana", Role::Contributor);

        let mut group = c.benchmark_group("log_batch");
        group.throughput(Throughput::Elements(1_000));
        let mut step = 0;
        group.bench_function(format!("1000_metrics/{name}"), |b| {
            let next = || {
                let batch = (0..1_000).fold(LogBatch::new(), |batch, i| {
                    batch.metric(["loss", "accuracy"][i % 2], i as f64, step + i as i64, from_micros(step))
                });
                step += 1_000;
                batch
            };
            b.to_async(&runtime).iter_batched(
                next,
                |batch| async { registry.log_batch(&ana, run, batch).await.unwrap() },
                BatchSize::PerIteration,
            );
        });
        group.finish();

        let mut group = c.benchmark_group("promote");
        let mut n = 0;
        group.bench_function(format!("request_approve_promote/{name}"), |b| {
            b.to_async(&runtime).iter_batched(
                || {
                    n += 1;
                    n
                },
                |n| release(&registry, n),
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }

    let (registry, _, _dir) = runtime.block_on(registry(Durability::Disk));
    runtime.block_on(release(&registry, 0));
    let champion = ModelRef::alias("m", "champion");
    c.benchmark_group("alias").bench_function("resolve", |b| {
        b.to_async(&runtime).iter(|| async { registry.resolve(&champion).await.unwrap() });
    });
    let cache = ResolveCache::new(registry);
    c.benchmark_group("alias").bench_function("resolve/cached", |b| {
        b.to_async(&runtime).iter(|| async { cache.resolve(&champion).await.unwrap() });
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
