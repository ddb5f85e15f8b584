//! The audit log: any single edit of an exported file is found at its line, and checkpoints see what the chain cannot.

use futures::TryStreamExt;
use mlops_core::audit::{AuditEntry, AuditEvent, AuditLog, GENESIS, MemoryAuditLog, export, verify_export};
use mlops_core::clock::from_micros;
use mlops_core::{Digest, json};
use proptest::prelude::*;
use serde_json::{Value, json};

fn exported(events: Vec<AuditEvent>) -> Vec<String> {
    futures::executor::block_on(async {
        let log = MemoryAuditLog::default();
        for event in events {
            log.append(event).await.unwrap();
        }
        export(&log).try_collect().await.unwrap()
    })
}

fn event() -> impl Strategy<Value = AuditEvent> {
    let value = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        (-1e300f64..1e300).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        prop::collection::hash_map(".{0,4}", any::<u64>().prop_map(Value::from), 0..4)
            .prop_map(|m| Value::Object(m.into_iter().collect())),
    ];
    let micros = -62_000_000_000_000_000_i64..250_000_000_000_000_000;
    (micros, ".{0,6}", "[a-z.]{1,9}", ".{0,9}", value.clone(), value, ".{0,9}").prop_map(
        |(at, actor, action, resource, before, after, reason)| {
            AuditEvent::new(from_micros(at), actor, action, resource).change(before, after).because(reason)
        },
    )
}

/// The line with another value in one of its fields.
fn forge(line: &str, field: usize) -> String {
    let mut entry: Value = serde_json::from_str(line).unwrap();
    let (name, value) = [
        ("seq", json!(entry["seq"].as_u64().unwrap() + 1)),
        ("at", json!("2031-01-01T00:00:00Z")),
        ("actor", json!("somebody else entirely")),
        ("action", json!("another.action.than.that")),
        ("resource", json!("some other resource")),
        ("before", json!({"forged": true})),
        ("after", json!({"forged": true})),
        ("reason", json!("a reason nobody gave")),
        ("previous", json!(Digest::of(b"forged"))),
        ("digest", json!(Digest::of(b"forged"))),
        ("unknown", json!(1)),
    ][field]
        .clone();
    entry[name] = value;
    json::canonical(&entry) + "\n"
}

proptest! {
    #[test]
    fn any_single_edit_of_an_export_is_found_at_its_line(
        events in prop::collection::vec(event(), 1..12),
        (at, other, what, field) in (0usize..12, 0usize..12, 0usize..10, 0usize..11),
        cut in 1usize..40,
    ) {
        let lines = exported(events);
        let entries = lines.len() - 1;
        prop_assert_eq!(verify_export(lines.concat().as_bytes()).unwrap().unwrap().entries, entries as u64);
        let (at, other) = (at % entries, other % entries);
        let mut edited = lines.clone();
        let expected = match what {
            0 | 1 => { edited[at] = forge(&lines[at], field); at }
            2 => { edited.remove(at); at }
            3 if at != other => { edited.swap(at, other); at.min(other) }
            4 => { edited.insert(at, lines[at].clone()); at + 1 }
            5 => { edited.truncate(at); at }
            6 => { edited.pop(); entries }
            7 => {
                // Cut off inside a line.
                edited.truncate(at + 1);
                let text = edited[at].clone();
                let keep = (0..text.len()).rev().filter(|&i| text.is_char_boundary(i)).nth(cut % text.chars().count()).unwrap();
                edited[at].truncate(keep);
                at
            }
            8 => { edited.push(lines[at].clone()); entries + 1 }
            _ => { edited[at].insert(1, ' '); at }
        };
        let fault = verify_export(edited.concat().as_bytes()).unwrap().unwrap_err();
        prop_assert_eq!(fault.line, expected as u64 + 1, "{}: {:?}", fault, edited);
    }

    #[test]
    fn garbage_is_a_fault_and_not_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(verify_export(&bytes[..]).unwrap().is_err());
    }
}

#[test]
fn an_empty_export_has_its_end_and_nothing_less_will_do() {
    let lines = exported(Vec::new());
    assert_eq!(lines, [format!("{{\"entries\":0,\"head\":\"{GENESIS}\"}}\n")]);
    assert_eq!(verify_export(lines[0].as_bytes()).unwrap().unwrap().entries, 0);
    let fault = verify_export(&b""[..]).unwrap().unwrap_err();
    assert_eq!(fault.to_string(), "line 1 of the audit export: the file ends before the line that ends an export");
}

