//! Lineage events against the official JSON schemas.

use std::collections::BTreeMap;

use jsonschema::Validator;
use mlops_core::clock::from_micros;
use mlops_core::conformance::OpenLineageSchemas;
use mlops_core::lineage::openlineage::*;
use mlops_core::{Digest, RunId, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

fn value(event: &RunEvent) -> Value {
    serde_json::from_str(&event.to_json().unwrap()).unwrap()
}

fn at(micros: i64) -> Timestamp {
    from_micros(micros)
}

/// An event with every facet there is, and everything that each can say.
fn everything(event_type: EventType) -> RunEvent {
    let run = RunId::derived(at(0), b"run");
    let url = |text: &str| text.parse::<Uri>().unwrap();
    let job = Job::new("shop", "prices.train").facet(JobTypeFacet::batch().job_type("STEP")).facet(
        SourceCodeLocationFacet::git(url("https://git.example/shop/blob/4f92db1/train.rs"))
            .repo_url("git@git.example:shop.git")
            .path("train.rs")
            .version("4f92db1")
            .tag("v1")
            .branch("main")
            .pull_request_number("42"),
    );
    let mut parent = ParentFacet::new(Run::new(run), Job::new("shop", "prices"));
    parent.root = Some(ParentRoot::new(Run::new(run), Job::new("shop", "prices")));
    let environment = EnvironmentFacet::new()
        .commit("4f92db1")
        .dirty(false)
        .lock_file(Digest::of(b"Cargo.lock"))
        .toolchain("rustc 1.95.0")
        .image("sha256:0a")
        .seed(u64::MAX);
    let step = StepFacet::new("train").input("ingest", Digest::of(b"rows")).output(Digest::of(b"model"));
    let mut here = Run::step(run, "train")
        .facet(parent)
        .facet(environment)
        .facet(step.computed_by(run).code("declared:v1"))
        .facet(NominalTimeFacet::new(at(0)).until(at(86_400_000_000)))
        .facet(ErrorMessageFacet::new("no labels\n\u{0}").stack_trace("at train.rs:3"));
    here.facets.set_custom("acme_budget", &url("https://acme.example/budget.json"), serde_json::Map::new());
    let quantiles = [("0.5", 1.0), ("1", f64::NAN)].map(|(q, v)| (q.to_owned(), v)).into();
    let mut metrics = ColumnMetrics { quantiles, ..ColumnMetrics::default() };
    (metrics.null_count, metrics.distinct_count, metrics.count) = (Some(0), Some(9), Some(10.0));
    (metrics.min, metrics.max, metrics.sum) = (Some(f64::NEG_INFINITY), Some(1e300), Some(f64::NAN));
    let mut quality = DataQualityMetricsFacet::new().row_count(10u64).bytes(99u64).file_count(1u64);
    quality = quality.column("price", metrics);
    quality.last_updated = Some(at(1));
    let nested = SchemaField::new("address", "struct").description("where").field(SchemaField::new("zip", "Utf8"));
    let made = InputField::new("s3://feeds", "prices.csv", "price").transformation(Transformation::direct("IDENTITY"));
    let filter = InputField::new("s3://feeds", "prices.csv", "day").transformation(Transformation::indirect("FILTER"));
    let rows = Dataset::new("s3://feeds", "prices.csv")
        .facet(SchemaFacet::new([SchemaField::new("price", "Float64"), nested]))
        .facet(VersionFacet::new(Digest::of(b"rows")))
        .facet(quality.clone())
        .facet(ColumnLineageFacet::new().column("price", [made]).whole(filter));
    let predictions = PredictionsFacet::new("1996-05-07").between(at(0), at(1)).rows(10u64).deployment("web");
    let model = ModelFacet::new("prices", 3).package(Digest::of(b"package"));
    RunEvent::new(event_type, at(1_000_001), here, job)
        .producer(url("https://shop.example/trainer/v1"))
        .input(InputDataset::from(rows).input_facet(quality))
        .output(Dataset::model("shop", model))
        .output(Dataset::deployment("shop", DeploymentFacet::new("web").arm("champion", 0.9).arm("canary", f64::NAN)))
        .output(Dataset::predictions("shop", predictions))
}

const TYPES: [EventType; 6] =
    [EventType::Start, EventType::Running, EventType::Complete, EventType::Abort, EventType::Fail, EventType::Other];

/// Without the one whose schema is the caller's.
fn ours(event: &RunEvent) -> Value {
    let mut event = value(event);
    assert!(event["run"]["facets"].as_object_mut().unwrap().remove("acme_budget").is_some());
    event
}

#[test]
fn every_kind_of_event_with_every_facet_is_valid() {
    let schemas = OpenLineageSchemas::new();
    for event_type in TYPES {
        let event = everything(event_type);
        assert_eq!(schemas.faults(&ours(&event)), [""; 0]);
        let mut least = RunEvent::new(event_type, at(0), Run::new(RunId::new(at(0))), Job::new("", ""));
        assert_eq!(schemas.faults(&value(&least)), [""; 0]);
        least = least.input(Dataset::new("", "")).output(Dataset::new("", ""));
        assert_eq!(schemas.faults(&value(&least)), [""; 0]);
    }
    let used: Vec<String> = ours(&everything(EventType::Start)).to_string().split('"').map(str::to_owned).collect();
    for url in schemas.urls().filter(|url| url.contains("Facet.json#") && url.ends_with("Facet")) {
        assert!(used.iter().any(|word| word == url), "no facet of {url} was checked");
    }
}

#[test]
fn broken_events_and_facets_are_found() {
    let schemas = OpenLineageSchemas::new();
    let whole = ours(&everything(EventType::Start));
    let broken: [(&str, Value); 17] = [
        ("/eventType", json!("BEGUN")),
        ("/eventTime", json!("1996-05-07 00:00")),
        ("/producer", json!("not a uri")),
        ("/run", json!(null)),
        ("/run/runId", json!("run 1")),
        ("/job/namespace", json!(1)),
        ("/inputs/0/name", json!(null)),
        ("/run/facets/parent/_producer", json!(null)),
        ("/run/facets/parent/job", json!({})),
        ("/run/facets/mlops_environment/seed", json!(-1)),
        ("/run/facets/mlops_step/output", json!("abc")),
        ("/job/facets/sourceCodeLocation/url", json!("git@git.example:shop.git")),
        ("/inputs/0/inputFacets/dataQualityMetrics/columnMetrics/price/max", json!("high")),
        ("/inputs/0/facets/columnLineage/fields/price/inputFields/0/field", json!(null)),
        ("/outputs/0/facets/mlops_model/version", json!("three")),
        ("/outputs/1/facets/mlops_deployment/arms/champion", json!(1.1)),
        ("/outputs/2/facets/mlops_predictions/from", json!("yesterday")),
    ];
    for (pointer, bad) in broken {
        let mut event = whole.clone();
        *event.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} is not there")) = bad;
        assert!(!schemas.faults(&event).is_empty(), "{pointer} may be anything");
    }
}

