use mlops_core::{DatasetRef, Digest, Error as CoreError, ExperimentId, RunId};

use super::{ana, at, lacks, refused};
use crate::search::DatasetFilter;
use crate::{
    Error, Limit, LogBatch, LoggedModelStatus, Metric, MetricDataset, NewExperiment, NewLoggedModel, NewRun, RunEdit,
    RunInput, RunStatus, Search, TrackingStore, View,
};

/// Runs a to f of one experiment, each a second after the one before, in which every field differs somewhere.
async fn runs(store: &dyn TrackingStore) -> ExperimentId {
    let e = store.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap().id;
    let losses = [Some(0.5), Some(f64::NAN), None, Some(f64::INFINITY), Some(f64::NEG_INFINITY), Some(-1.5)];
    for (i, (name, loss)) in ["a", "b", "c", "d", "e", "f"].into_iter().zip(losses).enumerate() {
        let i = i as i64;
        let mut new = NewRun::new("e").name(name).started_at(at(i)).tag("group", ["x", "y"][i as usize % 2]);
        if !lacks(store, Limit::ChosenIds) {
            new = new.id(RunId::derived(at(i), name.as_bytes()));
        }
        let id = store.start_run(&ana(), new).await.unwrap().id();
        let mut batch = LogBatch::new().param("model", ["MLP", "mlp_2", "tree*", "x%"][i as usize % 4]).metric(
            "n",
            5.0 - i as f64,
            0,
            at(0),
        );
        if let Some(loss) = loss {
            batch = batch.metric("val loss", 9.0, 0, at(0)).metric("val loss", loss, 1, at(0));
        }
        if name == "b" {
            batch = batch.param("only", "it's `b`");
        }
        store.log_batch(&ana(), id, batch).await.unwrap();
        if i % 3 == 0 {
            store.edit_run(&ana(), id, RunEdit::new().status(RunStatus::Finished).ended_at(at(100 + i))).await.unwrap();
        }
        let rows = DatasetRef { name: "rows".into(), digest: Digest::of(name.as_bytes()) };
        let inputs = [RunInput::of(&rows, "training"), RunInput::new("Wine", "5a", "eval")];
        store.log_inputs(&ana(), id, inputs[..(i % 3) as usize].to_vec()).await.unwrap();
    }
    e
}

async fn names(store: &dyn TrackingStore, e: ExperimentId, search: Search) -> String {
    let page = store.search_runs(&[e], search.clone()).await.unwrap_or_else(|error| panic!("{search:?}: {error}"));
    page.items.into_iter().map(|run| run.info.name).collect()
}

/// Checks filters on [`runs`], ordered by their names.
async fn filters(store: &dyn TrackingStore, e: ExperimentId, cases: &[(&str, &str)]) {
    for (filter, expected) in cases {
        let odd = ["nan", "NaN", "inf"].iter().any(|number| filter.ends_with(number));
        if lacks(store, Limit::Filters) && odd {
            refused(Limit::Filters, store.search_runs(&[e], Search::new(*filter)).await);
            continue;
        }
        let found = names(store, e, Search::new(*filter).order_by("run_name")).await;
        assert_eq!(found, *expected, "{store}: {filter}");
    }
}

/// Every field of a run can be filtered by.
pub async fn runs_are_found_by_every_field(store: &dyn TrackingStore) {
    let e = runs(store).await;
    let a = store.search_runs(&[e], Search::new("run_name = 'a'")).await.unwrap().items.remove(0).id();
    let compact = a.as_uuid().simple().to_string();
    let mut uri = (format!("artifact_uri LIKE '%/{a}/artifacts'"), "a");
    if lacks(store, Limit::OwnUris) {
        // How the id is written there is the system's to say.
        uri = ("artifact_uri LIKE '%/artifacts'".to_owned(), "abcdef");
    }
    let own = format!("datasets.digest = '{}'", Digest::of(b"b"));
    filters(
        store,
        e,
        &[
            ("", "abcdef"),
            ("metrics.`val loss` = 0.5", "a"),
            ("params.model = 'MLP'", "ae"),
            ("tags.group = 'x'", "ace"),
            (&format!("run_id = '{a}'"), "a"),
            (&format!("run_id IN ('{compact}', 'nothing')"), "a"),
            (&format!("run_id NOT IN ('{compact}')"), "bcdef"),
            ("attributes.run_name != 'a'", "bcdef"),
            ("`Run name` = 'b'", "b"),
            ("user_id = 'ana' AND status = 'FINISHED'", "ad"),
            (&uri.0, uri.1),
            ("start_time >= 2000 AND attribute.created < 4000", "cd"),
            ("start_time = 2000", "c"),
            ("start_time != 2000", "abdef"),
            ("start_time > 1999.5 AND start_time <= 3000.5", "cd"),
            ("end_time > 0", "ad"),
            ("end_time != 100000", "d"),
            ("datasets.name = 'Wine'", "cf"),
            (&own, "b"),
            ("dataset.context != 'training'", "cf"),
            ("datasets.name IN ('Wine', 'x')", "cf"),
            ("datasets.name NOT IN ('Wine')", "bcef"),
            ("datasets.name ILIKE 'wine'", "cf"),
        ],
    )
    .await;
}