#[test]
fn a_resealed_entry_breaks_at_the_next_line() {
    let event = |n| AuditEvent::new(from_micros(n), "ana", "run.start", format!("run {n}"));
    let mut lines = exported((0..4).map(event).collect());
    let entry: AuditEntry = serde_json::from_str(&lines[1]).unwrap();
    let forged = AuditEntry::seal(2, event(9), entry.previous).unwrap();
    lines[1] = json::to_canonical(&forged).unwrap() + "\n";
    assert_eq!(verify_export(lines.concat().as_bytes()).unwrap().unwrap_err().line, 3);
}

#[cfg(feature = "audit-proofs")]
mod proofs {
    use std::time::Duration;

    use mlops_core::audit::{
        Checkpoint, CheckpointKey, CheckpointSigner, Checkpointer, Checkpoints, ConsistencyProof, InclusionProof,
        LogFault, prove_consistency, prove_inclusion, verify_export_against, verify_log,
    };
    use mlops_core::store::{ArtifactStore, ArtifactStoreExt, MemoryStore, PutMode};
    use mlops_core::{Error, ManualClock};

    use super::*;

    fn signer() -> CheckpointSigner {
        CheckpointSigner::from_seed("example.com/audit", &[7; 32]).unwrap()
    }

    fn event(n: u64) -> AuditEvent {
        AuditEvent::new(from_micros(n as i64), "ana", "run.start", format!("run {n}"))
    }

    async fn filled(entries: u64, every: u64) -> (Checkpointer<MemoryAuditLog>, MemoryStore) {
        let store = MemoryStore::default();
        let log = Checkpointer::builder(MemoryAuditLog::default(), signer(), store.clone()).entries(every);
        let log = log.open().await.unwrap();
        for n in 1..=entries {
            log.append(event(n)).await.unwrap();
        }
        (log, store)
    }

    /// A log whose entries are the first `keep` of that one's and then others, sealed anew.
    async fn rewritten(log: &impl AuditLog, keep: u64, others: u64) -> MemoryAuditLog {
        let forged = MemoryAuditLog::default();
        for entry in log.entries(1, keep as usize).await.unwrap() {
            forged.append(entry.event).await.unwrap();
        }
        for n in 1..=others {
            forged.append(event(1_000 + n)).await.unwrap();
        }
        forged
    }

    mlops_core::audit_log_conformance!(checkpointed, {
        let log = Checkpointer::builder(MemoryAuditLog::default(), signer(), MemoryStore::default()).entries(3);
        (log.open().await.unwrap(), ())
    });

    #[tokio::test]
    async fn a_checkpoint_is_made_each_so_many_entries() {
        let (log, store) = filled(23, 5).await;
        assert_eq!(log.checkpoints().sizes().await.unwrap(), [5, 10, 15, 20]);
        assert_eq!(store.list("audit/").await.unwrap()[0].key, "audit/checkpoints/00000000000000000005");
        assert_eq!(log.checkpoint().await.unwrap().unwrap().entries(), 23);
        assert_eq!(log.checkpoint().await.unwrap().unwrap().entries(), 23, "nothing new, the same again");
        assert_eq!(verify_log(&log, log.checkpoints().all().await.unwrap()).await.unwrap().unwrap().entries, 23);
    }

    #[tokio::test]
    async fn a_checkpoint_is_made_each_so_long() {
        let clock = ManualClock::at(from_micros(0));
        let log = Checkpointer::builder(MemoryAuditLog::default(), signer(), MemoryStore::default());
        let log = log.every(Duration::from_secs(60)).clock(clock.clone()).open().await.unwrap();
        assert_eq!(log.checkpoint().await.unwrap(), None, "an empty log has no checkpoint");
        log.append(event(1)).await.unwrap();
        clock.advance(Duration::from_secs(59));
        log.append(event(2)).await.unwrap();
        assert!(log.checkpoints().sizes().await.unwrap().is_empty());
        clock.advance(Duration::from_secs(1));
        log.append(event(3)).await.unwrap();
        log.append(event(4)).await.unwrap();
        assert_eq!(log.checkpoints().sizes().await.unwrap(), [3]);
        assert_eq!(log.checkpoints().of(3).await.unwrap().at(), from_micros(60_000_000));
    }

