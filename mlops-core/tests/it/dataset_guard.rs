//! Who may do what with datasets: every role, every call, in the own project and in others.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use chrono::TimeDelta;
use futures::TryStreamExt;
use mlops_core::audit::{AuditLogExt, MemoryAuditLog};
use mlops_core::clock::from_micros;
use mlops_core::dataset::{
    DatasetStore, DatasetStoreExt, DatasetVersion, DatasetsAs, Erasure, GuardedDatasets, MoveTag, NewDataset,
    ParquetDatasets, Removal, Retention, Scan, erase, retain,
};
use mlops_core::lineage::MemoryLineage;
use mlops_core::store::MemoryStore;
use mlops_core::{Error, Principal, Resource, Result, Role, Timestamp};

mlops_core::dataset_store_conformance!(
    guarded,
    (
        GuardedDatasets::new(ParquetDatasets::new(MemoryStore::default()))
            .acting_as(&Principal::new("ana").with_role(Role::Admin)),
        ()
    )
);

fn rows(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    RecordBatch::try_from_iter([("id", id)]).unwrap()
}

fn at(day: i64) -> Timestamp {
    from_micros(day * 86_400_000_000)
}

fn by(who: &str) -> Removal {
    Removal { reason: "no use".into(), by: who.into(), at: at(9) }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Version,
    Versions,
    Names,
    Scan,
    Sketches,
    Tags,
    Commit,
    Append,
    Tag,
    Remove,
    Retain,
    Erase,
    EraseByParts,
}

impl Act {
    /// Whether it is about all datasets and not about one.
    fn is_about_all(self) -> bool {
        matches!(self, Self::Names | Self::Erase | Self::EraseByParts)
    }
}

/// A change of any cell is a change of who may do what.
const TABLE: [(Act, &str, [bool; 5]); 13] = [
    //                               viewer contributor reviewer deployer admin
    (Act::Version, "read", [true, true, true, true, true]),
    (Act::Versions, "read", [true, true, true, true, true]),
    (Act::Names, "read", [true, true, true, true, true]),
    (Act::Scan, "read", [true, true, true, true, true]),
    (Act::Sketches, "read", [true, true, true, true, true]),
    (Act::Tags, "read", [true, true, true, true, true]),
    (Act::Commit, "commit data", [false, true, false, false, true]),
    (Act::Append, "commit data", [false, true, false, false, true]),
    (Act::Tag, "commit data", [false, true, false, false, true]),
    (Act::Remove, "administer", [false, false, false, false, true]),
    (Act::Retain, "administer", [false, false, false, false, true]),
    (Act::Erase, "administer", [false, false, false, false, true]),
    // The free function writes the successor first.
    (Act::EraseByParts, "", [false, false, false, false, true]),
];

