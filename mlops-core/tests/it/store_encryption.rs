//! Encryption: nothing leaks, nothing that was changed is read.

use bytes::Bytes;
use mlops_core::store::{ArtifactStore, EncryptedStore, EncryptionKey, KeyRing, LocalStore, MemoryStore, PutMode};
use mlops_core::{ArtifactStoreExt, Error};

use super::probe::Dice;

fn key(seed: u8) -> EncryptionKey {
    EncryptionKey::from_bytes([seed; 32])
}

fn encrypted<S: ArtifactStore>(inner: S) -> EncryptedStore<S> {
    EncryptedStore::new(inner, KeyRing::new("2026", key(1)))
}

mlops_core::artifact_store_conformance!(encrypted_directory, {
    let dir = tempfile::tempdir().unwrap();
    (encrypted(LocalStore::open(dir.path()).unwrap()), dir)
});

fn noise(bytes: usize, seed: u64) -> Bytes {
    let mut dice = Dice::new(seed + 1);
    (0..bytes).map(|_| dice.roll(256) as u8).collect::<Vec<_>>().into()
}

#[test]
fn a_sealed_text_opens_whole_with_its_key_and_for_what_it_is_about() {
    for text in [&b""[..], b"hush", &[7; 1_000]] {
        let sealed = key(1).seal(text, b"row 1").unwrap();
        assert_eq!(key(1).open(&sealed, b"row 1").unwrap(), text);
        assert_ne!(key(1).seal(text, b"row 1").unwrap(), sealed, "a nonce of its own");
        assert_eq!(sealed.len(), 24 + text.len() + 16);
        let refused = |error: Error| assert!(matches!(error, Error::InvalidInput { .. }), "{error}");
        refused(key(2).open(&sealed, b"row 1").unwrap_err());
        refused(key(1).open(&sealed, b"row 2").unwrap_err());
        refused(key(1).open(&sealed[..sealed.len() - 1], b"row 1").unwrap_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            refused(key(1).open(&changed, b"row 1").unwrap_err());
        }
    }
    for short in [&[][..], &[0; 24], &[0; 39]] {
        assert!(key(1).open(short, b"").is_err());
    }
}

const SIZES: [usize; 6] = [0, 1, 65_536, 65_537, 131_072, 150_000];

#[tokio::test]
async fn sizes_and_ranges_are_those_of_the_plaintext() {
    let store = encrypted(MemoryStore::default());
    let mut dice = Dice::new(1);
    for bytes in SIZES {
        let data = noise(bytes, 7);
        store.put("a/k", data.clone()).await.unwrap();
        assert_eq!(store.get("a/k").await.unwrap(), data);
        assert_eq!(store.head("a/k").await.unwrap().bytes, bytes as u64);
        assert_eq!(store.list("a/").await.unwrap()[0].bytes, bytes as u64);
        let edges = [0, 65_535, 65_536, 131_072, bytes];
        let some = (0..10).map(|_| (dice.roll(bytes + 1), dice.roll(bytes + 100)));
        let pairs = edges.iter().flat_map(|a| edges.iter().map(|b| (*a, *b))).chain(some);
        for (from, to) in pairs.filter(|(from, to)| from <= to && *from <= bytes) {
            let part = store.get_range("a/k", from as u64..to as u64).await.unwrap();
            assert_eq!(part, data[from..to.min(bytes)], "{from}..{to} of {bytes}");
        }
    }
}

#[tokio::test]
async fn no_sixteen_bytes_of_the_plaintext_are_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = encrypted(LocalStore::open(dir.path()).unwrap());
    let text = "the quick brown fox jumps over the lazy dog, again and again. ".repeat(3000);
    let windows: std::collections::HashSet<&[u8]> = text.as_bytes().windows(16).collect();
    store.put("rows/1", text.clone().into()).await.unwrap();
    store.put_artifact(text.clone().into()).await.unwrap();
    store.put_blob(futures::stream::iter([Ok(Bytes::from(text.clone()))])).await.unwrap();
    let raw = LocalStore::open(dir.path()).unwrap();
    let objects = raw.list("").await.unwrap();
    assert!(objects.len() >= 2);
    for object in objects {
        let raw = raw.get(&object.key).await.unwrap();
        assert!(!raw.windows(16).any(|window| windows.contains(window)), "{}", object.key);
    }
    let twice = [raw.get("rows/1").await.unwrap(), {
        store.put("rows/1", text.into()).await.unwrap();
        raw.get("rows/1").await.unwrap()
    }];
    assert_ne!(twice[0][67..], twice[1][67..], "equal bytes are encrypted differently each time");
}

#[tokio::test]
async fn any_bit_that_is_flipped_is_found() {
    let (raw, mut dice) = (MemoryStore::default(), Dice::new(2));
    let store = encrypted(raw.clone());
    let data = noise(70_000, 3);
    store.put("k", data.clone()).await.unwrap();
    let sealed = raw.get("k").await.unwrap();
    let header = (0..75 * 8).chain((0..100).map(|_| dice.roll(sealed.len() * 8)).collect::<Vec<_>>());
    for bit in header {
        let mut changed = sealed.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        raw.put("k", changed.into()).await.unwrap();
        let error = store.get("k").await.unwrap_err();
        let named = (8 * 8..48 * 8).contains(&bit);
        assert!(
            matches!(error, Error::Corrupt { .. }) || named && matches!(error, Error::InvalidInput { .. }),
            "{error}"
        );
        // A range meets it if it is in its segments, or in the header.
        let read = store.get_range("k", 69_000..71_000).await;
        assert!(read.is_err() || bit >= 75 * 8 && read.unwrap() == data.slice(69_000..));
        if bit < 75 * 8 {
            assert!(store.get_range("k", 0..1).await.is_err(), "bit {bit}");
        }
    }
}

