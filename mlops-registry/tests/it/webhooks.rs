//! Webhooks, delivered to real HTTP servers on loopback.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use mlops_core::store::{EncryptionKey, KeyRing, MemoryStore};
use mlops_core::{Clock as _, ManualClock, Principal, Role, SystemClock, WebhookId, clock};
use mlops_registry::webhooks::{
    DELIVERY_ID_HEADER, DeliveryState, NewWebhook, Received, Resolver, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER,
    WebhookDispatcher, WebhookDispatcherBuilder, WebhookEdit, WebhookEvent, WebhookStatus,
};
use mlops_registry::{
    Durability, EventKind, ModelEdit, ModelRegistry, NewModel, NewPromotion, SqlRegistry, VersionEdit,
};
use serde_json::{Value, json};

use crate::place::Place;
use crate::{builder, in_memory, versions, who};

/// What a receiver got, and what it answers next.
#[derive(Clone, Default)]
struct Inbox {
    got: Arc<Mutex<Vec<Got>>>,
    answers: Arc<Mutex<VecDeque<Response>>>,
    /// How long it thinks first.
    pause: Duration,
}

#[derive(Clone, Debug)]
struct Got {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// `registered_model.created prices`
    fn said(&self) -> String {
        let body = self.json();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        format!("{}.{} {}", word(&body["entity"]), word(&body["action"]), word(&body["data"]["name"]))
    }
}

impl Inbox {
    async fn open(self) -> (Self, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(take).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (self, url)
    }

