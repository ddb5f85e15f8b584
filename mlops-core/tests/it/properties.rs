//! Laws that hold for every input.

use mlops_core::Digest;
use mlops_core::audit::{AuditEntry, AuditEvent, GENESIS, verify_chain};
use mlops_core::clock::from_micros;
use mlops_core::json::{canonical, to_canonical};
use mlops_core::store::check_key;
use mlops_core::{Measurement, ModelRef};
use proptest::prelude::*;
use serde_json::Value;

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e300f64..1e300).prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(".*", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn canonical_json_reads_back_equal_and_is_stable(value in json()) {
        let text = canonical(&value);
        let read: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(canonical(&read), text);
    }

    #[test]
    fn digests_read_back(bytes in any::<[u8; 32]>()) {
        let digest = Digest::from_bytes(bytes);
        prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn parsers_never_panic(text in ".*") {
        let _ = text.parse::<Digest>();
        let _ = text.parse::<ModelRef>();
        let _ = check_key(&text);
    }

    #[test]
    fn measurements_keep_every_float(value in any::<f64>()) {
        let text = to_canonical(&Measurement::new("x", value).with_interval(value, f64::INFINITY)).unwrap();
        let read: Measurement = serde_json::from_str(&text).unwrap();
        let same = |a: f64| a == value || (a.is_nan() && value.is_nan());
        prop_assert!(same(read.value) && same(read.interval.unwrap().0) && read.interval.unwrap().1 == f64::INFINITY);
    }

    #[test]
    fn any_single_edit_of_a_chain_is_found(n in 2u64..12, at in 0usize..12, what in 0usize..5) {
        let mut entries: Vec<AuditEntry> = Vec::new();
        for seq in 1..=n {
            let event = AuditEvent::new(from_micros(seq as i64), "ana", "act", "thing");
            let previous = entries.last().map_or(GENESIS, |e| e.digest);
            entries.push(AuditEntry::seal(seq, event, previous).unwrap());
        }
        prop_assert!(verify_chain(&entries).is_ok());
        let at = at % entries.len();
        match what {
            0 => entries[at].event.actor.push('x'),
            1 => entries[at].event.after = Value::from(1),
            2 => entries[at].event.at = from_micros(99),
            3 => entries[at].seq += 1,
            _ => entries[at].digest = Digest::of(b"other"),
        }
        prop_assert_eq!(verify_chain(&entries).unwrap_err().seq, at as u64 + 1);
    }
}
