//! A server that speaks S3's protocol, reached straight and through a proxy that fails. `MLOPS_TEST_S3` is its URL; the
//! bucket `models` is there. `ci/integration.sh` starts one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use mlops_core::store::{
    ArtifactStore, CacheStore, Collector, EncryptedStore, EncryptionKey, KeyRing, Lease, MemoryStore,
    ObjectArtifactStore, PutMode, RetryStore, Roots, S3Options,
};
use mlops_core::{ArtifactStoreExt, Digest, Error, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::probe::Dice;

fn server() -> String {
    std::env::var("MLOPS_TEST_S3").expect("MLOPS_TEST_S3 is the URL of a server that speaks S3's protocol")
}

fn options(endpoint: &str, folder: &str) -> S3Options {
    S3Options::new("models").endpoint(endpoint).allow_http(true).access_key("test", "test").folder(folder)
}

/// A store in a folder of its own.
fn s3() -> ObjectArtifactStore {
    static FOLDERS: AtomicUsize = AtomicUsize::new(0);
    let folder = format!("{}-{}", std::process::id(), FOLDERS.fetch_add(1, Ordering::Relaxed));
    options(&server(), &folder).build().unwrap()
}

mlops_core::artifact_store_conformance!(
    #[ignore = "needs an S3 server: ci/integration.sh"]
    plain,
    (s3(), ())
);
mlops_core::artifact_store_conformance!(
    #[ignore = "needs an S3 server: ci/integration.sh"]
    retried_and_cached,
    (CacheStore::open(RetryStore::new(s3()), MemoryStore::default(), 64 << 20).await.unwrap(), ())
);
mlops_core::artifact_store_conformance!(
    #[ignore = "needs an S3 server: ci/integration.sh"]
    encrypted,
    (EncryptedStore::new(RetryStore::new(s3()), KeyRing::new("k", EncryptionKey::from_bytes([1; 32]))), ())
);

/// What the proxy does to one request.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// An answer without asking the server.
    Status(&'static str),
    /// The server does it; the answer says otherwise.
    Unanswered,
    /// The server does it; the answer comes after the client's time-out.
    Slow,
    /// The connection ends within the answer's body.
    CutAnswer,
    /// The connection ends within the request's body.
    CutRequest,
}

struct Proxy {
    endpoint: String,
    faults: Arc<AtomicU64>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

const TIMEOUT: Duration = Duration::from_millis(1500);

/// A proxy before the server that plays out a fault in `rate` percent of the requests.
async fn proxy(rate: usize, seed: u64) -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let faults = Arc::new(AtomicU64::new(0));
    let (count, dice) = (Arc::clone(&faults), Arc::new(Mutex::new(Dice::new(seed))));
    let accepting = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let fault = {
                let mut dice = dice.lock().unwrap();
                match dice.roll(100) {
                    roll if roll >= rate => Fault::None,
                    _ => [
                        Fault::Status("500 Internal Server Error"),
                        Fault::Status("503 Slow Down"),
                        Fault::Unanswered,
                        Fault::Slow,
                        Fault::CutAnswer,
                        Fault::CutRequest,
                    ][dice.roll(6)],
                }
            };
            if !matches!(fault, Fault::None) {
                count.fetch_add(1, Ordering::SeqCst);
            }
            tokio::spawn(async move { exchange(client, fault).await.ok() });
        }
    });
    Proxy { endpoint, faults, accepting }
}