    fn answer(&self, answer: impl axum::response::IntoResponse) -> &Self {
        self.answers.lock().unwrap().push_back(answer.into_response());
        self
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    fn said(&self) -> Vec<String> {
        self.got().iter().map(Got::said).collect()
    }
}

async fn take(State(inbox): State<Inbox>, request: axum::extract::Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    inbox.got.lock().unwrap().push(Got { path: parts.uri.to_string(), headers: parts.headers, body });
    tokio::time::sleep(inbox.pause).await;
    let answer = inbox.answers.lock().unwrap().pop_front();
    answer.unwrap_or_else(|| "thanks".into_response())
}

fn root() -> Principal {
    who("root", Role::Admin)
}

fn of(kind: EventKind) -> WebhookEvent {
    WebhookEvent::of(kind)
}

fn created() -> [WebhookEvent; 1] {
    [of(EventKind::ModelCreated)]
}

/// May go to loopback, and does not wait long.
fn dispatcher(registry: &SqlRegistry) -> WebhookDispatcherBuilder {
    WebhookDispatcher::builder(registry.clone())
        .allow("127.0.0.0/8".parse().unwrap())
        .timeout(Duration::from_secs(2))
        .backoff(Duration::from_millis(1), Duration::from_millis(2))
}

async fn hook(registry: &SqlRegistry, url: &str, events: impl IntoIterator<Item = WebhookEvent>) -> WebhookId {
    registry.create_webhook(&root(), NewWebhook::new("ci", url, events)).await.unwrap().id
}

async fn model(registry: &SqlRegistry, name: &str) {
    registry.create_model(&root(), NewModel::new(name)).await.unwrap();
}

async fn states(registry: &SqlRegistry, id: WebhookId) -> Vec<(DeliveryState, u32, Option<u16>)> {
    let mut all = registry.deliveries(id, 1_000).await.unwrap();
    all.reverse();
    all.iter().map(|d| (d.state, d.attempts, d.last_status)).collect()
}

/// Calls until it holds.
async fn wait_until(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..2_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to that");
}

#[tokio::test]
async fn everything_is_told_in_order_in_mlflow_s_words_and_signed() {
    let (registry, store) = in_memory().await;
    let (inbox, url) = Inbox::default().open().await;
    let (ana, rob) = (who("ana", Role::Contributor), who("rob", Role::Reviewer));
    model(&registry, "before").await;
    let secret = Secret::new("s3cret");
    let new = NewWebhook::new("ci", format!("{url}?token=1"), WebhookEvent::all()).secret(secret.clone());
    let id = registry.create_webhook(&root(), new).await.unwrap().id;
    versions(&registry, &store, 1).await;
    registry.edit_version(&ana, "m", 1, VersionEdit::new().set_tag("k", "v\u{e9}").description("d")).await.unwrap();
    registry.edit_version(&ana, "m", 1, VersionEdit::new().remove_tag("k")).await.unwrap();
    let asked = registry.request_promotion(&ana, NewPromotion::new("m", 1, "champion").reason("r")).await.unwrap();
    registry.approve(&rob, asked.id, "good").await.unwrap();
    registry.promote(&root(), asked.id).await.unwrap();
    registry.remove_alias(&root(), "m", "champion", "over").await.unwrap();
    registry.edit_model(&root(), "m", ModelEdit::new().rename("n")).await.unwrap();
    let done = dispatcher(&registry).build().unwrap().deliver_pending().await.unwrap();
    let got = inbox.got();
    assert_eq!((done.delivered, done.failed, done.put_off), (got.len() as u64, 0, 0));
    let bodies: Vec<(String, Value)> = got
        .iter()
        .map(|got| {
            let said = got.said();
            (said.split_once(' ').unwrap().0.to_owned(), got.json()["data"].clone())
        })
        .collect();
    let promotion = json!({ "name": "m", "version": "1", "alias": "champion", "promotion": asked.id });
    let expected = [
        ("registered_model.created", json!({ "name": "m", "tags": {}, "description": "" })),
        (
            "model_version.created",
            json!({ "name": "m", "version": "1", "source": "models:/m/1", "run_id": null, "tags": {}, "description": null }),
        ),
        ("mlops.model_version.updated", json!({ "name": "m", "version": "1" })),
        ("model_version_tag.set", json!({ "name": "m", "version": "1", "key": "k", "value": "vé" })),
        ("model_version_tag.deleted", json!({ "name": "m", "version": "1", "key": "k" })),
        ("mlops.promotion.requested", promotion.clone()),
        ("mlops.promotion.approved", promotion),
        ("model_version_alias.created", json!({ "name": "m", "version": "1", "alias": "champion" })),
        ("model_version_alias.deleted", json!({ "name": "m", "alias": "champion" })),
        ("mlops.registered_model.renamed", json!({ "name": "m", "new_name": "n" })),
    ];
    assert_eq!(bodies, expected.map(|(event, data)| (event.to_owned(), data)));
    let deliveries = registry.deliveries(id, 100).await.unwrap();
    let mut ids = BTreeSet::new();
    for (got, delivery) in got.iter().rev().zip(&deliveries) {
        let received = Received {
            delivery_id: got.header(DELIVERY_ID_HEADER),
            timestamp: got.header(TIMESTAMP_HEADER),
            signature: got.header(SIGNATURE_HEADER),
            payload: &got.body,
        };
        secret.verify(&received, SystemClock.now(), Duration::from_secs(10)).unwrap();
        assert_eq!(got.header(DELIVERY_ID_HEADER), delivery.id.to_string());
        assert_eq!((got.header("content-type"), &*got.path), ("application/json", "/hook?token=1"));
        assert_eq!((delivery.state, delivery.last_status), (DeliveryState::Delivered, Some(200)));
        assert_eq!((delivery.excerpt.as_deref(), &delivery.last_error), (Some("thanks"), &None));
        ids.insert(delivery.id);
    }
    assert_eq!(ids.len(), got.len());
    assert_eq!(dispatcher(&registry).build().unwrap().deliver_pending().await.unwrap().delivered, 0, "once");
}

#[tokio::test]
async fn what_fails_is_tried_again_with_the_same_id_and_the_next_one_waits() {
    let (registry, _store) = in_memory().await;
    let (inbox, url) = Inbox::default().open().await;
    inbox.answer(StatusCode::INTERNAL_SERVER_ERROR).answer((StatusCode::SERVICE_UNAVAILABLE, "not\0 yet"));
    let id = hook(&registry, &url, created()).await;
    for name in ["a", "b"] {
        model(&registry, name).await;
    }
    let dispatcher = dispatcher(&registry).build().unwrap();
    let mut delivered = 0;
    wait_until(async || {
        let done = dispatcher.deliver_pending().await.unwrap();
        delivered += done.delivered;
        delivered == 2
    })
    .await;
    assert_eq!(inbox.said(), ["a", "a", "a", "b"].map(|name| format!("registered_model.created {name}")));
    let got = inbox.got();
    for again in &got[1..3] {
        assert_eq!(again.header(DELIVERY_ID_HEADER), got[0].header(DELIVERY_ID_HEADER));
        assert_eq!(again.body, got[0].body);
        assert!(!again.headers.contains_key(SIGNATURE_HEADER), "without a secret there is no signature");
    }
    assert_ne!(got[3].header(DELIVERY_ID_HEADER), got[0].header(DELIVERY_ID_HEADER));
    let expected = [(DeliveryState::Delivered, 3, Some(200)), (DeliveryState::Delivered, 1, Some(200))];
    assert_eq!(states(&registry, id).await, expected);
}

/// In a time that stands still until it is moved.
#[tokio::test]
async fn the_delay_doubles_and_an_answer_may_ask_for_a_longer_one() {
    let at = ManualClock::at(clock::from_micros(1_700_000_000_000_000));
    let store = MemoryStore::default();
    let registry = builder(&store).clock(at.clone()).open_in_memory().await.unwrap();
    let (inbox, url) = Inbox::default().open().await;
    for _ in 0..4 {
        inbox.answer(StatusCode::BAD_GATEWAY);
    }
    inbox.answer((StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "100")]));
    inbox.answer((StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1000000")]));
    let id = hook(&registry, &url, created()).await;
    model(&registry, "a").await;
    let (first, most) = (Duration::from_secs(1), Duration::from_secs(4));
    let dispatcher = dispatcher(&registry).backoff(first, most).build().unwrap();
    for (n, least) in [1, 2, 4, 4, 100, 3_600].into_iter().enumerate() {
        assert_eq!(dispatcher.deliver_pending().await.unwrap().put_off, 1, "{n}");
        let next = registry.deliveries(id, 1).await.unwrap()[0].next_at.unwrap();
        let delay = (next - at.now()).to_std().unwrap();
        let (least, most) = (Duration::from_secs(least), Duration::from_millis(least * 1_500));
        assert!((least..=most).contains(&delay), "{n}: {delay:?}");
        at.advance(delay - Duration::from_micros(1));
        assert_eq!(dispatcher.deliver_pending().await.unwrap(), Default::default(), "{n}: not yet");
        at.advance(Duration::from_micros(1));
    }
    assert_eq!(dispatcher.deliver_pending().await.unwrap().delivered, 1);
    assert_eq!(inbox.got().len(), 7);
}

#[tokio::test]
async fn what_is_given_up_is_listed_and_the_next_one_goes_on() {
    let (registry, _store) = in_memory().await;
    let (inbox, url) = Inbox::default().open().await;
    let (other, elsewhere) = Inbox::default().open().await;
    for _ in 0..3 {
        inbox.answer(StatusCode::GATEWAY_TIMEOUT);
    }
    inbox.answer((StatusCode::NOT_FOUND, "é".repeat(5_000)));
    inbox.answer((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, elsewhere)]));
    inbox.answer(StatusCode::NO_CONTENT);
    let id = hook(&registry, &url, created()).await;
    for name in ["a", "b", "c", "d"] {
        model(&registry, name).await;
    }
    let dispatcher = dispatcher(&registry).attempts(3).build().unwrap();
    let mut failed = 0;
    wait_until(async || {
        failed += dispatcher.deliver_pending().await.unwrap().failed;
        failed == 3
    })
    .await;
    let expected = [
        (DeliveryState::Failed, 3, Some(504)),
        (DeliveryState::Failed, 1, Some(404)),
        (DeliveryState::Failed, 1, Some(307)),
        (DeliveryState::Delivered, 1, Some(204)),
    ];
    assert_eq!(states(&registry, id).await, expected);
    assert!(other.got().is_empty(), "redirects are not followed");
    let listed = registry.deliveries(id, 1_000).await.unwrap();
    assert_eq!(listed[3].last_error.as_deref(), Some("answered 504"));
    assert_eq!(listed[2].excerpt.as_ref().unwrap().chars().count(), 1_000);
    assert_eq!(listed[1].last_error.as_deref(), Some("answered 307, and redirects are not followed"));
    assert_eq!(registry.deliveries(id, 1).await.unwrap(), listed[..1]);
}

