use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mlops_core::store::MemoryStore;
use mlops_core::{Finding, RunId, Verdict};
use mlops_pipeline::{
    CodeIdentity, Error, FailureMode, MemoryObserver, Pipeline, RunEvent, RunReport, Runner, StepStatus,
};
use tokio::sync::{Barrier, Notify};

fn runner() -> Runner {
    Runner::new(MemoryStore::default()).workers(4)
}

fn report(seen: &MemoryObserver) -> RunReport {
    match seen.events().pop() {
        Some(RunEvent::RunFinished { report }) => report,
        other => panic!("not the last event of a run: {other:?}"),
    }
}

#[tokio::test]
async fn a_failing_step_is_named_with_its_cause_and_what_needs_it_does_not_start() {
    let seen = MemoryObserver::default();
    let mut p = Pipeline::builder("p");
    let rows = p.step("ingest", (), |_, ()| async { Ok(std::fs::read_to_string("/nowhere/at-all")?) });
    p.step("train", rows, |_, rows| async move { Ok(rows) });
    let error = p.build().unwrap().run(&runner().observer(seen.clone())).await.unwrap_err();
    assert_eq!(error.to_string(), r#"step "ingest" failed after 1 attempt(s)"#);
    assert_eq!(error.step(), Some("ingest"));
    assert!(error.source().unwrap().downcast_ref::<std::io::Error>().is_some());
    let report = report(&seen);
    assert_eq!(report.step("train").unwrap().status, StepStatus::NotStarted);
}

#[tokio::test]
async fn a_panicking_step_is_an_error_that_names_it_and_is_not_retried() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let mut p = Pipeline::builder("p");
    let bad = p.step("split", (), move |_, ()| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { if true { panic!("row {} is odd", 3) } else { Ok(()) } }
    });
    p.options(bad).retries(5);
    let error = p.build().unwrap().run(&runner()).await.unwrap_err();
    assert!(matches!(&error, Error::StepPanicked { step, message } if step == "split" && message == "row 3 is odd"));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_panic_in_blocking_work_is_the_steps() {
    let mut p = Pipeline::builder("p");
    p.step("train", (), |ctx, ()| async move { ctx.blocking(|| if true { panic!("boom") } else { Ok(()) }).await });
    let error = p.build().unwrap().run(&runner()).await.unwrap_err();
    assert!(matches!(error, Error::StepPanicked { message, .. } if message == "boom"));
}

#[tokio::test(start_paused = true)]
async fn a_step_that_takes_too_long_is_stopped() {
    let mut p = Pipeline::builder("p");
    let slow = p.step("wait", (), |_, ()| async {
        std::future::pending::<()>().await;
        Ok(())
    });
    p.options(slow).timeout(Duration::from_secs(30)).retries(2);
    let error = p.build().unwrap().run(&runner()).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { attempts: 3, limit, .. } if limit == Duration::from_secs(30)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn retries_back_off_until_the_step_succeeds() {
    let began = tokio::time::Instant::now();
    let mut p = Pipeline::builder("p");
    let flaky = p.step("fetch", (), |ctx, ()| async move {
        if ctx.attempt() < 4 { Err(format!("attempt {}", ctx.attempt()).into()) } else { Ok(ctx.attempt()) }
    });
    p.options(flaky).retries(3).backoff(Duration::from_secs(1), Duration::from_secs(60));
    let run = p.build().unwrap().run(&runner()).await.unwrap();
    assert_eq!(run.output(flaky).unwrap(), 4);
    assert_eq!(run.report().step("fetch").unwrap().attempts, 4);
    let waited = began.elapsed().as_secs_f64();
    assert!((7.0..=14.1).contains(&waited), "1 + 2 + 4 s, each lengthened by at most itself, not {waited}");
}

#[tokio::test]
async fn what_only_a_failed_attempt_read_is_not_kept() {
    // Seen through the cache record: only the attempt that succeeded counts.
    use mlops_core::{ArtifactStore, DatasetRef, Digest};
    let store = MemoryStore::default();
    let mut p = Pipeline::builder("p").code(CodeIdentity::declared("1"));
    let flaky = p.step("fetch", (), |ctx, ()| async move {
        let name = format!("attempt-{}", ctx.attempt());
        ctx.reads(&DatasetRef { name, digest: Digest::of(b"") });
        if ctx.attempt() == 1 { Err("again".into()) } else { Ok(()) }
    });
    p.options(flaky).retries(1).backoff(Duration::ZERO, Duration::ZERO);
    p.build().unwrap().run(&Runner::new(store.clone())).await.unwrap();
    let key = store.list("cache/").await.unwrap().pop().unwrap().key;
    let record = String::from_utf8(store.get(&key).await.unwrap().to_vec()).unwrap();
    assert!(record.contains("attempt-2") && !record.contains("attempt-1"), "{record}");
}

#[tokio::test]
async fn independent_steps_overlap() {
    // Each waits for the other two: one after the other they would wait for ever.
    let barrier = Arc::new(Barrier::new(3));
    let mut p = Pipeline::builder("p");
    let parts: Vec<_> = (0..3)
        .map(|i| {
            let barrier = Arc::clone(&barrier);
            p.step(format!("part-{i}"), (), move |_, ()| {
                let barrier = Arc::clone(&barrier);
                async move {
                    barrier.wait().await;
                    Ok(i)
                }
            })
        })
        .collect();
    let sum = p.step("sum", parts, |_, parts| async move { Ok(parts.iter().sum::<i32>()) });
    let run = p.build().unwrap().run(&runner().workers(3)).await.unwrap();
    assert_eq!(run.output(sum).unwrap(), 3);
}

#[tokio::test]
async fn no_more_steps_run_at_once_than_there_are_workers() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut p = Pipeline::builder("p");
    for i in 0..20 {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        p.step(format!("s{i}"), (), move |_, ()| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        });
    }
    p.build().unwrap().run(&runner().workers(3)).await.unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