/// Where a grant holds, and whether that covers the dataset `d` of project `fraud`, and all of that project.
fn scopes() -> [(&'static str, Option<Resource>, bool, bool); 7] {
    let dataset = |name| Resource::dataset(name).in_project("fraud");
    [
        ("everywhere", None, true, true),
        ("own project", Some(Resource::project("fraud")), true, true),
        ("other project", Some(Resource::project("fraud2")), false, false),
        ("own dataset", Some(dataset("d")), true, false),
        ("other dataset", Some(dataset("e")), false, false),
        ("own dataset, other project", Some(Resource::dataset("d").in_project("fraud2")), false, false),
        ("own dataset, no project", Some(Resource::dataset("d")), false, false),
    ]
}

/// Two versions of `d`, of five and ten rows, the first old and tagged by nobody.
async fn filled(audit: &MemoryAuditLog) -> (ParquetDatasets, DatasetVersion, DatasetVersion) {
    let store = ParquetDatasets::new(MemoryStore::default()).audit(audit.clone());
    let first = store.commit(NewDataset::new("d", [rows(0..5)]).author("root").at(at(1))).await.unwrap();
    let last = store.commit(NewDataset::new("d", [rows(0..10)]).author("root").at(at(8))).await.unwrap();
    (store, first, last)
}

async fn act(
    act: Act,
    store: &DatasetsAs,
    first: &DatasetVersion,
    last: &DatasetVersion,
    audit: &MemoryAuditLog,
) -> Result<()> {
    let lineage = MemoryLineage::default();
    let policy = Retention::default().keep_last(1).keep_for(TimeDelta::days(1));
    let erasure = || Erasure::new("id", [3], "somebody", at(9)).despite_use();
    match act {
        Act::Version => store.version("d", &first.digest).await.map(drop),
        Act::Versions => store.versions("d").await.map(drop),
        Act::Names => store.names().await.map(drop),
        Act::Scan => store.scan(first, Scan::all()).await?.try_collect::<Vec<_>>().await.map(drop),
        Act::Sketches => store.sketches(first).await.map(drop),
        Act::Tags => store.tags("d").await.map(drop),
        Act::Commit => store.commit(NewDataset::new("d", [rows(0..3)]).author("root").at(at(9))).await.map(drop),
        Act::Append => store.commit(NewDataset::new("d", [rows(0..3)]).append_to(last).at(at(9))).await.map(drop),
        Act::Tag => store.tag(MoveTag::create("gold", last).by("root").at(at(9))).await.map(drop),
        Act::Remove => store.remove(first, by("root")).await,
        Act::Retain => store.retain(&lineage, "d", &policy, at(9)).await.map(drop),
        Act::Erase => store.erase(&lineage, audit, &erasure()).await.map(drop),
        Act::EraseByParts => erase(store, &lineage, audit, &erasure().because("parts")).await.map(drop),
    }
}

#[tokio::test]
async fn the_whole_table_holds() {
    let mut cells = 0;
    for (what, permission, granted) in TABLE {
        for (role, granted) in Role::ALL.into_iter().zip(granted) {
            for (scope, on, covers_it, covers_all) in scopes() {
                let told = format!("{role:?} {scope}: {what:?}");
                let audit = MemoryAuditLog::default();
                let (inner, first, last) = filled(&audit).await;
                let before = inner.versions("d").await.unwrap();
                let who = match on {
                    Some(on) => Principal::new("p").with_role_on(role, on),
                    None => Principal::new("p").with_role(role),
                };
                let store = GuardedDatasets::new(inner.clone()).project("fraud").acting_as(&who);
                let expected = granted && if what.is_about_all() { covers_all } else { covers_it };
                let outcome = act(what, &store, &first, &last, &audit).await;
                assert_eq!(outcome.is_ok(), expected, "{told}: {outcome:?}");
                let entries = audit.all_entries().await.unwrap();
                match outcome {
                    Ok(()) => {
                        // The free function has the name that it was given for its summary, and only for that.
                        let acted = entries[2..].iter().filter(|e| e.event.reason != "parts");
                        let actors: Vec<&str> = acted.map(|e| &*e.event.actor).collect();
                        assert!(actors.iter().all(|actor| *actor == "p"), "{told}: {actors:?}");
                        assert_eq!(actors.is_empty(), permission == "read", "{told}");
                    }
                    Err(error) => {
                        assert!(matches!(error, Error::PermissionDenied { .. }), "{told}: {error:?}");
                        let error = error.to_string();
                        assert!(error.starts_with(&format!("p may not {permission}")), "{told}: {error}");
                        let named = if what.is_about_all() { "project fraud" } else { "dataset d in project fraud" };
                        assert!(error.contains(named), "{told}: {error}");
                        assert_eq!(inner.versions("d").await.unwrap(), before, "{told}");
                        assert!(inner.tags("d").await.unwrap().is_empty() && entries.len() == 2, "{told}");
                    }
                }
                cells += 1;
            }
        }
    }
    assert_eq!(cells, 13 * 5 * 7);
}

#[tokio::test]
async fn a_stranger_may_do_nothing_in_a_project_or_outside_of_any() {
    for project in [None, Some("fraud")] {
        let audit = MemoryAuditLog::default();
        let (inner, first, last) = filled(&audit).await;
        let guard = GuardedDatasets::new(inner);
        let guard = project.into_iter().fold(guard, GuardedDatasets::project);
        for (what, ..) in TABLE {
            let stranger = guard.acting_as(&Principal::new("eve"));
            let outcome = act(what, &stranger, &first, &last, &audit).await;
            assert!(matches!(outcome, Err(Error::PermissionDenied { .. })), "{what:?}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn acts_carry_the_name_of_the_principal_whatever_the_call_says() {
    let (audit, lineage) = (MemoryAuditLog::default(), MemoryLineage::default());
    let (inner, first, last) = filled(&audit).await;
    let guard = GuardedDatasets::new(inner.clone());
    let store = guard.acting_as(&Principal::new("ana").with_role(Role::Admin));
    let version = store.commit(NewDataset::new("d", [rows(0..2)]).author("root").at(at(9))).await.unwrap();
    assert_eq!(version.author, "ana");
    assert_eq!(store.tag(MoveTag::create("gold", &version).by("root")).await.unwrap().by, "ana");
    let policy = Retention::default().keep_last(1).keep_for(TimeDelta::zero());
    assert_eq!(retain(&store, &lineage, "d", &policy, "root", at(30)).await.unwrap().removed.len(), 2);
    for gone in [&first, &last] {
        let error = store.version("d", &gone.digest).await.unwrap_err().to_string();
        assert!(error.contains("by ana: retention"), "{error}");
    }
}

#[tokio::test]
async fn a_version_that_was_altered_in_memory_reads_nothing_of_others() {
    let inner = ParquetDatasets::new(MemoryStore::default());
    let secret = inner.commit(NewDataset::new("secret", [rows(100..110)])).await.unwrap();
    let own = inner.commit(NewDataset::new("own", [rows(0..3)])).await.unwrap();
    let ana = Principal::new("ana").with_role_on(Role::Contributor, Resource::dataset("own"));
    let store = GuardedDatasets::new(inner).acting_as(&ana);
    let mut forged = secret.clone();
    forged.name = "own".to_owned();
    assert!(matches!(store.read_all(&forged).await, Err(Error::NotFound { .. })));
    forged.digest = own.digest;
    assert_eq!(store.read_all(&forged).await.unwrap(), rows(0..3), "what is stored, not what is in hand");
    let more = store.commit(NewDataset::new("own", [rows(3..4)]).append_to(&forged)).await.unwrap();
    assert_eq!(store.read_all(&more).await.unwrap(), rows(0..4));
    let error = store.commit(NewDataset::new("own", [rows(3..4)]).append_to(&secret)).await.unwrap_err().to_string();
    assert!(error.starts_with("ana may not read on dataset secret"), "{error}");
}