#[tokio::test]
async fn nobody_there_and_no_answer_in_time_are_tried_again() {
    let (registry, _store) = in_memory().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}/", listener.local_addr().unwrap());
    let closed =
        format!("http://{}/", tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap());
    // Says that there is more to come, and stops.
    let (drip, slow) = Inbox::default().open().await;
    let never = futures::stream::once(async { Ok::<_, std::io::Error>(Bytes::from("partly")) });
    drip.answer(axum::body::Body::from_stream(futures::StreamExt::chain(never, futures::stream::pending())));
    let hooks = [
        hook(&registry, &silent, created()).await,
        hook(&registry, &closed, created()).await,
        hook(&registry, &slow, created()).await,
    ];
    model(&registry, "a").await;
    let dispatcher = dispatcher(&registry)
        .timeout(Duration::from_millis(300))
        .backoff(Duration::from_secs(60), Duration::from_secs(60));
    let done = dispatcher.build().unwrap().deliver_pending().await.unwrap();
    assert_eq!((done.put_off, done.delivered, done.failed), (2, 1, 0));
    let last = async |id| registry.deliveries(id, 1).await.unwrap().remove(0);
    assert_eq!(last(hooks[0]).await.last_error.as_deref(), Some("no answer in 300ms"));
    assert!(last(hooks[1]).await.last_error.unwrap().starts_with("cannot connect to 127.0.0.1:"));
    assert_eq!(last(hooks[2]).await.excerpt.as_deref(), Some("partly"));
}