/// `bad` fails once `slow` has started; `slow` then needs a word from outside to finish.
fn one_fails_while_another_runs(finish: &Arc<Notify>) -> Pipeline {
    one_fails_once_started(finish, &Arc::new(Notify::new()))
}

fn one_fails_once_started(finish: &Arc<Notify>, started: &Arc<Notify>) -> Pipeline {
    let mut p = Pipeline::builder("p").code(CodeIdentity::declared("1"));
    let (tell, finish) = (Arc::clone(started), Arc::clone(finish));
    p.step("slow", (), move |_, ()| {
        let (tell, finish) = (Arc::clone(&tell), Arc::clone(&finish));
        async move {
            tell.notify_one();
            finish.notified().await;
            Ok(1)
        }
    });
    let started = Arc::clone(started);
    p.step("bad", (), move |_, ()| {
        let started = Arc::clone(&started);
        async move {
            started.notified().await;
            Err::<(), _>("bad".into())
        }
    });
    p.build().unwrap()
}

#[tokio::test]
async fn fail_fast_stops_the_others() {
    let (never, seen) = (Arc::new(Notify::new()), MemoryObserver::default());
    let runner = runner().on_failure(FailureMode::FailFast).observer(seen.clone());
    let error = one_fails_while_another_runs(&never).run(&runner).await.unwrap_err();
    assert_eq!(error.step(), Some("bad"));
    assert_eq!(report(&seen).step("slow").unwrap().status, StepStatus::Cancelled);
}

#[derive(Debug)]
struct OnFailure(Arc<Notify>);

impl mlops_pipeline::RunObserver for OnFailure {
    fn on_event(&self, _: mlops_core::RunId, event: &RunEvent) {
        if matches!(event, RunEvent::StepFailed { .. }) {
            self.0.notify_one();
        }
    }
}

#[tokio::test]
async fn by_default_running_steps_finish_and_are_kept() {
    let (finish, seen) = (Arc::new(Notify::new()), MemoryObserver::default());
    let store = MemoryStore::default();
    let on = |run: &[u8]| {
        let id = RunId::derived("1997-01-01T00:00:00Z".parse().unwrap(), run);
        let runner = Runner::new(store.clone()).workers(4).run_id(id).observer(seen.clone());
        (id, runner.observer(OnFailure(Arc::clone(&finish))))
    };
    let (first, runner) = on(b"first");
    let error = one_fails_while_another_runs(&finish).run(&runner).await.unwrap_err();
    assert_eq!(error.step(), Some("bad"));
    assert_eq!(report(&seen).step("slow").unwrap().status, StepStatus::Computed);

    // `slow` is not run again to say that it has started, so `bad` gets that word here.
    let (_, runner) = on(b"second");
    let started = Arc::new(Notify::new());
    started.notify_one();
    let error = one_fails_once_started(&finish, &started).run(&runner).await.unwrap_err();
    assert_eq!(error.step(), Some("bad"));
    assert_eq!(report(&seen).step("slow").unwrap().status, StepStatus::Cached { computed_by: first });
}