/// Every operator means what the module on search says, NaN, infinities and missing values included.
pub async fn every_operator_filters(store: &dyn TrackingStore) {
    filters(
        store,
        runs(store).await,
        &[
            ("metrics.`val loss` > 0", "ad"),
            ("metrics.`val loss` >= 0.5", "ad"),
            ("metrics.`val loss` < 0", "ef"),
            ("metrics.`val loss` <= -1.5", "ef"),
            ("metrics.`val loss` != 0.5", "bdef"),
            ("metrics.`val loss` = inf", "d"),
            ("metrics.`val loss` < inf", "aef"),
            ("metrics.`val loss` > -inf", "adf"),
            ("metrics.`val loss` = NaN", "b"),
            ("metrics.`val loss` != nan", "adef"),
            ("metrics.nothing != 1", ""),
            ("params.model LIKE 'm%'", "bf"),
            ("params.model LIKE 'M%'", "ae"),
            ("params.model ILIKE 'm%'", "abef"),
            ("params.model ILIKE 'MLP__'", "bf"),
            ("params.model LIKE 'tree*'", "c"),
            ("params.model LIKE '%*%'", "c"),
            ("params.model LIKE '[Mx]%'", ""),
            ("params.model LIKE 'x%'", "d"),
            ("params.model LIKE ''", ""),
            ("params.model != 'MLP'", "bcdf"),
            ("params.only = 'it''s `b`'", "b"),
            ("params.only IS NULL", "acdef"),
            ("params.only IS NOT NULL", "b"),
            ("params.only != 'x'", "b"),
            ("tags.group IS NULL", ""),
            ("tags.group IS NOT NULL AND tags.group LIKE '_'", "abcdef"),
            ("metrics.n > 1 AND metrics.n < 4 AND params.model ILIKE '%E%'", "c"),
        ],
    )
    .await;
}

/// Orders go by numbers, then NaN, then missing, whichever the direction; ties by start, newest first.
pub async fn orders_put_nan_and_missing_last(store: &dyn TrackingStore) {
    let e = runs(store).await;
    for (keys, expected) in [
        (&[][..], "fedcba"),
        (&["metrics.`val loss` ASC"], "efadbc"),
        (&["metrics.`val loss` DESC"], "dafebc"),
        (&["tags.group", "metrics.n"], "ecafdb"),
        (&["tags.group DESC", "run_name"], "bdface"),
        (&["params.only"], "bfedca"),
        (&["params.only DESC"], "bfedca"),
        (&["end_time DESC"], "dafecb"),
        (&["attributes.status", "start_time ASC"], "adbcef"),
        (&["params.model"], "eafbcd"),
        (&["start_time ASC"], "abcdef"),
    ] {
        let search = keys.iter().fold(Search::default(), |search, key| search.order_by(*key));
        assert_eq!(names(store, e, search).await, expected, "{store}: {keys:?}");
    }
    if !lacks(store, Limit::ChosenIds) {
        assert_eq!(names(store, e, Search::default().order_by("run_id DESC")).await, "fedcba", "{store}");
    }
}

/// Pages of any size and order hold what one large page holds, also while runs are added.
pub async fn pages_have_no_gap_and_no_overlap(store: &dyn TrackingStore) {
    let e = runs(store).await;
    for keys in
        [&[][..], &["metrics.`val loss` DESC"], &["params.only"], &["end_time"], &["tags.group", "metrics.n DESC"]]
    {
        for (filter, limit) in [("", 1), ("", 2), ("", 5), ("metrics.n < 5", 2), ("params.model ILIKE 'MLP%'", 1)] {
            let search = keys.iter().fold(Search::new(filter), |search, key| search.order_by(*key));
            let whole = names(store, e, search.clone()).await;
            let (mut paged, mut search) = (String::new(), search.limit(limit));
            loop {
                let page = store.search_runs(&[e], search.clone()).await.unwrap();
                assert!(page.items.len() <= limit, "{store}");
                page.items.iter().for_each(|run| paged.push_str(&run.info.name));
                let Some(next) = page.next else { break };
                assert_eq!(page.items.len(), limit, "{store}");
                search = search.after(next);
            }
            assert_eq!(paged, whole, "{store}: {keys:?} {filter} by {limit}");
        }
    }
    if lacks(store, Limit::StablePages) {
        return;
    }
    let first = store.search_runs(&[e], Search::default().limit(2)).await.unwrap();
    store.start_run(&ana(), NewRun::new("e").name("new").started_at(at(1_000))).await.unwrap();
    let gone = first.items[1].id();
    store.delete_run(&ana(), gone).await.unwrap();
    let rest = store.search_runs(&[e], Search::default().limit(9).after(first.next.unwrap())).await.unwrap();
    let rest: String = rest.items.into_iter().map(|run| run.info.name).collect();
    assert_eq!(rest, "dcba", "{store}");
}

