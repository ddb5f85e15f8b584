//! Model cards: gathered from a registry, complete or empty, in every form.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jsonschema::{Registry, Validator};
use mlops_core::package::Provenance;
use mlops_core::signature::{ColumnSpec, ColumnType, Signature};
use mlops_core::{
    ArtifactStore, Clock as _, DatasetRef, Digest, Finding, Measurement, Package, Role, SystemClock, Verdict,
};
use mlops_registry::card::{Evaluation, Fairness};
use mlops_registry::{
    LogBatch, ModelCard, ModelRegistry, NewExperiment, NewModel, NewPromotion, NewRun, NewVersion, RunStatus,
    TrackingStore, TrackingStoreExt as _,
};
use proptest::prelude::*;
use serde_json::Value;

use crate::{in_memory, who};

/// A registry where version 1 of `prices` was trained, checked, approved and promoted, and its card.
async fn gathered() -> ModelCard {
    let (registry, store) = in_memory().await;
    let [ana, rob, dan] = [("ana", Role::Contributor), ("rob", Role::Reviewer), ("dan", Role::Deployer)]
        .map(|(name, role)| who(name, role));
    let rows = DatasetRef { name: "elec2".into(), digest: Digest::of(b"rows") };
    registry.create_experiment(&ana, NewExperiment::new("weekly")).await.unwrap();
    let run = registry.start_run(&ana, NewRun::new("weekly").name("mlp")).await.unwrap().id();
    let batch = LogBatch::new().param("lr", 0.01).metric("loss", 0.31, 7, SystemClock.now());
    registry.log_batch(&ana, run, batch).await.unwrap();
    registry.log_input(&ana, run, rows.clone(), "training").await.unwrap();
    registry.finish_run(&ana, run, RunStatus::Finished).await.unwrap();

    let column = |name| [ColumnSpec::new(name, ColumnType::Double)];
    let mut provenance = Provenance::default();
    provenance.run = Some(run);
    provenance.datasets = vec![rows, DatasetRef { name: "holidays".into(), digest: Digest::of(b"days") }];
    provenance.commit = Some("4f92db1".into());
    provenance.dirty = Some(true);
    provenance.seed = Some(7);
    let package = Package::builder(Signature::new(column("price"), column("p")).unwrap())
        .flavor("candle", Value::Null)
        .file("weights.safetensors", "abc")
        .provenance(provenance)
        .build()
        .unwrap();
    let digest = package.save(&store).await.unwrap();
    let model = NewModel::new("prices").description("Will the price rise?").tag("team", "grid").tag("owner", "ana");
    registry.create_model(&ana, model).await.unwrap();
    let version = NewVersion::new("prices", digest).run(run).description("first").tag("team", "markets");
    registry.create_version(&ana, version).await.unwrap();
    let passed = Finding::new("accuracy", Verdict::Pass, "above 0.9")
        .with(Measurement::new("accuracy", 0.91).with_interval(0.9, 0.92).with_n(4_368));
    let request = NewPromotion::new("prices", 1, "champion").evidence([passed]).reason("better than nothing");
    let request = registry.request_promotion(&ana, request).await.unwrap();
    registry.approve(&rob, request.id, "looks right").await.unwrap();
    registry.promote(&dan, request.id).await.unwrap();

    let card = ModelCard::gather(&registry, "prices", 1).await.unwrap();
    let read = card.clone().read_package(&store as &dyn ArtifactStore).await.unwrap();
    assert_eq!(read, card.with_package(&package).unwrap());
    assert!(ModelCard::gather(&registry, "prices", 2).await.unwrap_err().is_not_found());
    assert!(ModelCard::gather(&registry, "none", 1).await.unwrap_err().is_not_found());
    read
}