#[tokio::test]
async fn a_webhook_hears_what_it_asked_for_after_it_asked() {
    let (registry, _store) = in_memory().await;
    let (inbox, url) = Inbox::default().open().await;
    let dispatcher = dispatcher(&registry).build().unwrap();
    let id = hook(&registry, &url, created()).await;
    let edit = async |edit| registry.edit_webhook(&root(), id, edit).await.unwrap();
    model(&registry, "a").await;
    registry.edit_model(&root(), "a", ModelEdit::new().description("too early")).await.unwrap();
    edit(WebhookEdit::new().events([of(EventKind::ModelUpdated), of(EventKind::ModelCreated)])).await;
    registry.edit_model(&root(), "a", ModelEdit::new().description("told")).await.unwrap();
    dispatcher.deliver_pending().await.unwrap();
    // While it is disabled nothing is told, nor later.
    edit(WebhookEdit::new().status(WebhookStatus::Disabled)).await;
    model(&registry, "b").await;
    assert_eq!(dispatcher.deliver_pending().await.unwrap(), Default::default());
    edit(WebhookEdit::new().status(WebhookStatus::Active)).await;
    model(&registry, "c").await;
    dispatcher.deliver_pending().await.unwrap();
    // A delivery that was begun goes on, in the words it began with, to where the webhook leads by then.
    inbox.answer(StatusCode::BAD_GATEWAY);
    model(&registry, "d").await;
    assert_eq!(dispatcher.deliver_pending().await.unwrap().put_off, 1);
    edit(WebhookEdit::new().status(WebhookStatus::Disabled).events([of(EventKind::AliasMoved)])).await;
    model(&registry, "e").await;
    edit(WebhookEdit::new().status(WebhookStatus::Active)).await;
    wait_until(async || dispatcher.deliver_pending().await.unwrap().delivered == 1).await;
    let words = ["created a", "updated a", "created c", "created d", "created d"];
    let said: Vec<String> = inbox.said().iter().map(|said| said.rsplit_once('.').unwrap().1.to_owned()).collect();
    assert_eq!(said, words);
    // Deleted, it hears nothing, and cannot be changed.
    model(&registry, "f").await;
    registry.delete_webhook(&root(), id, "over").await.unwrap();
    assert_eq!(dispatcher.deliver_pending().await.unwrap(), Default::default());
    assert!(registry.edit_webhook(&root(), id, WebhookEdit::new()).await.unwrap_err().is_not_found());
    assert!(registry.deliveries(id, 1).await.unwrap_err().is_not_found());
    assert!(registry.webhooks().await.unwrap().is_empty());
}

/// What names lead to, one answer after the other; the last one stays.
#[derive(Debug)]
struct Names(Mutex<BTreeMap<String, VecDeque<Vec<IpAddr>>>>);

impl Names {
    fn new<const N: usize>(name: &str, answers: [&[&str]; N]) -> Self {
        let answers = answers.iter().map(|all| all.iter().map(|ip| ip.parse().unwrap()).collect()).collect();
        Self(Mutex::new([(name.to_owned(), answers)].into()))
    }
}

#[async_trait::async_trait]
impl Resolver for Names {
    async fn resolve(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        let mut names = self.0.lock().unwrap();
        let answers = names.get_mut(host).ok_or_else(|| std::io::Error::other("no such name"))?;
        Ok(if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() })
    }
}