/// A token goes with the filter, order, view and experiments that it came from.
pub async fn page_tokens_belong_to_their_search(store: &dyn TrackingStore) {
    let e = runs(store).await;
    let other = store.create_experiment(&ana(), NewExperiment::new("other")).await.unwrap().id;
    let search = Search::new("metrics.n > 0").limit(2);
    let token = store.search_runs(&[e], search.clone()).await.unwrap().next.unwrap();
    let others = [
        (vec![e], Search { filter: "metrics.n > 1".into(), ..search.clone() }),
        (vec![e], search.clone().order_by("metrics.n")),
        (vec![e], search.clone().view(View::All)),
        (vec![e, other], search.clone()),
        (vec![e], search.clone().after("00")),
    ];
    for (experiments, search) in others {
        let search = if search.page_token.is_some() { search } else { search.after(&token) };
        let error = store.search_runs(&experiments, search).await.unwrap_err();
        assert!(error.to_string().starts_with("invalid page token"), "{store}: {error}");
    }
    assert_eq!(store.search_runs(&[e], search.limit(9).after(token)).await.unwrap().items.len(), 3, "{store}");
}

/// Experiments are found by name, id, time and tag, by default newest first.
pub async fn experiments_are_searched(store: &dyn TrackingStore) {
    for name in ["one", "Two", "three", "four"] {
        let new = NewExperiment::new(name).tag("length", name.len().to_string());
        store.create_experiment(&ana(), new).await.unwrap();
    }
    store.delete_experiment(&ana(), "four").await.unwrap();
    let one = store.experiment("one").await.unwrap();
    let since = format!("creation_time <= {}", one.created_at.timestamp_millis());
    let by_id = format!("experiment_id = '{}'", one.id);
    let all = |filter: &str| Search::new(filter).order_by("name ASC");
    for (search, expected) in [
        (all(""), "Two one three"),
        (all("").view(View::Deleted), "four"),
        (all("").view(View::All), "Two four one three"),
        (all("name ILIKE 't%'"), "Two three"),
        (all("tags.length = '3'"), "Two one"),
        (all("tags.length != '3' AND name != 'x'"), "three"),
        (all("tags.none IS NULL").limit(2), "Two one"),
        (all(&by_id), "one"),
        (all("last_update_time > 0").order_by("creation_time"), "Two one three"),
    ] {
        let page = store.search_experiments(search.clone()).await.unwrap();
        let found: Vec<_> = page.items.iter().map(|e| &*e.name).collect();
        assert_eq!(found.join(" "), expected, "{store}: {search:?}");
    }
    assert!(store.search_experiments(Search::new(since)).await.unwrap().items.contains(&one), "{store}");
    let newest = store.search_experiments(Search::default()).await.unwrap().items;
    assert!(newest.is_sorted_by(|a, b| a.created_at >= b.created_at), "{store}");
}

