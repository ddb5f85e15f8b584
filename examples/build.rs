//! Tells the programs which commit and compiler they were built from.

use std::process::Command;

fn main() {
    let output = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    if let Some(commit) = output("git", &["rev-parse", "HEAD"]) {
        println!("cargo:rustc-env=GIT_COMMIT={commit}");
        let dirty = output("git", &["status", "--porcelain", "--untracked-files=no"]).is_none_or(|s| !s.is_empty());
        println!("cargo:rustc-env=GIT_DIRTY={dirty}");
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    if let Some(version) = output(&rustc, &["--version"]) {
        println!("cargo:rustc-env=RUSTC_VERSION={version}");
    }
    println!("cargo:rerun-if-changed=src");
    for member in ["core", "registry", "monitor", "serve", "pipeline"] {
        println!("cargo:rerun-if-changed=../mlops-{member}/src");
    }
    println!("cargo:rerun-if-changed=../Cargo.lock");
    for path in ["../.git/HEAD", "../.git/logs/HEAD", "../.git/index"] {
        if std::path::Path::new(path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}