fn stated(card: ModelCard) -> ModelCard {
    let accuracy = Measurement::new("accuracy", 0.912).with_interval(0.905, 0.919).with_n(4_368).with_bound(">= 0.9");
    card.license("Apache-2.0")
        .task("tabular-classification")
        .intended_use("say an hour ahead whether the price will rise")
        .user("traders")
        .out_of_scope("setting prices")
        .limit("knows no holidays")
        .risk("feeds back into the market", "watched by the drift alert")
        .evaluation(Evaluation::new(accuracy).dataset("elec2"))
        .evaluation(Evaluation::new(Measurement::new("accuracy", 0.88)).dataset("elec2").slice("night"))
        .evaluation(Evaluation::new(Measurement::new("lift", f64::NAN)))
        .fairness(
            Fairness::new("small producers")
                .measured(Measurement::new("accuracy", 0.87).with_interval(0.8, 0.93))
                .benefits("earlier notice")
                .harms("worse forecasts")
                .mitigation("more of their rows"),
        )
}

/// The front matter as YAML, if there is any, and the rest.
fn front_matter(markdown: &str) -> (Value, &str) {
    let Some(matter) = markdown.strip_prefix("---\n") else { return (Value::Null, markdown) };
    let (yaml, rest) = matter.split_once("---\n").unwrap();
    let options = serde_saphyr::options! { strict_booleans: true };
    (serde_saphyr::from_str_with_options(yaml, options).unwrap(), rest)
}

#[tokio::test]
async fn a_card_tells_what_the_registry_knows() {
    let card = gathered().await;
    assert_eq!(card.aliases, ["champion"]);
    assert_eq!((&*card.tags["team"], &*card.tags["owner"]), ("markets", "ana"), "the version's over the model's");
    assert_eq!(card.datasets.len(), 2, "the run's and the package's, each once");
    assert_eq!(serde_json::from_str::<ModelCard>(&serde_json::to_string(&card).unwrap()).unwrap(), card);
    let text = card.to_markdown();
    let html = card.to_html();
    for fact in [
        "prices v1",
        "Will the price rise?",
        "ana at ",
        "champion",
        "(price: double) -",
        "candle",
        "mlp ",
        "lr = 0.01",
        "loss 0.31 at step 7",
        "4f92db1, with changes that are not committed",
        "elec2@",
        "holidays@",
        "(training)",
        "approved by rob",
        "looks right",
        "accuracy 0.91",
        "(n = 4368)",
        "better than nothing",
        "weights.safetensors",
    ] {
        assert!(text.contains(fact) || text.contains(&fact.replace('(', "\\(")), "{fact} in {text}");
        assert!(html.contains(fact), "{fact} in {html}");
    }
}

#[tokio::test]
async fn hugging_face_reads_the_front_matter() {
    let markdown = stated(gathered().await).to_markdown();
    let (yaml, rest) = front_matter(&markdown);
    assert!(rest.starts_with("\n# prices v1\n"));
    assert_eq!(
        yaml,
        serde_json::json!({
            "license": "apache-2.0",
            "pipeline_tag": "tabular-classification",
            "tags": ["owner:ana", "team:markets"],
            "datasets": ["elec2", "holidays"],
            "model-index": [{"name": "prices v1", "results": [
                {
                    "task": {"type": "tabular-classification"},
                    "dataset": {"name": "elec2", "type": "elec2"},
                    "metrics": [{"type": "accuracy", "name": "accuracy", "value": 0.912}],
                },
                {
                    "task": {"type": "tabular-classification"},
                    "dataset": {"name": "elec2", "type": "elec2"},
                    "metrics": [{"type": "accuracy", "name": "accuracy (night)", "value": 0.88}],
                },
            ]}],
        })
    );
    assert!(rest.contains("| accuracy | 0.912 | 0.905 to 0.919 | 4368 | all | elec2 | &gt;= 0.9 |"), "{rest}");
    assert!(rest.contains("| lift | NaN | not stated |"), "{rest}");
    assert!(
        rest.contains("| small producers | accuracy 0.87 \\[0.8, 0.93\\] | earlier notice | worse forecasts |"),
        "{rest}"
    );
}

