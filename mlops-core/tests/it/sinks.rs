//! Sinks and transports: nothing blocks, nothing is lost uncounted.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mlops_core::clock::from_micros;
use mlops_core::lineage::openlineage::{EventType, Job, Run, RunEvent};
use mlops_core::lineage::{
    EventFile, FanOut, FileTransport, HttpTransport, LineageQueue, LineageSink, MemoryLineage, MemorySink, SinkCounts,
    StoreTransport, Transport,
};
use mlops_core::{Error, Result, RunId};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

fn event(n: u64) -> RunEvent {
    let at = from_micros(i64::try_from(n).unwrap());
    RunEvent::new(EventType::Complete, at, Run::new(RunId::derived(at, b"run")), Job::new("shop", format!("job {n}")))
}

fn names(events: &[RunEvent]) -> Vec<String> {
    events.iter().map(|e| e.job.name.clone()).collect()
}

/// A queue whose worker runs.
fn running(transport: impl Transport, capacity: usize) -> LineageQueue {
    let (sink, worker) = LineageQueue::new(transport, capacity);
    tokio::spawn(worker.run());
    sink
}

fn to_file() -> (LineageQueue, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (running(FileTransport::open(dir.path().join("events.jsonl")).unwrap(), 200), dir)
}

async fn to_http() -> (LineageQueue, ()) {
    let server = Server::start(|_| Reply::Status(201, "")).await;
    (running(server.transport().build().unwrap(), 200), ())
}

mlops_core::lineage_sink_conformance!(memory, (MemorySink::default(), ()));
mlops_core::lineage_sink_conformance!(shared, (Arc::new(MemorySink::default()) as Arc<dyn LineageSink>, ()));
mlops_core::lineage_sink_conformance!(store, (running(StoreTransport::new(MemoryLineage::default(), "shop"), 200), ()));
mlops_core::lineage_sink_conformance!(file, to_file());
mlops_core::lineage_sink_conformance!(http, to_http().await);
mlops_core::lineage_sink_conformance!(fan_out, {
    let (file, dir) = to_file();
    (FanOut::default().with(file).with(MemorySink::default()), dir)
});

#[track_caller]
fn adds_up(counts: SinkCounts) -> SinkCounts {
    assert_eq!(counts.emitted, counts.delivered + counts.dropped.total() + counts.queued, "{counts}");
    counts
}

/// Holds every event until it is told to let one go.
#[derive(Clone, Debug)]
struct Gate(Arc<tokio::sync::Semaphore>);

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gate")
    }
}

#[async_trait]
impl Transport for Gate {
    async fn send(&self, event: &RunEvent) -> Result<()> {
        self.0.acquire().await.map_err(|e| Error::invalid("gate", e))?.forget();
        if event.job.name == "job 13" { Err(Error::invalid("event", "thirteen")) } else { Ok(()) }
    }
}

#[tokio::test]
async fn a_full_queue_drops_the_new_event_and_says_so() {
    let gate = Gate(Arc::new(tokio::sync::Semaphore::new(0)));
    let sink = running(gate.clone(), 10);
    sink.emit(event(0));
    tokio::task::yield_now().await; // the worker holds the first event now: there is one thread for both
    (1..=20).for_each(|n| sink.emit(event(n)));
    let counts = adds_up(sink.counts());
    assert_eq!((counts.emitted, counts.delivered, counts.queued, counts.dropped.full), (21, 0, 11, 10), "{counts}");
    gate.0.add_permits(100);
    sink.flush().await;
    let counts = adds_up(sink.counts());
    assert_eq!((counts.delivered, counts.queued, counts.dropped.total()), (11, 0, 10), "{counts}");
    sink.emit(event(13));
    sink.flush().await;
    assert_eq!(adds_up(sink.counts()).dropped.refused, 1);
    assert_eq!(sink.last_error().unwrap(), "invalid event: thirteen");
    assert_eq!(
        sink.counts().to_string(),
        "22 emitted, 11 delivered, 0 queued, 11 dropped (10 queue full, 1 refused, 0 failed, 0 closed)"
    );
}

#[tokio::test]
async fn a_dropped_worker_ends_waiting_and_counts_what_it_leaves() {
    let gate = Gate(Arc::new(tokio::sync::Semaphore::new(2)));
    let (sink, worker) = LineageQueue::new(gate, 100);
    let task = tokio::spawn(worker.run());
    (0..5).for_each(|n| sink.emit(event(n)));
    let waiting = tokio::spawn({
        let sink = sink.clone();
        async move { sink.flush().await }
    });
    while sink.counts().delivered < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(sink.flush_within(Duration::from_millis(10)).await.queued, 3, "the flush is cut off, not the events");
    task.abort();
    waiting.await.unwrap();
    let counts = adds_up(sink.counts());
    assert_eq!((counts.delivered, counts.dropped.closed, counts.queued), (2, 3, 0), "{counts}");
    sink.emit(event(9));
    assert_eq!(adds_up(sink.counts()).dropped.closed, 4);
    sink.flush().await;
}

