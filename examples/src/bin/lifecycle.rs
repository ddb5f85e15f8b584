//! The whole life of a model on two and a half years of real electricity prices, in one process.

use std::path::PathBuf;

use clap::Parser;
use mlops_examples::lifecycle::{Options, run};

/// Train, gate, approve, serve, watch, retrain, roll out and roll back: the whole life of a model on a real stream.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where everything is written: registry, artifacts, predictions, report.html
    #[arg(long, value_name = "DIR", default_value = "target/lifecycle")]
    out: PathBuf,
    /// Fixes everything random; one seed, one result
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Replay a tenth of the stream
    #[arg(long)]
    quick: bool,
    /// Go on where a killed run was
    #[arg(long)]
    resume: bool,
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let Arguments { out, seed, quick, resume } = Arguments::parse();
    match run(Options { out, seed, quick, resume, show: true }).await {
        Ok(summary) => {
            println!("{summary}");
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because {error}");
                cause = error.source();
            }
            std::process::ExitCode::FAILURE
        }
    }
}