#[test]
fn what_is_missing_is_not_stated() {
    for card in [ModelCard::new("prices"), ModelCard::default()] {
        let markdown = card.to_markdown();
        let (yaml, rest) = front_matter(&markdown);
        assert_eq!(yaml, Value::Null);
        for line in [
            "**Licence:** not stated",
            "**Intended use:** not stated",
            "**Limits:** not stated",
            "**Data:** not stated",
        ] {
            assert!(rest.contains(line), "{line} in {rest}");
        }
        assert!(card.to_html().contains("<dt>Licence</dt><dd class=\"none\">not stated</dd>"));
        assert!(!rest.contains("None") && !rest.contains("null"));
        assert_eq!(faults(&card.to_cyclonedx()), [""; 0]);
    }
}

/// The official schema. Nothing is fetched: a reference to a schema that is not here fails to build.
static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let mut bill = read(include_str!("../golden/cyclonedx/bom-1.6.SNAPSHOT.schema.json"));
    let base = bill["$id"].as_str().unwrap().rsplit_once('/').unwrap().0.to_owned();
    let spdx = read(include_str!("../golden/cyclonedx/spdx.SNAPSHOT.schema.json"));
    let jsf = read(include_str!("../golden/cyclonedx/jsf-0.82.SNAPSHOT.schema.json"));
    bill["additionalProperties"] = false.into();
    let registry = [("spdx.SNAPSHOT.schema.json", spdx), ("jsf-0.82.SNAPSHOT.schema.json", jsf)]
        .into_iter()
        .fold(Registry::new(), |registry, (name, document)| registry.add(format!("{base}/{name}"), document).unwrap())
        .prepare()
        .unwrap();
    jsonschema::draft7::options().with_registry(&registry).should_validate_formats(true).build(&bill).unwrap()
});

fn faults(bill: &Value) -> Vec<String> {
    SCHEMA.iter_errors(bill).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

#[tokio::test]
async fn the_bill_of_materials_is_valid_and_complete() {
    let card = stated(gathered().await);
    let bill = card.to_cyclonedx();
    assert_eq!(faults(&bill), [""; 0]);
    let mut broken = bill.clone();
    broken["metadata"]["component"]["modelCard"]["considerations"]["useCases"] = "x".into();
    assert_eq!(faults(&broken).len(), 1, "the schema is in force");
    assert_eq!(bill, card.to_cyclonedx());
    assert_ne!(bill["serialNumber"], card.clone().limit("another").to_cyclonedx()["serialNumber"]);

    let model = &bill["metadata"]["component"];
    assert_eq!(model["hashes"][0]["content"], card.package.unwrap().to_string());
    assert_eq!(model["licenses"][0]["license"]["id"], "Apache-2.0");
    let metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"].as_array().unwrap();
    assert_eq!(metrics[0]["confidenceInterval"], serde_json::json!({"lowerBound": "0.905", "upperBound": "0.919"}));
    assert_eq!((&metrics[1]["slice"], &metrics[3]["slice"]), (&"elec2: night".into(), &"small producers".into()));
    assert_eq!(model["modelCard"]["considerations"]["fairnessAssessments"][0]["harms"], "worse forecasts");
    assert_eq!(model["modelCard"]["modelParameters"]["inputs"][0]["format"], "price: double");
    let names: Vec<&str> = bill["components"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["elec2", "holidays", "MLmodel", "provenance.json", "weights.safetensors"]);
    assert_eq!(bill["components"][4]["hashes"][0]["content"], Digest::of(b"abc").to_string());
    let odd = ModelCard::new("m").license("Ask ana <first>").to_cyclonedx();
    assert_eq!(faults(&odd), [""; 0]);
}

/// A card with `text` wherever there is text.
fn filled(text: &str) -> ModelCard {
    let measurement = || Measurement::new(text, f64::INFINITY).with_bound(text).with_interval(0.0, f64::NAN);
    let mut card = ModelCard::new(text)
        .license(text)
        .task(text)
        .intended_use(text)
        .user(text)
        .out_of_scope(text)
        .limit(text)
        .risk(text, text)
        .evaluation(Evaluation::new(measurement()).dataset(text).slice(text))
        .evaluation(Evaluation::new(Measurement::new(text, 1.0)).dataset(text).slice(text))
        .fairness(Fairness::new(text).measured(measurement()).benefits(text).harms(text).mitigation(text));
    card.description = text.to_owned();
    card.changes = text.to_owned();
    card.author = Some(text.to_owned());
    card.aliases = vec![text.to_owned()];
    card.flavors = vec![text.to_owned()];
    card.tags = [(text.to_owned(), text.to_owned())].into();
    let mut provenance = Provenance::default();
    provenance.commit = Some(text.to_owned());
    provenance.toolchain = Some(text.to_owned());
    provenance.params = [(text.to_owned(), text.into())].into();
    card.provenance = Some(provenance);
    card
}

/// The names of the tags of a page, and whether an attribute is one that we write.
fn tags(html: &str) -> BTreeSet<String> {
    html.split('<').skip(1).map(|rest| rest.split('>').next().unwrap().to_owned()).collect()
}

const ATTACKS: [&str; 10] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "'><svg onload=alert(1)>",
    "[x](javascript:alert(1))",
    "</style></title><script>",
    "a\n\n---\n\n<b>| x | y |\n# h\n---\nlicense: mit",
    "\"\n- injected: true\n#",
    "`x` *y* ![z](http://e.example/p.png) https://e.example",
    "&lt;script&gt; &#60;",
    "\u{2028}\u{0}\u{1b}[31m\u{85}\u{feff}\u{202e}",
];