#[tokio::test]
async fn an_output_that_json_cannot_hold_is_an_error_of_its_step() {
    let mut p = Pipeline::builder("p");
    p.step("mean", (), |_, ()| async { Ok(f64::NAN) });
    let error = p.build().unwrap().run(&runner()).await.unwrap_err();
    assert!(matches!(&error, Error::InvalidOutput { step, .. } if step == "mean"), "{error:?}");
}

#[tokio::test]
async fn inside_an_option_a_float_that_json_cannot_hold_becomes_null() {
    let mut p = Pipeline::builder("p");
    let mean = p.step("mean", (), |_, ()| async { Ok(vec![Some(f64::NAN), Some(1.0)]) });
    let run = p.build().unwrap().run(&runner()).await.unwrap();
    assert_eq!(run.output(mean).unwrap(), [None, Some(1.0)]);
}

#[test]
fn what_cannot_be_built_says_why() {
    type Build = fn() -> mlops_pipeline::Result<Pipeline>;
    let cases: [(&str, Build); 7] = [
        (r#"the name "a" is given twice"#, || {
            let mut p = Pipeline::builder("p");
            p.value("a", 1);
            p.step("a", (), |_, ()| async { Ok(1) });
            p.build()
        }),
        (r#"step "b" takes handle 0 of another pipeline builder"#, || {
            let (mut other, mut p) = (Pipeline::builder("other"), Pipeline::builder("p"));
            let a = other.step("a", (), |_, ()| async { Ok(1) });
            p.step("b", a, |_, a| async move { Ok(a) });
            p.build()
        }),
        ("it has no steps", || Pipeline::builder("p").build()),
        ("not starting with '.'", || {
            let mut p = Pipeline::builder("p");
            p.step("../a", (), |_, ()| async { Ok(1) });
            p.build()
        }),
        (r#"value "x" cannot be written as JSON and read back"#, || {
            let mut p = Pipeline::builder("p");
            p.value("x", f64::INFINITY);
            p.build()
        }),
        (r#"value "x" has no options"#, || {
            let mut p = Pipeline::builder("p");
            let x = p.value("x", 1);
            p.options(x).retries(1);
            p.build()
        }),
        ("options were set on handle 0 of another pipeline builder", || {
            let (mut other, mut p) = (Pipeline::builder("other"), Pipeline::builder("p"));
            let a = other.step("a", (), |_, ()| async { Ok(1) });
            p.options(a).retries(1);
            p.build()
        }),
    ];
    for (reason, build) in cases {
        let error = build().unwrap_err().to_string();
        assert!(error.starts_with("invalid pipeline \"p\": ") && error.contains(reason), "{error}");
    }
}

#[test]
fn outside_a_runtime_it_says_so() {
    let mut p = Pipeline::builder("p");
    p.step("a", (), |_, ()| async { Ok(1) });
    let error = futures::executor::block_on(p.build().unwrap().run(&runner())).unwrap_err();
    assert!(matches!(error, Error::NoRuntime));
}

#[tokio::test]
async fn a_handle_of_another_pipeline_has_no_output_here() {
    let (mut one, mut two) = (Pipeline::builder("one"), Pipeline::builder("two"));
    one.step("a", (), |_, ()| async { Ok(1) });
    let b = two.step("b", (), |_, ()| async { Ok(1) });
    let run = one.build().unwrap().run(&runner()).await.unwrap();
    assert!(matches!(run.output(b), Err(Error::ForeignHandle { index: 0, .. })));
}

#[tokio::test]
async fn inputs_nest_and_findings_travel() {
    let mut p = Pipeline::builder("p");
    let word = p.value("word", "gate".to_owned());
    let numbers = vec![p.value("one", 1_u8), p.value("two", 2)];
    let found = p.step("check", (numbers, (word, word)), |_, (numbers, (a, b))| async move {
        assert_eq!((numbers, a.as_str(), b.as_str()), (vec![1, 2], "gate", "gate"));
        Ok(Finding::new("check", Verdict::Pass, "fine"))
    });
    let pipeline = p.build().unwrap();
    let run = pipeline.run(&runner()).await.unwrap();
    assert!(run.output(found).unwrap().verdict.is_pass());
    assert!(pipeline.to_mermaid().contains("n3[\"check\"]\n"), "{}", pipeline.to_mermaid());
    assert!(pipeline.to_mermaid().contains("n0([\"word\"])\n  n1"), "{}", pipeline.to_mermaid());
}
