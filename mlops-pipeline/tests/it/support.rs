use mlops_core::{DatasetRef, Digest, RunId};
use mlops_pipeline::{CodeIdentity, Pipeline};

pub(crate) fn dataset(name: &str) -> DatasetRef {
    DatasetRef { name: name.to_owned(), digest: Digest::of(name.as_bytes()) }
}

pub(crate) fn run_id(seed: &str) -> RunId {
    RunId::derived("1997-01-01T00:00:00Z".parse().unwrap(), seed.as_bytes())
}

/// `feed → ingest → prices → train`.
pub(crate) fn pipeline() -> Pipeline {
    let mut p = Pipeline::builder("prices").code(CodeIdentity::declared("v1"));
    let rate = p.value("rate", 0.5);
    let rows = p.step("ingest", (), |ctx, ()| async move {
        ctx.reads(&dataset("feed"));
        ctx.writes(&dataset("prices"));
        Ok(dataset("prices"))
    });
    p.step("train", (rows, rate), |ctx, (rows, rate)| async move {
        ctx.reads(&rows);
        Ok(rate)
    });
    p.build().unwrap()
}
