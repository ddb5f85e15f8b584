//! `lifecycle --quick` as a user runs it: the story happens, repeats, and survives being killed.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mlops_core::audit::{AuditLogExt, Checkpoints, verify_log};
use mlops_core::conformance::OpenLineageSchemas;
use mlops_core::lineage::{EventFile, LineageStoreExt, MemoryLineage, NodeRef, StoreTransport, Transport};
use mlops_core::store::LocalStore;
use mlops_core::{DatasetRef, ModelRef, ModelSource, Verdict};
use mlops_examples::lifecycle::{ALIAS, LINEAGE_FILE, MODEL, Summary};
use mlops_registry::{ModelRegistry, SqlRegistry};

fn lifecycle(out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifecycle"));
    command.arg("--quick").arg("--out").arg(out).env("RAYON_NUM_THREADS", "1");
    command
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn summary(out: &Path) -> Summary {
    serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap()
}

/// The table on screen, without the trace, which ends with a measured time.
fn table(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).split("\nprediction ").next().unwrap().to_owned()
}

#[tokio::test]
async fn the_story_happens_and_is_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&mut lifecycle(dir.path()));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let s = summary(dir.path());

    assert!(told.contains("refused: ana may not review"), "nobody approves their own model");
    assert!(told.contains("refused: elec2 v1 may not become champion yet: 0 of 1 approvals"), "{told}");

    let planted: Vec<_> = s.attempts.iter().filter(|a| a.why.starts_with("planted")).collect();
    let [shuffled, leaking] = planted[..] else { panic!("two faults are planted: {planted:?}") };
    assert_eq!((shuffled.gates, shuffled.version), (Verdict::Fail, None), "{shuffled:?}");
    assert!(shuffled.outcome.starts_with("stopped by gate challenger"), "{shuffled:?}");
    assert_eq!(leaking.gates, Verdict::Pass, "a leak looks fine on held-out rows: {leaking:?}");
    assert!(leaking.outcome.starts_with("rolled back in canary"), "{leaking:?}");
    assert_ne!(leaking.version, Some(s.champion));

    assert!(!s.alerts.is_empty() && s.retrainings > 0, "an alert leads to retraining");
    assert_eq!(s.scores.total[0].n, 3_187, "every request was answered and scored");
    assert_eq!(s.unhealthy, [0, 0, 0]);
    let monitored = s.scores.total[0].accuracy();
    let [_, _, day_old, _, majority] = s.scores.total.map(|t| t.accuracy());
    assert!(monitored > 0.75 && monitored > day_old && monitored > majority, "{monitored}");

    for kind in ["model elec2/", "run ", "dataset elec2-train@", "dataset elec2@"] {
        assert!(s.origins.iter().any(|o| o.starts_with(kind)), "{kind} in {:?}", s.origins);
    }
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    for fact in
        ["lock_file: ", "toolchain: rustc", "seed: ", "audit chain of ", "under a checkpoint signed by ", LINEAGE_FILE]
    {
        assert!(printed.contains(fact), "{fact} in {printed}");
    }

    // The record agrees with the story.
    let store = LocalStore::open(dir.path().join("store")).unwrap();
    let registry = SqlRegistry::builder().artifacts(store.clone());
    let registry = registry.open_sqlite(dir.path().join("registry.db")).await.unwrap();
    assert_eq!(registry.verify().await.unwrap().unwrap().entries, s.checked.audit_entries);
    let champion = registry.resolve(&ModelRef::alias(MODEL, ALIAS)).await.unwrap();
    assert_eq!(champion.version, s.champion);
    registry.package(&champion).await.unwrap();
    let entries = registry.all_entries().await.unwrap();
    let did = |action: &str| entries.iter().filter(|e| e.event.action == action).count();
    let moves = s.promotions.iter().filter(|(_, state, ..)| state == "promoted").count();
    assert_eq!(did("alias.move"), moves);
    assert!(did("deployment.split") >= 4, "shadow, canary and rollback of the leaking version, and more");
    for (version, _, asked, approved) in &s.promotions {
        assert!(!approved.is_empty() && !approved.contains(asked), "v{version} was approved by somebody else");
    }
    let rejected = registry.promotions(MODEL).await.unwrap();
    let rejected = rejected.iter().find(|p| Some(p.version) == leaking.version).unwrap();
    assert!(rejected.to_string().contains("worse than the champion"), "{rejected}");

    // Others can check it with the public key and the file of events.
    let checkpoints = Checkpoints::new(store, s.checked.signed_by.parse().unwrap()).all().await.unwrap();
    assert_eq!(
        checkpoints.last().unwrap().entries(),
        s.checked.audit_entries,
        "nothing came after the last checkpoint"
    );
    assert_eq!(verify_log(&registry, checkpoints).await.unwrap().unwrap().entries, s.checked.audit_entries);
    assert!(did("dataset.commit") >= 3 * s.attempts.len(), "each attempt has its rows, cut in two");
    let told = EventFile::read(dir.path().join(LINEAGE_FILE)).unwrap();
    assert!(told.broken.is_empty());
    OpenLineageSchemas::new().check(&told.events);
    let graph = MemoryLineage::default();
    let into = StoreTransport::new(graph.clone(), MODEL);
    for event in &told.events {
        into.send(event).await.unwrap();
    }
    let first = NodeRef::dataset(&DatasetRef { name: "elec2".into(), digest: s.attempts[0].dataset });
    assert_eq!(graph.models_of(&first).await.unwrap().models[0].node, NodeRef::model(MODEL, 1));
    let impact = graph.impact(&first).await.unwrap();
    assert_eq!(impact.deployments().map(|d| &d.node).collect::<Vec<_>>(), [&NodeRef::deployment("prices")]);
    assert!(impact.prediction_batches().count() > 0, "what the first model answered");
    let [datasets, models, deployments] = s.checked.lineage;
    assert_eq!((datasets, deployments), (3 * s.attempts.len(), 1));
    assert_eq!(models, s.attempts.iter().filter(|a| a.version.is_some()).count());

    let html = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(html.contains("under a checkpoint signed by mlops-examples/lifecycle+") && html.contains(LINEAGE_FILE));
    assert!(html.matches("<svg").count() >= 4, "accuracy, Brier, drift and traffic");
    assert!(!html.contains("<script src") && !html.contains("<link"), "self-contained");
}

