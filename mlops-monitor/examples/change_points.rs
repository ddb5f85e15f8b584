//! Runs change detectors over streams in files.
//!
//!     echo '{"config": {"method": "adwin"}, "file": "errors.f64"}' | cargo run --release --example change_points
//!
//! Each line of the input is a request: a [`DetectorConfig`], a file of little-endian doubles, and how many `passes` to make
//! with a fresh detector each (default 1). Each line of the output has the rows at which changes were reported, where
//! they began, the number of warnings, and the nanoseconds an update took in the fastest pass.

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use mlops_monitor::change::{ChangeDetector, DetectorConfig, State};
use serde::Deserialize;

#[derive(Deserialize)]
struct Request {
    config: DetectorConfig,
    file: PathBuf,
    #[serde(default = "one")]
    passes: u32,
}

fn one() -> u32 {
    1
}

fn answer(request: Request) -> Result<serde_json::Value, Box<dyn Error>> {
    let bytes = std::fs::read(&request.file)?;
    let rows: Vec<f64> =
        bytes.chunks_exact(8).map(|x| x.try_into().map(f64::from_le_bytes)).collect::<Result<_, _>>()?;
    let mut detector = request.config.clone().build()?;
    let (mut changes, mut began, mut warnings) = (Vec::new(), Vec::new(), 0_u64);
    for (i, x) in rows.iter().enumerate() {
        match detector.update(*x)? {
            State::Stable => {}
            State::Warning => warnings += 1,
            State::Change => {
                changes.push(i);
                began.push(detector.changed_at());
            }
        }
    }
    let mut fastest = f64::INFINITY;
    for _ in 0..request.passes {
        let mut detector = request.config.clone().build()?;
        let start = Instant::now();
        for x in &rows {
            black_box(detector.update(black_box(*x))?);
        }
        fastest = fastest.min(start.elapsed().as_nanos() as f64 / rows.len() as f64);
    }
    Ok(serde_json::json!({ "changes": changes, "began": began, "warnings": warnings, "ns": fastest }))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        writeln!(out, "{}", answer(serde_json::from_str(&line?)?)?)?;
        out.flush()?;
    }
    Ok(())
}