#[tokio::test]
async fn the_worker_ends_when_the_last_queue_is_gone_and_empty() {
    let (sink, worker) = LineageQueue::new(StoreTransport::new(MemoryLineage::default(), "shop"), 100);
    let other = sink.clone();
    let worker = tokio::spawn(worker.run());
    sink.emit(event(1));
    drop(sink);
    other.emit(event(2));
    drop(other);
    assert_eq!(worker.await.unwrap().delivered, 2);
}

#[tokio::test]
async fn files_survive_a_torn_last_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    assert!(matches!(EventFile::read(&path), Err(Error::NotFound { .. })));
    let write = async |numbers: std::ops::Range<u64>| {
        let file = FileTransport::open(&path).unwrap();
        for n in numbers {
            file.send(&event(n)).await.unwrap();
        }
    };
    write(0..3).await;
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(whole.iter().filter(|b| **b == b'\n').count(), 3);
    // Wherever the third line is cut, two events are read, and those written later too.
    let third = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    for cut in [third, third + 1, third + 50, whole.len() - 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let lines = if cut == third { vec![] } else { vec![3] };
        // Without its end of line alone, it is whole.
        let (kept, broken) = if cut == whole.len() - 1 { (3, vec![]) } else { (2, lines) };
        let read = EventFile::read(&path).unwrap();
        assert_eq!((read.events.len(), &read.broken), (kept, &broken), "cut at {cut}");
        write(7..9).await;
        let read = EventFile::read(&path).unwrap();
        assert_eq!(names(&read.events[kept..]), ["job 7", "job 8"], "cut at {cut}");
        assert_eq!(read.broken, broken, "cut at {cut}");
    }
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"\xff\xfe\n\n{}\n").unwrap();
    assert_eq!(EventFile::read(&path).unwrap().broken.len(), 2);
    assert!(FileTransport::open(dir.path()).is_err());
}

/// What the server does with a request.
#[derive(Clone, Copy, Debug)]
enum Reply {
    Status(u16, &'static str),
    /// Answers this late.
    Late(Duration),
    /// Closes without a word.
    Cut,
    /// Closes in the middle of the answer's head.
    CutInside,
}

/// An HTTP/1.1 server on loopback that keeps what it was sent.
#[derive(Clone)]
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<(String, RunEvent)>>>,
}

impl Server {
    /// Answers the `n`th request, from 0, with `reply(n)`.
    async fn start(reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = Self { url, seen: Arc::default() };
        let (here, reply) = (server.clone(), Arc::new(reply));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (here, reply) = (here.clone(), Arc::clone(&reply));
                tokio::spawn(async move { here.talk(stream, &*reply).await });
            }
        });
        server
    }

    async fn talk(&self, stream: TcpStream, reply: &(dyn Fn(usize) -> Reply + Send + Sync)) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if stream.read_line(&mut head).await.ok()? == 0 {
                    return None;
                }
            }
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.ok()?;
            let event = RunEvent::from_json(std::str::from_utf8(&body).unwrap()).unwrap();
            let n = {
                let mut seen = self.seen.lock().unwrap();
                seen.push((head, event));
                seen.len() - 1
            };
            let answer = |status: u16, more: &str| format!("HTTP/1.1 {status} x\r\n{more}content-length: 2\r\n\r\nno");
            match reply(n) {
                Reply::Status(status, more) => stream.write_all(answer(status, more).as_bytes()).await.ok()?,
                Reply::Late(delay) => {
                    tokio::time::sleep(delay).await;
                    stream.write_all(answer(201, "").as_bytes()).await.ok()?;
                }
                Reply::Cut => return None,
                Reply::CutInside => {
                    stream.write_all(b"HTTP/1.1 20").await.ok()?;
                    return None;
                }
            }
        }
    }

    fn transport(&self) -> mlops_core::lineage::HttpTransportBuilder {
        HttpTransport::builder(&self.url).backoff(Duration::from_millis(1), Duration::from_millis(5))
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(_, event)| event.job.name.clone()).collect()
    }
}

/// Replies in turn, then 201 for ever.
fn script(replies: &[Reply]) -> impl Fn(usize) -> Reply + Send + Sync + use<> {
    let replies = Mutex::new(VecDeque::from(replies.to_vec()));
    move |_| replies.lock().unwrap().pop_front().unwrap_or(Reply::Status(201, ""))
}

#[tokio::test]
async fn events_arrive_over_http_in_order_with_the_key() {
    let server = Server::start(script(&[])).await;
    let transport = server.transport().api_key("s3cret").build().unwrap();
    assert!(!format!("{transport:?} {transport} {:?}", server.transport().api_key("s3cret")).contains("s3cret"));
    assert!(format!("{transport:?}").contains("***"));
    let sink = running(transport, 100);
    (0..20).for_each(|n| sink.emit(event(n)));
    let counts = adds_up(sink.flush_within(Duration::from_secs(10)).await);
    assert_eq!((counts.delivered, counts.queued), (20, 0), "{counts}");
    assert_eq!(server.seen(), (0..20).map(|n| format!("job {n}")).collect::<Vec<_>>());
    let (head, sent) = server.seen.lock().unwrap()[3].clone();
    assert!(head.starts_with("post /api/v1/lineage http/1.1\r\n"), "{head}");
    assert!(head.contains("authorization: bearer s3cret\r\n"), "{head}");
    assert!(head.contains("content-type: application/json\r\n"), "{head}");
    assert_eq!(sent, event(3));
}