/// Logged models are found by what they are and by what runs measured of them, on all datasets or some.
pub async fn logged_models_are_searched(store: &dyn TrackingStore) {
    let e = store.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap().id;
    let run = store.start_run(&ana(), NewRun::new("e")).await.unwrap().id();
    let (test, eval) = (MetricDataset::new("test", "1"), MetricDataset::new("eval", "2"));
    for (name, on_test, on_eval) in
        [("a", 0.9, Some(0.1)), ("b", 0.5, Some(0.8)), ("c", f64::NAN, None), ("d", 0.7, None)]
    {
        let mut new = NewLoggedModel::new(e, name).param("size", name.repeat(3)).tag("t", "1");
        if name == "a" {
            new = new.source_run(run).model_type("agent");
        }
        let model = store.create_logged_model(&ana(), new).await.unwrap().id;
        let point = |value, step, dataset: &MetricDataset| {
            Metric::new("acc", value, step, at(step)).of(model).on(dataset.clone())
        };
        let mut batch = LogBatch::new().point(point(on_test, 1, &test));
        if let Some(value) = on_eval {
            batch = batch.point(point(value, 2, &eval));
        }
        store.log_batch(&ana(), run, batch).await.unwrap();
        if name != "d" {
            store.finish_logged_model(&ana(), model, LoggedModelStatus::Ready).await.unwrap();
        }
    }
    let by_source = format!("source_run_id = '{run}'");
    let on_test = DatasetFilter::named("test");
    let named = |filter: &str| Search::new(filter).order_by("name");
    for (search, expected) in [
        (named(""), "abcd"),
        (Search::default(), "dcba"),
        (named("name = 'a' AND model_type = 'agent'"), "a"),
        (named("name IN ('a', 'd')"), "ad"),
        (named("status = 'READY'"), "abc"),
        (named("status != 'READY'"), "d"),
        (named(&by_source), "a"),
        (named("model_type != 'x'"), "a"),
        (named("params.size = 'bbb'"), "b"),
        (named("tags.t = '1' AND tags.u IS NULL"), "abcd"),
        (named("creation_timestamp > 0 AND last_updated_time > 0"), "abcd"),
        (named("metrics.acc > 0.6"), "abd"),
        (named("metrics.acc > 0.6").dataset(on_test.clone()), "ad"),
        (named("metrics.acc > 0.6").dataset(on_test.clone().digest("2")), ""),
        (named("metrics.acc > 0.6").dataset(on_test.clone().digest("1")).dataset(DatasetFilter::named("eval")), "abd"),
        (named("metrics.acc = nan"), "c"),
        (Search::default().order_by("metrics.acc DESC"), "bdac"),
        (Search::default().order_by_on("metrics.acc DESC", on_test.clone()), "adbc"),
        (Search::default().order_by_on("metrics.acc DESC", DatasetFilter::named("eval")), "badc"),
        (Search::default().order_by("model_type"), "adcb"),
    ] {
        if lacks(store, Limit::Filters) {
            if ["status", "nan", "NULL"].iter().any(|word| search.filter.contains(word)) {
                refused(Limit::Filters, store.search_logged_models(&[e], search).await);
                continue;
            }
            // A model of no type has the empty one.
            let typeless = search.filter.contains("model_type != ") || search.order_by == ["model_type"];
            if typeless || !search.datasets.is_empty() {
                continue;
            }
        }
        let found = async |search: Search| {
            let page = store.search_logged_models(&[e], search.clone()).await;
            page.unwrap_or_else(|error| panic!("{search:?}: {error}"))
        };
        let names: String = found(search.clone()).await.items.into_iter().map(|model| model.name).collect();
        assert_eq!(names, expected, "{store}: {search:?}");
        let (mut paged, mut next) = (String::new(), search.clone().limit(1));
        loop {
            let page = found(next.clone()).await;
            paged.extend(page.items.into_iter().map(|model| model.name));
            let Some(token) = page.next else { break };
            next = next.after(token);
        }
        assert_eq!(paged, expected, "{store}: one by one: {search:?}");
    }
    let d = store.search_logged_models(&[e], Search::default().limit(1)).await.unwrap().items[0].id;
    store.delete_logged_model(&ana(), d).await.unwrap();
    for (view, count) in [(View::Active, 3), (View::Deleted, 1), (View::All, 4)] {
        let page = store.search_logged_models(&[e], Search::default().view(view)).await;
        if lacks(store, Limit::DeletedLoggedModels) && view != View::Active {
            refused(Limit::DeletedLoggedModels, page);
            continue;
        }
        assert_eq!(page.unwrap().items.len(), count, "{store}: {view:?}");
    }
}

/// A search that cannot be read is refused in words that say where.
pub async fn wrong_searches_are_refused(store: &dyn TrackingStore) {
    let e = store.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap().id;
    let on = DatasetFilter::named("d");
    for (search, expected) in [
        (Search::new("metrics.a > 'x'"), "Expected numeric value type for metric. Found 'x' (at character 13)"),
        (Search::default().order_by("metrics.a UP"), "invalid order_by"),
        (Search::default().limit(0), "invalid limit"),
        (Search::default().limit(50_001), "invalid limit"),
        (Search::default().order_by_on("metrics.a", on.clone()), "a dataset goes with a metric of logged models"),
    ] {
        let error = store.search_runs(&[e], search).await.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::InvalidInput { .. })), "{store}: {error}");
        assert!(error.to_string().contains(expected), "{store}: {error}");
    }
    assert!(store.search_experiments(Search::new("metrics.a > 1")).await.is_err(), "{store}");
    assert!(store.search_logged_models(&[e], Search::new("datasets.name = 'x'")).await.is_err(), "{store}");
}