#[tokio::test]
async fn nothing_is_sent_where_it_may_not_go() {
    let (registry, _store) = in_memory().await;
    let (inbox, url) = Inbox::default().open().await;
    let port = url.rsplit_once(':').unwrap().1.strip_suffix("/hook").unwrap().to_owned();
    let strict = || WebhookDispatcher::builder(registry.clone()).timeout(Duration::from_millis(500));
    for (url, why) in [
        (url.clone(), "127.0.0.1, which is not a public address"),
        (format!("http://localhost:{port}/"), "localhost leads to"),
        (format!("http://127.1:{port}/"), "127.1 leads to 127.0.0.1"),
        (format!("http://2130706433:{port}/"), "2130706433 leads to 127.0.0.1"),
        (format!("http://0x7f.1:{port}/"), "0x7f.1 leads to 127.0.0.1"),
        (format!("http://0.0.0.0:{port}/"), "0.0.0.0, which is not a public address"),
        (format!("http://[::1]:{port}/"), "::1, which is not a public address"),
        (format!("http://[::ffff:127.0.0.1]:{port}/"), "::ffff:127.0.0.1, which is not a public address"),
        (format!("https://[64:ff9b::7f00:1]:{port}/"), "64:ff9b::7f00:1, which is not a public address"),
        ("http://169.254.169.254/latest/meta-data".to_owned(), "169.254.169.254, which is not a public address"),
        ("http://1.1.1.1/".to_owned(), "over https alone"),
    ] {
        let dispatcher = strict().build().unwrap();
        let refused = dispatcher.check_url(&url).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{url}: {refused}");
        let id = hook(&registry, &url, created()).await;
        model(&registry, &url.replace([':', '/', '@'], "-")).await;
        assert_eq!(dispatcher.deliver_pending().await.unwrap().failed, 1, "{url}");
        let delivery = registry.deliveries(id, 1).await.unwrap().remove(0);
        assert!(delivery.last_error.unwrap().contains(why) && delivery.attempts == 1, "{url}");
        let test = dispatcher.test(&root(), id, None).await.unwrap();
        assert!(!test.success && test.error.unwrap().contains(why), "{url}");
        registry.delete_webhook(&root(), id, "over").await.unwrap();
    }
    assert!(inbox.got().is_empty(), "{:?}", inbox.got());
}

/// The name is looked up once for each attempt, and what was checked is what is connected to.
#[tokio::test]
async fn a_name_that_leads_elsewhere_the_second_time_is_not_followed() {
    let (registry, _store) = in_memory().await;
    let (inbox, url) = Inbox::default().open().await;
    let url = url.replace("127.0.0.1", "evil.example");
    let strict = |names: Names| {
        WebhookDispatcher::builder(registry.clone())
            .allow("127.0.0.9".parse().unwrap())
            .resolver(names)
            .timeout(Duration::from_millis(300))
    };
    // Checked as 127.0.0.9, where nobody listens; asked again, it would lead to the receiver.
    let moving =
        strict(Names::new("evil.example", [&["127.0.0.9"], &["127.0.0.1"]])).backoff(Duration::ZERO, Duration::ZERO);
    let moving = moving.build().unwrap();
    let id = hook(&registry, &url, created()).await;
    model(&registry, "a").await;
    assert_eq!(moving.deliver_pending().await.unwrap().failed, 1, "one attempt, and the second is refused");
    let delivery = registry.deliveries(id, 1).await.unwrap().remove(0);
    assert_eq!(delivery.attempts, 2);
    assert!(delivery.last_error.as_ref().unwrap().contains("evil.example leads to 127.0.0.1"), "{delivery:?}");
    // Checked when it was set up, it is checked again when it is used.
    let moving = strict(Names::new("evil.example", [&["127.0.0.9"], &["127.0.0.1"]])).build().unwrap();
    moving.check_url(&url).await.unwrap();
    assert!(moving.test(&root(), id, None).await.unwrap().error.unwrap().contains("leads to 127.0.0.1"));
    // One bad address among good ones is enough, whatever its place.
    for mixed in [["127.0.0.9", "127.0.0.1"], ["127.0.0.1", "127.0.0.9"]] {
        let mixed = strict(Names::new("evil.example", [&mixed])).build().unwrap();
        assert!(mixed.check_url(&url).await.unwrap_err().to_string().contains("leads to 127.0.0.1"));
    }
    // A name that is not known may be later.
    let gone = strict(Names::new("other.example", [&["127.0.0.9"]])).build().unwrap();
    model(&registry, "b").await;
    assert_eq!(gone.deliver_pending().await.unwrap().put_off, 1);
    assert!(inbox.got().is_empty(), "{:?}", inbox.got());
    // Several good ones: the first that answers.
    let good =
        dispatcher(&registry).resolver(Names::new("evil.example", [&["127.0.0.9", "127.0.0.1"]])).build().unwrap();
    assert!(good.test(&root(), id, None).await.unwrap().success);
    assert_eq!(inbox.got()[0].header("host"), url.split('/').nth(2).unwrap(), "the name is what is asked for");
}

