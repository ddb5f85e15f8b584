//! Many processes on one model: numbers without gap or duplicate, and an alias whose moves and reads are linearizable.

use std::io::Write as _;
use std::time::SystemTime;

use mlops_core::Role;
use mlops_core::audit::AuditLogExt as _;
use mlops_registry::conformance::model_registry::package;
use mlops_registry::{Durability, ModelRegistry, NewModel, NewPromotion, NewVersion, PromotionState};

use crate::place::{Place, scale};
use crate::who;

const PROCESSES: u64 = 8;

fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()
}

/// Not a test by itself: one of the processes.
#[tokio::test]
async fn child_that_registers_and_promotes() {
    let Some((place, job)) = Place::told() else { return };
    let (me, count) = job.split_once(' ').unwrap();
    let count: u64 = count.parse().unwrap();
    // All of them open it at once, and it may be empty.
    let registry = place.open(Durability::Process).await.unwrap();
    let (store, ana, dan) = (place.store(), who("ana", Role::Contributor), who("dan", Role::Deployer));
    registry.create_model(&ana, NewModel::new("m")).await.unwrap();
    let mut log = std::fs::File::create(place.folder().join(format!("log-{me}"))).unwrap();
    for i in 0..count {
        let package = package(&store, &format!("{me}-{i}")).await;
        let began = now();
        let version = registry.create_version(&ana, NewVersion::new("m", package)).await.unwrap().version;
        writeln!(log, "version {version} 0 {began} {}", now()).unwrap();
        let began = now();
        let asked = registry.request_promotion(&ana, NewPromotion::new("m", version, "champion")).await.unwrap();
        match registry.promote(&dan, asked.id).await {
            Ok(moved) => {
                let revision = moved.revision.unwrap();
                assert_eq!(revision, asked.seen_revision + 1);
                writeln!(log, "move {revision} {version} {began} {}", now()).unwrap();
            }
            Err(error) => assert!(error.is_conflict(), "{error:?}"),
        }
        let began = now();
        match registry.alias("m", "champion").await {
            Ok(alias) => writeln!(log, "read {} {} {began} {}", alias.revision, alias.version, now()).unwrap(),
            Err(error) => assert!(error.is_not_found(), "{error}"),
        }
    }
}

/// One call: what it gave (a number, and the version an alias points at), and from when to when it ran.
struct Call {
    number: u64,
    version: u64,
    began: u128,
    ended: u128,
}

/// Calls that gave increasing numbers must not have ended before one with a smaller number began.
fn follow_real_time(calls: &[Call]) {
    let mut latest = 0;
    for call in calls {
        assert!(call.ended >= latest, "{} was over before a smaller one began", call.number);
        latest = latest.max(call.began);
    }
}

async fn check(place: Place, each: u64) {
    let children: Vec<_> = (0..PROCESSES)
        .map(|me| place.start("processes::child_that_registers_and_promotes", &format!("{me} {each}")))
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let (mut versions, mut moves, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    for me in 0..PROCESSES {
        let log = std::fs::read_to_string(place.folder().join(format!("log-{me}"))).unwrap();
        for line in log.lines() {
            let [kind, number, version, began, ended] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let (number, version) = (number.parse().unwrap(), version.parse().unwrap());
            let call = Call { number, version, began: began.parse().unwrap(), ended: ended.parse().unwrap() };
            match kind {
                "version" => versions.push(call),
                "move" => moves.push(call),
                _ => reads.push(call),
            }
        }
    }
    for calls in [&mut versions, &mut moves] {
        calls.sort_by_key(|call| call.number);
        follow_real_time(calls);
    }
    let numbers = |calls: &[Call]| calls.iter().map(|call| call.number).collect::<Vec<_>>();
    assert_eq!(numbers(&versions), (1..=PROCESSES * each).collect::<Vec<_>>());
    assert_eq!(numbers(&moves), (1..=moves.len() as u64).collect::<Vec<_>>(), "no move is lost or doubled");
    assert!(moves.len() as u64 >= each, "{} moves", moves.len());

    // A read gives the state after some move that had begun, and after every move that had ended.
    let mut ended: Vec<(u128, u64)> = moves.iter().map(|m| (m.ended, m.number)).collect();
    ended.sort_unstable();
    for place in 1..ended.len() {
        ended[place].1 = ended[place].1.max(ended[place - 1].1);
    }
    for read in &reads {
        let seen = &moves[read.number as usize - 1];
        assert_eq!(seen.version, read.version);
        assert!(seen.began <= read.ended, "read of a move that had not begun");
        let before = ended.partition_point(|(at, _)| *at < read.began);
        let least = before.checked_sub(1).map_or(0, |last| ended[last].1);
        assert!(read.number >= least, "stale read: {} after {least}", read.number);
    }

    let registry = place.open(Durability::Process).await.unwrap();
    let listed: Vec<u64> = registry.versions("m").await.unwrap().iter().map(|v| v.version).collect();
    assert_eq!(listed, (1..=PROCESSES * each).collect::<Vec<_>>());
    let mut history: Vec<_> = registry.promotions("m").await.unwrap();
    assert_eq!(history.len() as u64, PROCESSES * each);
    history.retain(|p| p.state == PromotionState::Promoted);
    history.sort_by_key(|p| p.revision);
    let told: Vec<_> = moves.iter().map(|m| (Some(m.number), m.version)).collect();
    assert_eq!(history.iter().map(|p| (p.revision, p.version)).collect::<Vec<_>>(), told);
    let last = registry.alias("m", "champion").await.unwrap();
    assert_eq!((Some(last.revision), last.version), *told.last().unwrap());
    let entries = registry.verify().await.unwrap().unwrap().entries;
    assert_eq!(entries, 1 + 2 * PROCESSES * each + moves.len() as u64);
    println!("{} versions, {} moves, {} reads by {PROCESSES} processes", versions.len(), moves.len(), reads.len());
}

#[tokio::test]
async fn eight_processes_on_a_file_number_and_move_without_loss() {
    let (place, _dir) = Place::file();
    check(place, scale("MLOPS_TEST_CALLS", 20)).await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
#[ignore = "needs a PostgreSQL server: ci/integration.sh"]
async fn eight_processes_on_a_server_number_and_move_without_loss() {
    let (place, _dir) = Place::schema();
    check(place, scale("MLOPS_TEST_CALLS", 20)).await;
}
