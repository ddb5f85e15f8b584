//! The README's program is `embed.rs`, and it runs.

use std::process::Command;

const README: &str = include_str!("../../../README.md");
const EMBED: &str = include_str!("../../src/bin/embed.rs");

/// Words and signs, so that formatting does not count.
fn code(text: &str) -> String {
    text.split_whitespace().collect::<String>().replace(",)", ")")
}

#[test]
fn the_program_in_the_readme_is_the_one_that_runs() {
    let shown = README.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    let (uses, body): (Vec<&str>, Vec<&str>) = shown.lines().partition(|line| line.starts_with("use "));
    assert!(code(EMBED).contains(&code(&body.join("\n"))), "the README's program differs from embed.rs");
    for line in uses {
        assert!(code(EMBED).contains(&code(line)), "{line}");
    }
    let dir = tempfile::tempdir().unwrap();
    // Twice: what was registered stays, and is found again.
    for start in ["first", "second"] {
        let output = Command::new(env!("CARGO_BIN_EXE_embed")).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{start}: {}", String::from_utf8_lossy(&output.stderr));
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains(" by v1") && told.contains("1 answers watched"), "{start}: {told}");
    }
}