/// Passes on one request and its answer; one connection each.
async fn exchange(mut client: TcpStream, fault: Fault) -> std::io::Result<()> {
    let mut request = Vec::new();
    let head = loop {
        if let Some(end) = request.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    if matches!(fault, Fault::CutRequest) {
        return Ok(());
    }
    while request.len() < head + length {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let refuse = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    if let Fault::Status(status) = fault {
        return client.write_all(refuse(status).as_bytes()).await;
    }
    request.splice(head - 2..head - 2, *b"connection: close\r\n");
    let mut server = TcpStream::connect(server().trim_start_matches("http://")).await?;
    server.write_all(&request).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    match fault {
        Fault::Unanswered => return client.write_all(refuse("500 Internal Server Error").as_bytes()).await,
        Fault::Slow => tokio::time::sleep(TIMEOUT * 2).await,
        Fault::CutAnswer => answer.truncate(answer.len() * 2 / 3),
        _ => {}
    }
    client.write_all(&answer).await
}

fn retried(store: ObjectArtifactStore) -> RetryStore<ObjectArtifactStore> {
    let retried = RetryStore::builder(store).attempts(30).elapsed(Duration::from_secs(60));
    retried.delays(Duration::from_millis(5), Duration::from_millis(50)).build().unwrap()
}

fn data(i: u64) -> Bytes {
    let mut dice = Dice::new(i + 1);
    (0..10_000 + dice.roll(50_000)).map(|_| dice.roll(256) as u8).collect::<Vec<_>>().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an S3 server: ci/integration.sh"]
async fn through_faults_every_acknowledged_put_reads_back_and_creates_stay_exclusive() {
    let folder = format!("faults-{}", std::process::id());
    let proxy = proxy(25, 1).await;
    let straight = options(&server(), &folder).build().unwrap();
    let faulty = options(&proxy.endpoint, &folder).timeout(TIMEOUT).build().unwrap();
    let store = retried(faulty.clone());
    let all = async {
        stream::iter(0..120_u64)
            .for_each_concurrent(16, |i| {
                let (store, straight) = (&store, &straight);
                async move {
                    let digest = store.put_artifact(data(i)).await.unwrap();
                    assert_eq!(straight.get_artifact(&digest).await.unwrap(), data(i));
                    assert_eq!(store.get_artifact(&digest).await.unwrap(), data(i));
                }
            })
            .await;
        let blob = store.put_blob(stream::iter((0..60).map(|i| Ok(data(i))))).await.unwrap();
        assert_eq!(straight.get_artifact(&blob.digest).await.unwrap().len() as u64, blob.bytes);
        assert_eq!(store.list("artifacts/").await.unwrap(), straight.list("artifacts/").await.unwrap());

        for key in 0..30 {
            let key = &format!("alias/{key}");
            let creates = (0..4).map(|writer| {
                let bytes = Bytes::from(format!("writer {writer}"));
                let store = &store;
                async move { (bytes.clone(), store.put_opts(key, bytes, PutMode::Create).await) }
            });
            let outcomes = futures::future::join_all(creates).await;
            let winners: Vec<_> = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).collect();
            assert_eq!(winners.len(), 1, "{outcomes:?}");
            assert_eq!(straight.get(key).await.unwrap(), winners[0].0);
            let lost = |outcome: &Outcome| matches!(outcome, Ok(()) | Err(Error::AlreadyExists { .. }));
            assert!(outcomes.iter().all(|(_, outcome)| lost(outcome)), "{outcomes:?}");
        }

        // Without a layer around it, each fault is an error that may be retried, and says what came.
        let mut causes = std::collections::BTreeSet::new();
        for i in 0..100 {
            for error in [faulty.put("k", data(i)).await.err(), faulty.get("k").await.err()].into_iter().flatten() {
                assert!(error.is_retryable(), "{error:?}");
                let cause = std::error::Error::source(&error).unwrap().to_string();
                causes.extend(["500", "503"].into_iter().filter(|status| cause.contains(status)));
            }
        }
        assert_eq!(causes.len(), 2, "{causes:?}");
    };
    tokio::time::timeout(Duration::from_secs(170), all).await.expect("nothing hangs");
    assert!(proxy.faults.load(Ordering::SeqCst) > 100);
}

type Outcome = mlops_core::Result<()>;

#[tokio::test]
#[ignore = "needs an S3 server: ci/integration.sh"]
async fn what_the_server_refuses_is_told_and_not_retried() {
    let missing = S3Options::new("no-such-bucket").endpoint(server()).allow_http(true).access_key("test", "test");
    let error = missing.build().unwrap().put("k", "x".into()).await.unwrap_err();
    assert!(!error.is_retryable(), "{error:?}");
    let nobody = options("http://127.0.0.1:9", "x").build().unwrap();
    let error = nobody.get("k").await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("s3://models/x"), "{error:?}");
}

struct Named(Digest);

#[async_trait::async_trait]
impl Roots for Named {
    async fn live(&self, live: &mut std::collections::BTreeSet<Digest>) -> mlops_core::Result<()> {
        live.insert(self.0);
        Ok(())
    }
}

#[tokio::test]
#[ignore = "needs an S3 server: ci/integration.sh"]
async fn garbage_is_collected_and_leases_hold_it_up() {
    let store: Arc<dyn ArtifactStore> = Arc::new(RetryStore::new(s3()));
    let kept = store.put_blob(stream::iter((0..100).map(|i| Ok(data(i))))).await.unwrap();
    let garbage = store.put_artifact("garbage".into()).await.unwrap();
    let collector = Collector::builder(Arc::clone(&store)).roots(Named(kept.digest)).grace(Duration::ZERO);
    let collector = collector.wait(Duration::from_millis(300)).build().unwrap();
    let lease = Lease::acquire(Arc::clone(&store), Arc::new(SystemClock)).await.unwrap();
    // Times are whole seconds here: what was written just now may look younger than it is.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(collector.collect().await.unwrap_err().is_retryable());
    lease.release().await.unwrap();
    let collected = collector.collect().await.unwrap();
    assert_eq!((collected.deleted, collected.kept_by_grace), (1, 0), "{collected}");
    assert!(store.get_artifact(&garbage).await.is_err());
    assert_eq!(store.get_artifact(&kept.digest).await.unwrap().len() as u64, kept.bytes);
}

#[test]
fn options_are_checked_and_secrets_are_not_shown() {
    let error = |options: S3Options| options.build().unwrap_err().to_string();
    assert!(error(S3Options::new("b")).contains("credentials"));
    assert!(error(S3Options::new("b").anonymous().endpoint("http://127.0.0.1:1")).contains("allow_http"));
    assert!(error(S3Options::new("b").anonymous().folder("../up")).contains("key"));
    assert!(error(S3Options::new("b").anonymous().timeout(Duration::ZERO)).contains("timeout"));
    let options = S3Options::new("b").access_key("id", "hidden1").session_token("hidden2");
    let shown = format!("{options:?} {:?}", options.clone().build().unwrap());
    assert!(shown.contains("***") && !shown.contains("hidden"), "{shown}");
}
