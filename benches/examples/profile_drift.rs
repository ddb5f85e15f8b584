//! Profiles two Arrow IPC files batch by batch and compares them; the side of ours in `benches/peers/drift.py`.
//!
//!     profile_drift REFERENCE LIVE
//!
//! Prints one JSON object: seconds of reading alone, of profiling and of comparing, and the peak of resident bytes.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::time::Instant;

use arrow::ipc::reader::FileReader;
use mlops_monitor::drift::profiles::ProfileCheck;
use mlops_monitor::drift::{Choice, Family, Method, MethodTable};
use mlops_monitor::profile::{Profile, ProfileBuilder};

fn read(path: &str) -> FileReader<File> {
    FileReader::try_new(File::open(path).unwrap(), None).unwrap()
}

fn profile(path: &str, builder: &ProfileBuilder) -> Profile {
    let reader = read(path);
    let mut profile = builder.build(&reader.schema()).unwrap();
    for batch in reader {
        profile.update(&batch.unwrap()).unwrap();
    }
    profile
}

fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn main() {
    let mut paths = std::env::args().skip(1);
    let (reference, live) = (paths.next().unwrap(), paths.next().unwrap());
    let start = Instant::now();
    let rows: usize = [&reference, &live].iter().flat_map(|path| read(path)).map(|b| b.unwrap().num_rows()).sum();
    let reading = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let training = profile(&reference, &Profile::builder());
    let seen = profile(&live, &Profile::builder().against(&training));
    let profiling = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let mut effects = Vec::new();
    for method in [Method::Psi, Method::KolmogorovSmirnov, Method::JensenShannon] {
        let categories = if method == Method::KolmogorovSmirnov { Method::LInfinity } else { method };
        let table = MethodTable::empty().rule(Family::Numbers, 0, Choice::new(method, 0.1)).rule(
            Family::Categories,
            0,
            Choice::new(categories, 0.1),
        );
        let drift = ProfileCheck::default().methods(table).compare(&training, &seen).unwrap();
        effects.push((method.to_string(), drift.columns[0].score.statistic, drift.drifted().len()));
    }
    let comparing = start.elapsed().as_secs_f64();
    let out = serde_json::json!({
        "what": "ours", "rows": rows, "reading": reading, "profiling": profiling, "comparing": comparing,
        "seconds": profiling + comparing, "peak": peak(), "first column and drifted": effects,
    });
    println!("{out}");
}