#[tokio::test]
async fn failures_are_tried_again_and_refusals_are_not() {
    let busy = Reply::Status(429, "retry-after: 9999999\r\n"); // no longer than the longest delay
    let replies =
        [Reply::Status(500, ""), Reply::Cut, busy, Reply::CutInside, Reply::Status(200, ""), Reply::Status(422, "")];
    let server = Server::start(script(&replies)).await;
    let sink = running(server.transport().build().unwrap(), 100);
    (1..=3).for_each(|n| sink.emit(event(n)));
    let counts = adds_up(sink.flush_within(Duration::from_secs(10)).await);
    assert_eq!((counts.delivered, counts.dropped.refused, counts.dropped.total()), (2, 1, 1), "{counts}");
    assert_eq!(server.seen(), ["job 1", "job 1", "job 1", "job 1", "job 1", "job 2", "job 3"]);
    let error = sink.last_error().unwrap();
    assert!(error.contains("/api/v1/lineage") && error.contains("422") && error.ends_with(": no"), "{error}");
}

#[tokio::test]
async fn what_fails_to_the_last_attempt_is_dropped_and_the_next_goes_on() {
    let server = Server::start(script(&[Reply::Status(503, ""); 3])).await;
    let sink = running(server.transport().retries(2).build().unwrap(), 100);
    (1..=2).for_each(|n| sink.emit(event(n)));
    let counts = adds_up(sink.flush_within(Duration::from_secs(10)).await);
    assert_eq!((counts.delivered, counts.dropped.failed, counts.dropped.total()), (1, 1, 1), "{counts}");
    assert_eq!(server.seen(), ["job 1", "job 1", "job 1", "job 2"]);
}

#[tokio::test]
async fn a_slow_server_blocks_nobody_and_every_event_is_counted() {
    let late = Duration::from_millis(300);
    let server = Server::start(move |_| Reply::Late(late)).await;
    let sink = running(server.transport().timeout(Duration::from_millis(20)).retries(1).build().unwrap(), 5);
    let began = Instant::now();
    for n in 0..10_000 {
        sink.emit(event(n));
        adds_up(sink.counts());
    }
    // One answer takes longer than all of these, on any machine that runs tests.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let counts = adds_up(sink.counts());
    assert!(counts.queued > 0 && counts.dropped.full > 9_000, "{counts}");
    let counts = adds_up(sink.flush_within(Duration::from_secs(20)).await);
    assert_eq!((counts.delivered, counts.queued), (0, 0), "no answer was in time: {counts}");
    assert_eq!(counts.dropped.failed + counts.dropped.full, 10_000, "{counts}");
}

#[tokio::test]
async fn a_server_that_is_not_there_costs_the_events_only() {
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let transport = HttpTransport::builder(format!("http://{gone}")).retries(0).build().unwrap();
    let sink = running(transport, 10);
    sink.emit(event(1));
    assert_eq!(adds_up(sink.flush_within(Duration::from_secs(10)).await).dropped.failed, 1);
}

#[test]
fn what_is_no_endpoint_is_refused_and_no_secret_is_told() {
    let bad = [
        ("https://h", "proxy"),
        ("h:5000", "not a URL"),
        ("", "scheme"),
        ("http://", "not a URL"),
        ("http://u:s3cret@h", "takes no user"),
        ("http://h?a=s3cret", "query"),
        ("ftp://h", "scheme"),
    ];
    for (url, reason) in bad {
        let error = HttpTransport::builder(url).build().unwrap_err().to_string();
        assert!(error.contains(reason) && !error.contains("s3cret"), "{url:?}: {error}");
    }
    let error = HttpTransport::builder("http://h").api_key("a\nb").build().unwrap_err();
    assert!(error.to_string().contains("api_key"), "{error}");
    assert!(HttpTransport::builder("http://h").timeout(Duration::ZERO).build().is_err());
    let below = HttpTransport::builder("http://h:1/behind/").endpoint("/events?dry=1").build().unwrap();
    assert_eq!(below.to_string(), "http://h:1/behind/events?dry=1");
}

#[test]
fn without_a_runtime_events_are_refused() {
    let (sink, worker) = LineageQueue::new(HttpTransport::builder("http://127.0.0.1:1").build().unwrap(), 10);
    sink.emit(event(1));
    let told = sink.clone();
    drop(sink);
    let worker = std::thread::spawn(|| futures::executor::block_on(worker.run()));
    while told.counts().queued > 0 {
        std::thread::yield_now();
    }
    assert!(told.last_error().unwrap().contains("no reactor running"), "{:?}", told.last_error());
    drop(told);
    assert_eq!(worker.join().unwrap().dropped.refused, 1);
}