#[tokio::test]
async fn over_tls_the_certificate_must_be_that_of_the_name() {
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{ServerConfig, crypto::ring};
    const CERTIFICATE: &[u8] = include_bytes!("../tls/cert.pem");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(CERTIFICATE).unwrap()],
            PrivateKeyDer::from_pem_slice(include_bytes!("../tls/key.pem")).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let inbox = Inbox::default();
    let app = axum::Router::new().fallback(take).with_state(inbox.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, app) = (acceptor.clone(), app.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper_util::service::TowerToHyperService::new(app);
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    let (registry, _store) = in_memory().await;
    let id = hook(&registry, &format!("https://hooks.test:{port}/hook"), created()).await;
    let other = hook(&registry, &format!("https://other.test:{port}/hook"), created()).await;
    let names = || {
        let names = Names::new("hooks.test", [&["127.0.0.1"]]);
        names.0.lock().unwrap().insert("other.test".into(), [vec!["127.0.0.1".parse().unwrap()]].into());
        names
    };
    let trusting = dispatcher(&registry).resolver(names()).trust(CERTIFICATE).build().unwrap();
    let test = trusting.test(&root(), id, None).await.unwrap();
    assert!(test.success, "{test:?}");
    assert_eq!(inbox.got().len(), 1);
    let wrong_name = trusting.test(&root(), other, None).await.unwrap().error.unwrap();
    assert!(wrong_name.contains("not valid for name"), "{wrong_name}");
    let unknown = dispatcher(&registry).resolver(names()).build().unwrap().test(&root(), id, None).await.unwrap();
    assert!(unknown.error.unwrap().contains("no TLS: invalid peer certificate"));
    assert_eq!(inbox.got().len(), 1);
    assert!(dispatcher(&registry).trust("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----").build().is_err());
}