#[tokio::test]
async fn what_is_cut_extended_or_put_together_from_parts_is_corrupt() {
    let (raw, mut dice) = (MemoryStore::default(), Dice::new(4));
    let store = encrypted(raw.clone());
    for bytes in SIZES {
        store.put("k", noise(bytes, 5)).await.unwrap();
        let sealed = raw.get("k").await.unwrap();
        let (segment, header) = (65_536 + 16, 75);
        let cuts = [0, 1, header, header + 16, header + segment, header + 2 * segment, sealed.len() - 1];
        for cut in cuts.into_iter().chain((0..10).map(|_| dice.roll(sealed.len()))).filter(|cut| *cut < sealed.len()) {
            raw.put("k", sealed.slice(..cut)).await.unwrap();
            assert!(matches!(store.get("k").await, Err(Error::Corrupt { .. })), "{cut} of {}", sealed.len());
            assert!(matches!(store.get_range("k", 0..1).await, Err(Error::Corrupt { .. })), "{cut}");
            // With the size in the header made to fit, too.
            if cut >= header {
                let body = cut - header;
                let plain = (body - body.div_ceil(segment).min(body / 16) * 16) as u64;
                let mut forged = sealed[..cut].to_vec();
                forged[67..75].copy_from_slice(&plain.to_le_bytes());
                raw.put("k", forged.into()).await.unwrap();
                assert!(matches!(store.get("k").await, Err(Error::Corrupt { .. })), "{cut} of {}", sealed.len());
            }
        }
        raw.put("k", [&sealed[..], &[0; 16]].concat().into()).await.unwrap();
        assert!(matches!(store.get("k").await, Err(Error::Corrupt { .. })));
        if bytes >= 131_072 {
            let (a, b) = (header..header + segment, header + segment..header + 2 * segment);
            let swapped = [&sealed[..header], &sealed[b.clone()], &sealed[a], &sealed[b.end..]].concat();
            raw.put("k", swapped.into()).await.unwrap();
            assert!(matches!(store.get("k").await, Err(Error::Corrupt { .. })), "segments were swapped");
        }
    }
}

#[tokio::test]
async fn objects_cannot_be_swapped() {
    let raw = MemoryStore::default();
    let store = encrypted(raw.clone());
    store.put("alias/staging", "v1".into()).await.unwrap();
    store.put("alias/champion", "v2".into()).await.unwrap();
    let staging = raw.get("alias/staging").await.unwrap();
    raw.put("alias/champion", staging).await.unwrap();
    assert!(matches!(store.get("alias/champion").await, Err(Error::Corrupt { .. })));
    assert!(matches!(store.get_range("alias/champion", 0..1).await, Err(Error::Corrupt { .. })));
    raw.put("alias/champion", "v2, in the clear".into()).await.unwrap();
    assert!(matches!(store.get("alias/champion").await, Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn after_a_rotation_old_objects_are_read_and_new_ones_need_the_new_key() {
    let raw = MemoryStore::default();
    encrypted(raw.clone()).put("old", "x".into()).await.unwrap();
    let rotated = EncryptedStore::new(raw.clone(), KeyRing::new("2027", key(2)).old("2026", key(1)));
    assert_eq!(rotated.get("old").await.unwrap(), "x");
    rotated.put("new", "y".into()).await.unwrap();
    let only_new = EncryptedStore::new(raw.clone(), KeyRing::new("2027", key(2)));
    assert_eq!(only_new.get("new").await.unwrap(), "y");
    for (store, object, name) in [
        (only_new, "old", "\"2026\", which the provider does not have"),
        (encrypted(raw.clone()), "new", "\"2027\", which the provider does not have"),
        (EncryptedStore::new(raw, KeyRing::new("2026", key(9))), "old", "\"2026\", which is not the provider's"),
    ] {
        let error = store.get(object).await.unwrap_err();
        assert!(matches!(error, Error::InvalidInput { .. }) && error.to_string().contains(name), "{error}");
    }
}

#[tokio::test]
async fn a_wrong_key_replaces_nothing() {
    let raw = MemoryStore::default();
    let digest = encrypted(raw.clone()).put_artifact("weights".into()).await.unwrap();
    let wrong = EncryptedStore::new(raw.clone(), KeyRing::new("2026", key(9)));
    assert!(wrong.put_artifact("weights".into()).await.is_err(), "not taken for damage, which would be mended");
    assert_eq!(encrypted(raw).get_artifact(&digest).await.unwrap(), "weights");
}

#[tokio::test]
async fn secrets_are_not_shown_and_names_are_checked() {
    let store = encrypted(MemoryStore::default());
    let shown = format!("{store:?} {:?} {store}", key(7));
    assert!(shown.contains("***") && !shown.contains("7, 7") && !shown.contains("1, 1"), "{shown}");
    for name in ["", "a key", &"x".repeat(32)] {
        let store = EncryptedStore::new(MemoryStore::default(), KeyRing::new(name, key(1)));
        assert!(matches!(store.put_opts("k", "x".into(), PutMode::Create).await, Err(Error::InvalidInput { .. })));
    }
    assert_ne!(EncryptionKey::generate().unwrap().expose(), EncryptionKey::generate().unwrap().expose());
}