#[test]
fn events_read_back_equal_and_foreign_facets_are_kept() {
    for event_type in TYPES {
        let event = RunEvent::from_json(&everything(event_type).to_json().unwrap()).unwrap();
        assert_eq!(value(&event), value(&everything(event_type)));
        let deployment = event.outputs[1].dataset.facets.find::<DeploymentFacet>().unwrap().unwrap();
        assert_eq!(deployment.arms, BTreeMap::from([("champion".to_owned(), 0.9)]));
    }
    // As the Python client writes it, with empty objects, and with nulls as others do.
    let foreign = json!({
        "eventTime": "2024-01-02T03:04:05.6+02:00",
        "producer": "http://[::1]:80/airflow",
        "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": { "runId": "0190d9a0-0000-7000-8000-000000000001", "facets": {
            "spark_version": { "_producer": "urn:x", "_schemaURL": "urn:y", "spark-version": "3.5", "deep": [{}, null] },
            "errorMessage": { "_producer": "urn:x", "_schemaURL": "urn:y", "message": 1 } } },
        "job": { "namespace": "airflow", "name": "load", "facets": {} },
        "inputs": [{ "namespace": "a", "name": "b", "facets": null, "inputFacets": {} }],
        "outputs": null,
    });
    let event = RunEvent::from_json(&foreign.to_string()).unwrap();
    assert_eq!(event.event_type, EventType::Other);
    assert_eq!(event.event_time.to_rfc3339(), "2024-01-02T01:04:05.600+00:00");
    assert_eq!(event.run.facets.value("spark_version"), Some(&foreign["run"]["facets"]["spark_version"]));
    let error = event.run.facets.find::<ErrorMessageFacet>().unwrap_err();
    assert!(error.to_string().contains("errorMessage"), "{error}");
    let written = value(&event);
    assert_eq!(written["run"], foreign["run"]);
    assert_eq!(RunEvent::from_json(&written.to_string()).unwrap(), event);
    for (field, bad) in [("run", json!({})), ("eventTime", json!("now")), ("producer", json!("me")), ("job", json!([]))]
    {
        let mut broken = foreign.clone();
        broken[field] = bad;
        assert!(RunEvent::from_json(&broken.to_string()).is_err(), "{field}");
    }
}