#[test]
fn no_text_becomes_markup() {
    let harmless = tags(&filled("x").to_html());
    for text in ATTACKS {
        let card = filled(text);
        let html = card.to_html();
        assert!(tags(&html).is_subset(&tags_with_classes(&harmless)), "{text:?}: {:?}", tags(&html));
        assert!(!html.contains("<script") && !html.contains("<img") && !html.contains('\0'), "{text:?}");
        let markdown = card.to_markdown();
        let (yaml, rest) = front_matter(&markdown);
        let keys: Vec<&String> = yaml.as_object().unwrap().keys().collect();
        let known = ["license", "license_name", "model-index", "pipeline_tag", "tags"];
        assert!(keys.iter().all(|key| known.contains(&key.as_str())), "{text:?}: {keys:?}");
        assert_eq!(yaml["pipeline_tag"], text, "kept as it is");
        assert!(!rest.contains('<') && !rest.replace("\\]", "").contains("]("), "{text:?}: {rest}");
        assert_eq!(rest.matches("\n## ").count(), 7, "{rest}");
        assert_eq!(faults(&card.to_cyclonedx()), [""; 0]);
    }
}

/// Long or missing text has a class of its own.
fn tags_with_classes(tags: &BTreeSet<String>) -> BTreeSet<String> {
    let classes = ["", " class=\"none\"", " class=\"long\""];
    let plain = tags.iter().map(|tag| tag.split(" class").next().unwrap());
    plain.flat_map(|tag| classes.map(|class| format!("{tag}{class}"))).chain(tags.iter().cloned()).collect()
}

#[test]
fn a_page_needs_nothing_else() {
    let html = filled("x").to_html();
    for loaded in ["src=", "href=", "url(", "@import", "<link", "<script", "http://", "https://"] {
        assert!(!html.contains(loaded), "{loaded}");
    }
    assert!(html.contains("default-src 'none'") && html.contains("width=device-width"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_gives_every_form(text in "\\PC{0,40}|[ -~\\n\\t]{0,60}") {
        let card = filled(&text);
        let markdown = card.to_markdown();
        let (yaml, rest) = front_matter(&markdown);
        prop_assert_eq!(&yaml["pipeline_tag"], &text);
        prop_assert!(!rest.contains('<'));
        let allowed = tags_with_classes(&tags(&filled("x").to_html()));
        prop_assert!(tags(&card.to_html()).is_subset(&allowed));
        prop_assert_eq!(faults(&card.to_cyclonedx()), Vec::<String>::new());
    }
}