#[test]
fn one_seed_gives_one_result_and_another_seed_another() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let first = run(&mut lifecycle(dirs[0].path()));
    let again = run(&mut lifecycle(dirs[1].path()));
    assert_eq!(table(&first), table(&again));
    assert_eq!(summary(dirs[0].path()), summary(dirs[1].path()));
    run(lifecycle(dirs[2].path()).args(["--seed", "8"]));
    assert_ne!(summary(dirs[0].path()).attempts[0].package, summary(dirs[2].path()).attempts[0].package);
}

/// Kills the program (SIGKILL) a little after it has told its n-th event, and resumes it, several times over.
#[test]
fn a_run_that_is_killed_and_resumed_ends_with_the_same_table() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let undisturbed = run(&mut lifecycle(dirs[0].path()));
    let out = dirs[1].path();
    let mut killed = 0;
    for (kill, (events, millis)) in
        [(1, 30), (12, 0), (16, 5), (5, 170), (9, 2), (4, 90), (8, 11), (12, 60)].into_iter().enumerate()
    {
        let mut command = lifecycle(out);
        if kill > 0 {
            command.arg("--resume");
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        // Read to the end, or the program would meet a broken pipe before it is killed.
        let reader = std::thread::spawn(move || stderr.lines().for_each(|line| drop(tell.send(line.unwrap()))));
        told.iter().take(events).for_each(drop);
        // Any moment will do; this only spreads them.
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        reader.join().unwrap();
        killed += usize::from(status.signal() == Some(9));
    }
    assert!(killed >= 4, "only {killed} of 8 runs were killed before their end");
    let resumed = run(lifecycle(out).arg("--resume"));
    assert_eq!(table(&undisturbed), table(&resumed));
    assert_eq!(summary(dirs[0].path()), summary(out));
    let once_more = run(lifecycle(out).arg("--resume"));
    assert_eq!(table(&undisturbed), table(&once_more), "resuming a run that has ended changes nothing");
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let refused = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    let message = refused(&mut lifecycle(dir.path()));
    assert!(message.contains("thesis.txt") && message.contains("--out"), "{message}");
    assert_eq!(std::fs::read_to_string(dir.path().join("thesis.txt")).unwrap(), "years of work");

    // Names like ours are not ours.
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("store")).unwrap();
    let message = refused(&mut lifecycle(dir.path()));
    assert!(message.contains("store") && dir.path().join("store").exists(), "{message}");

    let dir = tempfile::tempdir().unwrap();
    run(&mut lifecycle(dir.path()));
    let message = refused(lifecycle(dir.path()).args(["--resume", "--seed", "8"]));
    assert!(message.contains("--seed 7 --quick"), "{message}");
    std::fs::write(dir.path().join("state.json"), "{\"opt").unwrap();
    let message = refused(lifecycle(dir.path()).arg("--resume"));
    assert!(message.contains("state.json cannot be read"), "{message}");
}