/// Two dispatchers, each with its own connections, while somebody writes.
async fn each_once_and_in_order(place: Place) {
    const EACH: usize = 30;
    let writer = place.open(Durability::Process).await.unwrap();
    let (slow, fast) = (Inbox { pause: Duration::from_millis(3), ..Inbox::default() }, Inbox::default());
    let ((slow, slow_url), (fast, fast_url)) = (slow.open().await, fast.open().await);
    for url in [&slow_url, &fast_url] {
        hook(&writer, url, created()).await;
    }
    let mut running = Vec::new();
    for _ in 0..2 {
        let registry = place.open(Durability::Process).await.unwrap();
        running.push(tokio::spawn(async move { dispatcher(&registry).build().unwrap().run().await }));
    }
    let names: Vec<String> = (0..EACH).map(|n| format!("m{n:02}")).collect();
    for name in &names {
        model(&writer, name).await;
    }
    let expected: Vec<String> = names.iter().map(|name| format!("registered_model.created {name}")).collect();
    for inbox in [&slow, &fast] {
        wait_until(async || inbox.got().len() >= EACH).await;
    }
    // Whoever might tell a second time has the time to.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for inbox in [&slow, &fast] {
        assert_eq!(inbox.said(), expected);
    }
    for task in running {
        assert!(!task.is_finished(), "it goes on");
        task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_dispatchers_tell_each_event_once_on_a_file() {
    let (place, _dir) = Place::file();
    each_once_and_in_order(place).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs a PostgreSQL server: ci/integration.sh"]
async fn two_dispatchers_tell_each_event_once_on_a_server() {
    let (place, _dir) = Place::schema();
    each_once_and_in_order(place).await;
}

/// Not a test by itself: the process that is killed while it waits for an answer.
#[tokio::test]
async fn child_that_delivers_until_it_is_killed() {
    let Some((place, _)) = Place::told() else { return };
    let registry = place.open(Durability::Process).await.unwrap();
    let dispatcher =
        dispatcher(&registry).timeout(Duration::from_secs(3)).lease(Duration::from_secs(4)).build().unwrap();
    let _ = dispatcher.run().await;
}

async fn killed_before_the_answer(place: Place) {
    let registry = place.open(Durability::Process).await.unwrap();
    // Never answers as long as the child lives.
    let (silent, url) = Inbox { pause: Duration::from_secs(3_600), ..Inbox::default() }.open().await;
    let (inbox, answering) = Inbox::default().open().await;
    let id = hook(&registry, &url, created()).await;
    for name in ["a", "b"] {
        model(&registry, name).await;
    }
    let mut child = place.start("webhooks::child_that_delivers_until_it_is_killed", "");
    wait_until(async || !silent.got().is_empty()).await;
    child.kill().unwrap();
    child.wait().unwrap();
    registry.edit_webhook(&root(), id, WebhookEdit::new().url(answering)).await.unwrap();
    let dispatcher = dispatcher(&registry).build().unwrap();
    assert_eq!(dispatcher.deliver_pending().await.unwrap(), Default::default(), "the dead process holds its claim");
    assert_eq!(states(&registry, id).await, [(DeliveryState::Pending, 1, None)]);
    let mut delivered = 0;
    wait_until(async || {
        delivered += dispatcher.deliver_pending().await.unwrap().delivered;
        delivered == 2
    })
    .await;
    assert_eq!(inbox.said(), ["registered_model.created a", "registered_model.created b"]);
    let (before, after) = (&silent.got()[0], &inbox.got()[0]);
    assert_eq!(before.header(DELIVERY_ID_HEADER), after.header(DELIVERY_ID_HEADER));
    assert_eq!(before.body, after.body);
    let expected = [(DeliveryState::Delivered, 2, Some(200)), (DeliveryState::Delivered, 1, Some(200))];
    assert_eq!(states(&registry, id).await, expected);
}

#[tokio::test]
async fn a_kill_before_the_answer_loses_nothing_on_a_file() {
    let (place, _dir) = Place::file();
    killed_before_the_answer(place).await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
#[ignore = "needs a PostgreSQL server: ci/integration.sh"]
async fn a_kill_before_the_answer_loses_nothing_on_a_server() {
    let (place, _dir) = Place::schema();
    killed_before_the_answer(place).await;
}

/// Each attempt takes its process with it; the webhook is not stuck for ever.
#[tokio::test]
async fn a_delivery_whose_every_attempt_is_cut_off_is_given_up() {
    let at = ManualClock::at(clock::from_micros(1_700_000_000_000_000));
    let registry = builder(&MemoryStore::default()).clock(at.clone()).open_in_memory().await.unwrap();
    let (silent, url) = Inbox { pause: Duration::from_secs(3_600), ..Inbox::default() }.open().await;
    let id = hook(&registry, &url, created()).await;
    model(&registry, "a").await;
    let dispatcher = dispatcher(&registry).attempts(2).build().unwrap();
    for n in 1..=2 {
        let cut = tokio::time::timeout(Duration::from_millis(300), dispatcher.deliver_pending()).await;
        assert!(cut.is_err() && silent.got().len() == n, "{n}");
        assert_eq!(dispatcher.deliver_pending().await.unwrap(), Default::default(), "{n}: held");
        at.advance(Duration::from_secs(33));
    }
    assert_eq!(dispatcher.deliver_pending().await.unwrap(), Default::default());
    assert_eq!(states(&registry, id).await, [(DeliveryState::Failed, 2, None)]);
    let (inbox, url) = Inbox::default().open().await;
    registry.edit_webhook(&root(), id, WebhookEdit::new().url(url)).await.unwrap();
    model(&registry, "b").await;
    assert_eq!(dispatcher.deliver_pending().await.unwrap().delivered, 1);
    assert_eq!(inbox.said(), ["registered_model.created b"]);
}

#[tokio::test]
async fn the_secret_is_shown_by_nothing_and_encrypted_where_there_are_keys() {
    let (place, dir) = Place::file();
    let path = dir.path().join("registry.db");
    let open = async |keys: Option<KeyRing>| {
        let builder = SqlRegistry::builder().artifacts(place.store());
        let builder = keys.into_iter().fold(builder, |builder, keys| builder.webhook_keys(keys));
        builder.open_sqlite(&path).await.unwrap()
    };
    let (old, new) = (EncryptionKey::from_bytes([1; 32]), EncryptionKey::from_bytes([2; 32]));
    let ring = || KeyRing::new("old", old.clone());
    let (inbox, url) = Inbox::default().open().await;
    let registry = open(Some(ring())).await;
    let secret = Secret::new("hush-hush-hush");
    let request = NewWebhook::new("ci", &url, created()).secret(secret.clone());
    assert!(!format!("{request:?} {:?}", WebhookEdit::new().secret(secret.clone())).contains("hush"));
    let made = registry.create_webhook(&root(), request).await.unwrap();
    assert!(!format!("{made:?} {}", json!(made)).contains("hush") && made.signed);
    assert!(!format!("{:?}", registry.events(0, 1_000).await.unwrap()).contains("hush"));
    registry.close().await;
    for entry in std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
    {
        let bytes = std::fs::read(&entry).unwrap();
        assert!(!bytes.windows(9).any(|part| part == b"hush-hush"), "{}", entry.display());
    }
    // Without the key, or with another, nothing is sent, and the error says so.
    for (keys, why) in [(None, "no key named old"), (Some(KeyRing::new("old", new.clone())), "old is another key")] {
        let registry = open(keys).await;
        model(&registry, why).await;
        let error = dispatcher(&registry).build().unwrap().deliver_pending().await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        registry.close().await;
    }
    assert!(inbox.got().is_empty());
    // A secret whose key is lost can be replaced.
    let registry = open(None).await;
    let lost = registry.edit_webhook(&root(), made.id, WebhookEdit::new().no_secret().description("d")).await.unwrap();
    assert!(!lost.signed);
    registry.close().await;
    let registry = open(Some(ring())).await;
    registry.edit_webhook(&root(), made.id, WebhookEdit::new().secret(secret.clone())).await.unwrap();
    registry.close().await;
    // Rotated: the old one opens, the new one is for what is written from now on.
    let registry = open(Some(KeyRing::new("new", new).old("old", old.clone()))).await;
    let dispatcher = dispatcher(&registry).build().unwrap();
    assert_eq!(dispatcher.deliver_pending().await.unwrap().delivered, 2);
    let check = |got: &Got| {
        let signature = got.header(SIGNATURE_HEADER);
        let (delivery_id, timestamp) = (got.header(DELIVERY_ID_HEADER), got.header(TIMESTAMP_HEADER));
        let received = Received { delivery_id, timestamp, signature, payload: &got.body };
        secret.verify(&received, SystemClock.now(), Duration::from_secs(60)).unwrap();
    };
    inbox.got().iter().for_each(check);
    // Encrypted anew.
    registry.edit_webhook(&root(), made.id, WebhookEdit::new().secret(Secret::new("other"))).await.unwrap();
    registry.edit_webhook(&root(), made.id, WebhookEdit::new().secret(secret.clone())).await.unwrap();
    assert!(dispatcher.test(&root(), made.id, None).await.unwrap().success);
    check(inbox.got().last().unwrap());
}

#[tokio::test]
async fn webhooks_are_set_up_by_who_may_administer_them_and_repeated_calls_change_nothing() {
    let (registry, _store) = in_memory().await;
    let url = "https://ci.example/hook";
    let new = || NewWebhook::new("ci", url, created()).id(WebhookId::derived(clock::from_micros(1), b"ci"));
    let id = new().id.unwrap();
    let denied = |error: mlops_registry::Error| {
        assert!(matches!(error, mlops_registry::Error::Core(mlops_core::Error::PermissionDenied { .. })), "{error:?}");
    };
    let dispatcher = dispatcher(&registry).build().unwrap();
    registry.create_webhook(&root(), new()).await.unwrap();
    for role in Role::ALL.into_iter().filter(|role| *role != Role::Admin) {
        let who = who("ana", role);
        denied(registry.create_webhook(&who, new()).await.unwrap_err());
        denied(registry.edit_webhook(&who, id, WebhookEdit::new().name("x")).await.unwrap_err());
        denied(registry.delete_webhook(&who, id, "x").await.unwrap_err());
        denied(dispatcher.test(&who, id, None).await.unwrap_err());
    }
    let made = registry.webhook(id).await.unwrap();
    assert_eq!(registry.create_webhook(&root(), new()).await.unwrap(), made);
    let other = registry.create_webhook(&root(), new().description("other")).await.unwrap_err();
    assert!(matches!(other, mlops_registry::Error::Core(mlops_core::Error::AlreadyExists { .. })), "{other:?}");
    let edited = registry.edit_webhook(&root(), id, WebhookEdit::new().name("x")).await.unwrap();
    assert_eq!(registry.create_webhook(&root(), new()).await.unwrap(), edited, "as it is by now");
    registry.delete_webhook(&root(), id, "over").await.unwrap();
    assert!(registry.create_webhook(&root(), new()).await.is_err(), "an id is given once");
    for bad in [
        NewWebhook::new("", url, created()),
        NewWebhook::new("a/b", url, created()),
        NewWebhook::new("a", "https://", created()),
        NewWebhook::new("a", "ftp://ci.example", created()),
        NewWebhook::new("a", url, []),
        NewWebhook::new("a", url, created()).description("\0"),
        NewWebhook::new("a", url, created()).secret(Secret::new("")),
        NewWebhook::new("a", url, created()).secret(Secret::new("\0")),
    ] {
        let error = registry.create_webhook(&root(), bad.clone()).await.unwrap_err();
        assert!(matches!(error, mlops_registry::Error::Core(mlops_core::Error::InvalidInput { .. })), "{bad:?}");
    }
    let strict = || WebhookDispatcher::builder(registry.clone());
    for bad in [
        strict().attempts(0),
        strict().at_once(0),
        strict().timeout(Duration::ZERO),
        strict().timeout(Duration::MAX),
        strict().lease(Duration::from_secs(10)),
        strict().lease(Duration::MAX),
    ] {
        assert!(bad.clone().build().is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn the_last_thousand_deliveries_are_kept() {
    let (registry, _store) = in_memory().await;
    let (inbox, url) = Inbox::default().open().await;
    let id = hook(&registry, &url, created()).await;
    for n in 0..1_005 {
        model(&registry, &format!("m{n}")).await;
    }
    assert_eq!(dispatcher(&registry).build().unwrap().deliver_pending().await.unwrap().delivered, 1_005);
    let kept = registry.deliveries(id, 1_000).await.unwrap();
    assert_eq!((kept.len(), kept[999].seq, inbox.got().len()), (1_000, 6, 1_005));
}