#[test]
fn what_is_no_uri_is_refused() {
    let bad = [
        "",
        "shop",
        "git@git.example:shop.git",
        "1a:b",
        "http://a b",
        "a:b#c#d",
        "a:%4",
        "a:%zz",
        "http://[x]/",
        "a:ß",
    ];
    for text in bad.into_iter().chain(["http://a:b:c/", "http://a@b@c/", "http://host:port/", "a:[", "http://a/[b]"]) {
        assert!(text.parse::<Uri>().is_err(), "{text:?}");
    }
    for text in
        ["urn:x", "https://u:p@h:1/p?q=a/b#f", "http://[::1]:80/", "file:///a", "a:", "ssh://git@h/a%20b", "http://"]
    {
        assert!(text.parse::<Uri>().is_ok(), "{text:?}");
    }
}

fn events() -> impl Strategy<Value = RunEvent> {
    let text = || prop_oneof![any::<String>(), "[a-z/.@]{0,8}"];
    let dataset = (text(), text(), text(), any::<u64>(), any::<[f64; 3]>(), any::<i64>(), 0..4).prop_map(
        |(namespace, name, other, n, floats, micros, what)| {
            let metrics = ColumnMetrics {
                null_count: Some(n),
                count: Some(floats[0]),
                min: Some(floats[1]),
                quantiles: BTreeMap::from([(other.clone(), floats[2])]),
                ..ColumnMetrics::default()
            };
            let mut quality = DataQualityMetricsFacet::new().row_count(n).column(&other, metrics);
            quality.last_updated = Some(at(micros));
            let lineage = ColumnLineageFacet::new().column(&other, [InputField::new(&namespace, &name, &other)]);
            let plain = match what {
                0 => Dataset::model(namespace, ModelFacet::new(name, n)),
                1 => Dataset::deployment(namespace, DeploymentFacet::new(name).arm(other.clone(), floats[0])),
                2 => Dataset::predictions(namespace, PredictionsFacet::new(name).between(at(micros), at(n as i64))),
                _ => Dataset::new(namespace, name),
            };
            let schema = SchemaFacet::new([SchemaField::new(&other, &other)]);
            plain.facet(quality).facet(lineage).facet(schema).facet(VersionFacet::new(other))
        },
    );
    let datasets = || prop::collection::vec(dataset.clone(), 0..3);
    let run = (any::<i64>(), text(), any::<u64>());
    let parts = (prop::sample::select(TYPES.to_vec()), run, text(), text(), datasets(), datasets());
    parts.prop_map(move |(event_type, (micros, said, seed), namespace, name, inputs, outputs)| {
        let id = RunId::derived(at(micros), said.as_bytes());
        let run = Run::step(id, &said)
            .facet(ParentFacet::new(Run::new(id), Job::new(&namespace, &said)))
            .facet(StepFacet::new(&said).input(&name, Digest::of(b"")).computed_by(id))
            .facet(EnvironmentFacet::new().commit(&said).seed(seed))
            .facet(ErrorMessageFacet::new(&said))
            .facet(NominalTimeFacet::new(at(micros)));
        let mut job = Job::new(namespace, name);
        if let Ok(uri) = said.parse::<Uri>() {
            job = job.facet(SourceCodeLocationFacet::git(uri));
        }
        let event = RunEvent::new(event_type, at(micros), run, job);
        let event = inputs.into_iter().fold(event, |event, d| event.input(d));
        outputs.into_iter().fold(event, |event, d| event.output(d))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_events_are_valid_and_read_back(event in events()) {
        thread_local!(static SCHEMAS: OpenLineageSchemas = OpenLineageSchemas::new());
        let text = event.to_json().unwrap();
        prop_assert!(!text.contains('\n'));
        let written = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(SCHEMAS.with(|schemas| schemas.faults(&written)), Vec::<String>::new());
        let read = RunEvent::from_json(&text).unwrap();
        prop_assert_eq!(read.to_json().unwrap(), text);
        let _ = mlops_core::lineage::graph_of(&event, "shop");
    }

    #[test]
    fn what_is_taken_for_a_uri_is_one(text in "[a-z]{1,3}:(//)?[a-z0-9:/?#@%\\[\\]!&=.~ \"<ß-]{0,12}") {
        if text.parse::<Uri>().is_ok() {
            thread_local!(static URI: Validator = jsonschema::draft202012::options()
                .should_validate_formats(true).build(&json!({ "format": "uri" })).unwrap());
            prop_assert!(URI.with(|schema| schema.is_valid(&json!(text))), "{}", text);
        }
    }

    #[test]
    fn reading_never_panics(text in any::<String>()) {
        let _ = RunEvent::from_json(&text);
        let _ = text.parse::<Uri>();
    }
}