    #[tokio::test]
    async fn the_format_is_that_of_signed_notes() {
        let (log, _) = filled(3, 3).await;
        let checkpoint = log.checkpoints().of(3).await.unwrap();
        let lines: Vec<&str> = checkpoint.note().split('\n').collect();
        assert_eq!(lines[..2], ["example.com/audit", "3"]);
        assert_eq!(lines[2], checkpoint.root().to_string());
        assert!(
            lines[6].is_empty() && lines[7].starts_with("— example.com/audit ") && lines[8].is_empty(),
            "{lines:?}"
        );
        // The key of the example in Go's `golang.org/x/mod/sumdb/note`, whose id it states.
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let peter: CheckpointKey = text.parse().unwrap();
        assert_eq!((peter.name(), peter.to_string().as_str()), ("PeterNeumann", text));
        for bad in ["", "a+b", "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", &text[1..]] {
            assert!(bad.parse::<CheckpointKey>().is_err(), "{bad:?}");
        }
        // Its signed text: another's note, signed well, is told from one of ours.
        let note = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n\n\
                    — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        let error = Checkpoint::read(note, &peter).unwrap_err().to_string();
        assert_eq!(error, "invalid checkpoint: it is signed, and not by this crate");
    }

    #[tokio::test]
    async fn a_note_changed_in_any_byte_is_refused() {
        let (log, _) = filled(5, 5).await;
        let note = log.checkpoints().of(5).await.unwrap().note().to_owned();
        let key = signer().key().clone();
        let witnessed = format!("{note}— witness.example.org AAAAAAAA\n");
        assert_eq!(Checkpoint::read(&witnessed, &key).unwrap().entries(), 5, "others may sign beside");
        for place in (0..note.len()).step_by(3) {
            let mut bytes = note.clone().into_bytes();
            bytes[place] ^= 1;
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(Checkpoint::read(&text, &key).is_err(), "byte {place}: {text}");
            }
            assert!(
                note.is_char_boundary(place).then(|| Checkpoint::read(&note[..place], &key)).is_none_or(|r| r.is_err())
            );
        }
        let mallory = CheckpointSigner::from_seed("example.com/audit", &[8; 32]).unwrap();
        assert!(Checkpoint::read(&note, mallory.key()).is_err());
        let elsewhere = CheckpointSigner::from_seed("example.com/other", &[7; 32]).unwrap();
        assert!(Checkpoint::read(&note, elsewhere.key()).is_err(), "same key, another log");
        assert!(!format!("{:?}", signer()).contains("7, 7"), "the secret is not shown");
        for bad in ["", "a b", "a+b", "a\n"] {
            assert!(CheckpointSigner::from_seed(bad, &[7; 32]).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn what_the_chain_cannot_see_is_found_and_the_checkpoint_named() {
        let (log, _) = filled(23, 5).await;
        let checkpoints = log.checkpoints().all().await.unwrap();
        let find = async |forged: &MemoryAuditLog| verify_log(forged, checkpoints.clone()).await.unwrap().unwrap_err();

        for keep in 0..20 {
            let cut = rewritten(&log, keep, 0).await;
            let (trusted, signed) = (keep / 5 * 5, keep / 5 * 5 + 5);
            assert_eq!(find(&cut).await, LogFault::CutOff { seq: keep + 1, signed, trusted }, "cut at {keep}");
            let anew = rewritten(&log, keep, 30).await;
            assert_eq!(
                find(&anew).await,
                LogFault::Rewritten { seq: trusted + 1, signed, trusted },
                "anew from {keep}"
            );
        }
        // Behind the last checkpoint only the chain speaks.
        let beyond = rewritten(&log, 20, 4).await;
        assert_eq!(verify_log(&beyond, checkpoints.clone()).await.unwrap().unwrap().entries, 24);
        let file: String = export(&rewritten(&log, 12, 30).await).try_collect().await.unwrap();
        assert_eq!(verify_export(file.as_bytes()).unwrap().unwrap().entries, 42, "whole in itself");
        let fault = verify_export_against(file.as_bytes(), checkpoints.clone()).unwrap().unwrap_err();
        assert_eq!(fault.line, 11, "{fault}");
        let file: String = export(&log).try_collect().await.unwrap();
        assert_eq!(verify_export_against(file.as_bytes(), checkpoints).unwrap().unwrap().entries, 23);
    }

    #[tokio::test]
    async fn proofs_convince_offline_and_no_others_do() {
        let (log, _) = filled(23, 5).await;
        let checkpoints = log.checkpoints().all().await.unwrap();
        let entries = log.entries(1, 100).await.unwrap();
        for checkpoint in &checkpoints {
            for entry in &entries[..checkpoint.entries() as usize] {
                let proof = prove_inclusion(&log, entry.seq, checkpoint.entries()).await.unwrap();
                let proof: InclusionProof = serde_json::from_str(&serde_json::to_string(&proof).unwrap()).unwrap();
                proof.verify(entry, checkpoint).unwrap();
                let mut forged = entry.event.clone();
                forged.actor = "bob".into();
                let forged = AuditEntry::seal(entry.seq, forged, entry.previous).unwrap();
                assert!(proof.verify(&forged, checkpoint).is_err());
                let mut edited = entry.clone();
                edited.event.actor = "bob".into();
                assert!(proof.verify(&edited, checkpoint).unwrap_err().to_string().contains("its digest"));
                assert!(proof.verify(&entries[entry.seq as usize], checkpoint).is_err(), "another entry");
            }
            for old in checkpoints.iter().filter(|c| c.entries() <= checkpoint.entries()) {
                let proof = prove_consistency(&log, old.entries(), checkpoint.entries()).await.unwrap();
                let proof: ConsistencyProof = serde_json::from_str(&serde_json::to_string(&proof).unwrap()).unwrap();
                proof.verify(old, checkpoint).unwrap();
            }
        }
        assert!(prove_inclusion(&log, 0, 5).await.is_err());
        assert!(prove_inclusion(&log, 6, 5).await.is_err());
        assert!(prove_inclusion(&log, 1, 24).await.is_err(), "longer than the log");
        assert!(prove_consistency(&log, 0, 5).await.is_err());

        // Somebody with the key and the log writes a branch of history and signs it: no proof joins it to the old one.
        let branch = rewritten(&log, 8, 12).await;
        let branch = Checkpointer::builder(branch, signer(), MemoryStore::default()).open().await.unwrap();
        let signed = branch.checkpoint().await.unwrap().unwrap();
        let proof = prove_consistency(&branch, 10, 20).await.unwrap();
        assert!(proof.verify(&checkpoints[1], &signed).is_err());
        prove_consistency(&branch, 5, 20).await.unwrap().verify(&checkpoints[0], &signed).unwrap();
    }

    #[tokio::test]
    async fn a_restart_goes_on_from_the_last_checkpoint_and_refuses_a_log_that_does_not_follow() {
        let (log, store) = filled(12, 5).await;
        let reopened = Checkpointer::builder(rewritten(&log, 12, 0).await, signer(), store.clone()).entries(5);
        let reopened = reopened.open().await.unwrap();
        for n in 13..=16 {
            reopened.append(event(n)).await.unwrap();
        }
        assert_eq!(reopened.checkpoints().sizes().await.unwrap(), [5, 10, 15]);
        assert_eq!(
            verify_log(&reopened, reopened.checkpoints().all().await.unwrap()).await.unwrap().unwrap().entries,
            16
        );

        let forged = Checkpointer::builder(rewritten(&log, 7, 20).await, signer(), store.clone()).open().await.unwrap();
        let error = forged.checkpoint().await.unwrap_err();
        assert!(matches!(error, Error::InvalidInput { .. }), "{error}");
        assert!(forged.failure().unwrap().contains("entry 16"), "{error}");
        assert_eq!(forged.append(event(99)).await.unwrap().seq, 28, "an entry is kept all the same");

        let stranger = CheckpointSigner::from_seed("example.com/audit", &[9; 32]).unwrap();
        assert!(Checkpointer::builder(MemoryAuditLog::default(), stranger, store).open().await.is_err());
    }

    #[tokio::test]
    async fn two_checkpointers_agree_and_two_histories_are_a_conflict() {
        let (log, store) = filled(7, 5).await;
        let again = Checkpointer::builder(rewritten(&log, 7, 0).await, signer(), store.clone()).open().await.unwrap();
        let (a, b) = (log.checkpoint().await.unwrap(), again.checkpoint().await.unwrap());
        assert_eq!(a.map(|c| c.root()), b.map(|c| c.root()));
        assert_eq!(log.checkpoints().sizes().await.unwrap(), [5, 7]);

        let fresh = Checkpoints::new(MemoryStore::default(), signer().key().clone());
        let branch = Checkpointer::builder(rewritten(&log, 3, 4).await, signer(), MemoryStore::default());
        let branch = branch.open().await.unwrap().checkpoint().await.unwrap().unwrap();
        fresh.keep(log.checkpoints().of(7).await.unwrap()).await.unwrap();
        let error = fresh.keep(branch).await.unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_checkpoint_under_anothers_size_is_refused() {
        let (log, store) = filled(5, 5).await;
        let note = log.checkpoints().of(5).await.unwrap().note().to_owned();
        store.put("audit/checkpoints/00000000000000000009", note.into()).await.unwrap();
        assert!(log.checkpoints().of(9).await.is_err());
        store.put_opts("audit/checkpoints/x", "".into(), PutMode::Create).await.unwrap();
        assert!(log.checkpoints().all().await.is_err());
    }
}
