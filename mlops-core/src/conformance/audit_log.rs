//! The cases of [`audit_log_conformance!`](crate::audit_log_conformance).

use futures::TryStreamExt;
use futures::future::join_all;

use crate::audit::{AuditEvent, AuditLog, AuditLogExt, export, verify_export};
use crate::clock::from_micros;

fn event(n: i64) -> AuditEvent {
    AuditEvent::new(from_micros(n), "ana", "version.create", format!("model prices/{n}"))
}

/// An empty log is a whole chain.
pub async fn an_empty_log_verifies(log: &dyn AuditLog) {
    assert_eq!(log.verify().await.unwrap().unwrap().entries, 0, "{log}");
    assert!(log.entries(1, 10).await.unwrap().is_empty(), "{log}");
}

/// Contract: ascending places without gaps, pages included.
pub async fn entries_come_back_in_order(log: &dyn AuditLog) {
    for n in 1..=7 {
        assert_eq!(log.append(event(n)).await.unwrap().seq, n as u64, "{log}");
    }
    let seqs = |entries: Vec<crate::audit::AuditEntry>| entries.iter().map(|e| e.seq).collect::<Vec<_>>();
    assert_eq!(seqs(log.entries(3, 2).await.unwrap()), [3, 4], "{log}");
    assert_eq!(seqs(log.entries(6, 100).await.unwrap()), [6, 7], "{log}");
    assert_eq!(log.verify().await.unwrap().unwrap().entries, 7, "{log}");
}

/// Contract: concurrent appends get distinct places, and the chain holds.
pub async fn concurrent_appends_get_distinct_places(log: &dyn AuditLog) {
    let appended = join_all((0..25).map(|n| log.append(event(n)))).await;
    let mut seqs: Vec<u64> = appended.into_iter().map(|e| e.unwrap().seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=25).collect::<Vec<_>>(), "{log}");
    assert_eq!(log.verify().await.unwrap().unwrap().entries, 25, "{log}");
}

/// Actor, action, resource, before, after, reason and time come back as they were given.
pub async fn everything_about_an_event_is_kept(log: &dyn AuditLog) {
    let before = serde_json::json!({"version": 1, "share": 0.1, "names": ["ß", "\u{0}", "\""]});
    let event = event(1).change(before, serde_json::json!(null)).because("it was worse\nby far");
    let entry = log.append(event.clone()).await.unwrap();
    assert_eq!(log.entries(1, 1).await.unwrap(), std::slice::from_ref(&entry), "{log}");
    assert_eq!(entry.event, event, "{log}");
}

/// Contract: an event equal in every field is the one that is there.
pub async fn a_repeated_append_adds_nothing(log: &dyn AuditLog) {
    let first = log.append(event(1)).await.unwrap();
    log.append(event(2)).await.unwrap();
    assert_eq!(log.append(event(1)).await.unwrap(), first, "{log}");
    assert_eq!(log.append(event(1).because("another reason")).await.unwrap().seq, 3, "{log}");
    assert_eq!(log.verify().await.unwrap().unwrap().entries, 3, "{log}");
}

/// Contract: a page holds as many as there are up to its limit, and one past the end is empty.
pub async fn pages_of_any_size_join_up(log: &dyn AuditLog) {
    for n in 1..=11 {
        log.append(event(n)).await.unwrap();
    }
    let all = log.entries(1, 100).await.unwrap();
    assert_eq!(log.all_entries().await.unwrap(), all, "{log}");
    for size in 1..=12 {
        let mut joined = Vec::new();
        loop {
            let page = log.entries(joined.len() as u64 + 1, size).await.unwrap();
            assert!(page.len() == size || joined.len() + page.len() == 11, "{log}: a page of {size} is full");
            if page.is_empty() {
                break;
            }
            joined.extend(page);
        }
        assert_eq!(joined, all, "{log}: pages of {size}");
    }
    assert_eq!(log.entries(0, 1).await.unwrap(), all[..1], "{log}");
    assert!(log.entries(1, 0).await.unwrap().is_empty(), "{log}");
    for past in [12, u64::from(u32::MAX), u64::MAX] {
        assert!(log.entries(past, 10).await.unwrap().is_empty(), "{log}: {past}");
    }
}

/// Text of a megabyte and of any script comes back, and the chain holds over it.
pub async fn long_and_foreign_text_is_kept(log: &dyn AuditLog) {
    let texts =
        ["x".repeat(1 << 20), "日本語 ß 👩‍🔬 \u{202e}\u{10ffff} e\u{301}".into(), "'; DROP TABLE audit_log; --".into()];
    for (n, text) in texts.iter().enumerate() {
        let at = from_micros(n as i64);
        let new =
            AuditEvent::new(at, text, text, text).because(text).change(text.as_str().into(), text.as_str().into());
        let entry = log.append(new.clone()).await.unwrap();
        assert_eq!(entry.event, new, "{log}");
        assert_eq!(log.entries(n as u64 + 1, 1).await.unwrap(), [entry], "{log}");
    }
    assert_eq!(log.verify().await.unwrap().unwrap().entries, 3, "{log}");
}

/// Contract: of concurrent appends of one event, one adds it and all give it.
pub async fn concurrent_repeats_are_one_entry(log: &dyn AuditLog) {
    let appended = join_all((0..20).map(|n| log.append(event(n % 4)))).await;
    let entries: Vec<_> = appended.into_iter().map(|e| e.unwrap()).collect();
    for entry in &entries {
        assert!(entries.iter().all(|e| e.event != entry.event || e == entry), "{log}");
    }
    assert_eq!(log.verify().await.unwrap().unwrap().entries, 4, "{log}");
}

/// What `export` gives is what `verify_export` accepts, over several pages.
pub async fn exports_verify(log: &dyn AuditLog) {
    for n in 1..=300 {
        log.append(event(n).change(serde_json::json!(null), serde_json::json!({"share": 0.1, "n": n}))).await.unwrap();
    }
    let lines: Vec<String> = export(log).try_collect().await.unwrap();
    assert_eq!(lines.len(), 301, "{log}: an entry a line, and the end");
    let summary = verify_export(lines.concat().as_bytes()).unwrap().unwrap();
    assert_eq!(summary, log.verify().await.unwrap().unwrap(), "{log}");
}
