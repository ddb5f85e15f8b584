//! Followers of the events, and copies of the file, while others write.

use std::time::Duration;

use futures::StreamExt as _;
use mlops_core::Role;
use mlops_core::audit::AuditLogExt as _;
use mlops_core::store::MemoryStore;
use mlops_registry::{Event, LogBatch, ModelRegistry, NewExperiment, NewModel, NewRun, TrackingStore};

use crate::{builder, in_file, in_memory, who};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_watch_gives_every_event_once_in_order_whoever_writes() {
    let (first, store, dir) = in_file().await;
    let second = builder(&store).poll_interval(Duration::from_millis(5));
    let second = second.open_sqlite(dir.path().join("registry.db")).await.unwrap();
    let ana = who("ana", Role::Contributor);
    let mut watch = second.watch(0);
    let follower = tokio::spawn(async move {
        let mut seen: Vec<Event> = Vec::new();
        while seen.len() < 120 {
            // Dropping the wait in the middle loses nothing.
            if let Ok(event) = tokio::time::timeout(Duration::from_micros(700), watch.next()).await {
                seen.push(event.unwrap());
                assert_eq!(watch.position(), seen.len() as u64);
            }
        }
        seen
    });
    for n in 0..60 {
        first.create_model(&ana, NewModel::new(format!("a{n}"))).await.unwrap();
        second.create_model(&ana, NewModel::new(format!("b{n}"))).await.unwrap();
    }
    let seen = tokio::time::timeout(Duration::from_secs(20), follower).await.unwrap().unwrap();
    assert_eq!(seen, first.events(0, 1_000).await.unwrap());
    // Where a watch stood, another goes on; as a stream too.
    let rest: Vec<u64> = first.watch(110).into_stream().take(10).map(|e| e.unwrap().seq).collect().await;
    assert_eq!(rest, (111..=120).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_poll_interval_out_of_range_is_refused() {
    for interval in [Duration::ZERO, Duration::MAX] {
        let error = builder(&MemoryStore::default()).poll_interval(interval).open_in_memory().await.unwrap_err();
        assert!(error.to_string().contains("poll interval"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_taken_while_others_write_opens_and_verifies() {
    let (registry, store, dir) = in_file().await;
    let ana = who("ana", Role::Contributor);
    registry.create_experiment(&ana, NewExperiment::new("e")).await.unwrap();
    let run = registry.start_run(&ana, NewRun::new("e")).await.unwrap().id();
    let writers: Vec<_> = (0..4_u64)
        .map(|w| {
            let (registry, ana) = (registry.clone(), ana.clone());
            tokio::spawn(async move {
                for i in 0.. {
                    let at = mlops_core::clock::from_micros(i);
                    let batch = LogBatch::new().metric(format!("m{w}"), 1.0, i, at).param(format!("p{w}-{i}"), i);
                    registry.log_batch(&ana, run, batch).await.unwrap();
                }
            })
        })
        .collect();
    let mut last = 0;
    for n in 0..5 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let before = registry.run(run).await.unwrap().params.len();
        let copy = dir.path().join(format!("copy-{n}.db"));
        registry.backup(&copy).await.unwrap();
        let taken = registry.backup(&copy).await.unwrap_err();
        assert!(matches!(taken, mlops_registry::Error::Core(mlops_core::Error::AlreadyExists { .. })), "{taken:?}");
        let copy = builder(&store).open_sqlite(&copy).await.unwrap();
        let kept = copy.run(run).await.unwrap();
        assert!(kept.params.len() >= before, "what was acknowledged before the copy is in it");
        // One moment: a batch is there with both its parts and its audit entry, or not at all.
        let mut points = 0;
        for w in 0..4 {
            points += copy.metric_history(run, &format!("m{w}")).await.unwrap().len();
        }
        assert_eq!(points, kept.params.len());
        assert_eq!(copy.verify().await.unwrap().unwrap().entries, 2 + points as u64);
        copy.create_model(&ana, NewModel::new("m")).await.unwrap();
        last = points;
    }
    assert!(last > 0);
    for writer in &writers {
        writer.abort();
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".part")), "{left:?}");
    let nowhere = registry.backup(dir.path().join("no/such/folder/copy.db")).await.unwrap_err();
    assert!(nowhere.to_string().contains("could not back up to"), "{nowhere}");
}

#[tokio::test]
async fn a_registry_in_memory_is_kept_by_its_backup() {
    let (registry, store) = in_memory().await;
    let dir = tempfile::tempdir().unwrap();
    registry.create_model(&who("ana", Role::Contributor), NewModel::new("m")).await.unwrap();
    registry.backup(dir.path().join("ke pt%20?#.db")).await.unwrap();
    let kept = builder(&store).open_sqlite(dir.path().join("ke pt%20?#.db")).await.unwrap();
    assert_eq!(kept.models().await.unwrap(), registry.models().await.unwrap());
}

/// PostgreSQL cannot keep the character, so no registry takes it, nor looks for it.
#[tokio::test]
async fn no_text_has_the_character_nul() {
    use mlops_core::audit::{AuditEvent, AuditLog as _};
    use mlops_core::lineage::{LineageStore as _, Node, NodeRef};
    let (registry, _store) = in_memory().await;
    let at = mlops_core::clock::from_micros(1);
    let invalid =
        |error: mlops_core::Error| assert!(matches!(error, mlops_core::Error::InvalidInput { .. }), "{error:?}");
    invalid(registry.append(AuditEvent::new(at, "a\0", "act", "thing")).await.unwrap_err());
    invalid(registry.append(AuditEvent::new(at, "a", "act", "thing").because("\0")).await.unwrap_err());
    let node = NodeRef { kind: NodeRef::model("m", 1).kind, id: "m\0/1".into() };
    invalid(registry.record(&[Node::new(node.clone())], &[]).await.unwrap_err());
    invalid(registry.upstream(&node, 1).await.unwrap_err());
    let odd = Node::new(NodeRef::model("m", 1)).fact("name", "a\0b");
    invalid(registry.record(&[odd], &[]).await.unwrap_err());
    invalid(registry.model("m\0").await.unwrap_err().into());
    let long = NodeRef { id: "x".repeat(1_201), ..node };
    invalid(registry.record(&[Node::new(long)], &[]).await.unwrap_err());
    // What is quoted in JSON is no character of the text.
    let event = AuditEvent::new(at, "a", "act", "thing").change("a\0b".into(), serde_json::Value::Null);
    assert_eq!(registry.append(event.clone()).await.unwrap().event, event);
    assert_eq!(registry.verify().await.unwrap().unwrap().entries, 1);
}
