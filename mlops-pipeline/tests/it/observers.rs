use std::time::Duration;

use mlops_core::store::MemoryStore;
use mlops_pipeline::{MemoryObserver, Pipeline, RunEvent, Runner};

fn pipeline() -> Pipeline {
    let mut p = Pipeline::builder("p");
    let train = p.step("train", (), |ctx, ()| async move {
        if ctx.attempt() == 1 {
            return Err("no connection".into());
        }
        (1..=100).for_each(|epoch| ctx.progress(epoch, 100));
        Ok(1)
    });
    p.options(train).retries(1).backoff(Duration::from_millis(1), Duration::from_millis(1));
    p.step("evaluate", train, |_, _| async { Err::<(), _>("no labels".into()) });
    p.build().unwrap()
}

#[tokio::test]
async fn events_come_in_order() {
    let seen = MemoryObserver::default();
    pipeline().run(&Runner::new(MemoryStore::default()).observer(seen.clone())).await.unwrap_err();
    let name = |e: &RunEvent| serde_json::to_value(e).unwrap()["event"].as_str().unwrap().to_owned();
    let mut names: Vec<String> = seen.events().iter().map(name).collect();
    names.dedup();
    let wanted = [
        "run_started",
        "step_started",
        "step_retrying",
        "step_started",
        "step_progress",
        "step_finished",
        "step_started",
        "step_failed",
        "run_finished",
    ];
    assert_eq!(names, wanted);
    let Some(RunEvent::RunFinished { report }) = seen.events().pop() else { panic!("the last event is the report") };
    assert_eq!(report.step("train").unwrap().attempts, 2);
    let table = report.to_string();
    assert!(table.contains("failed") && table.contains("no labels"), "{table}");
}

#[cfg(feature = "progress")]
mod console {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn plain_lines_show_every_tenth() {
        let page = Page::default();
        let shown = mlops_pipeline::ConsoleObserver::lines(page.clone());
        pipeline().run(&Runner::new(MemoryStore::default()).observer(shown)).await.unwrap_err();
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "p: 2 steps");
        assert_eq!(lines[1], "train: started");
        assert!(lines[2].starts_with("train: attempt 1 failed, next in "), "{text}");
        assert!(lines[2].ends_with("no connection"), "{text}");
        assert_eq!(lines.iter().filter(|l| l.ends_with("/100")).count(), 10, "{text}");
        assert!(text.contains("train: 100/100"), "{text}");
        assert!(text.contains(r#"evaluate: step "evaluate" failed after 1 attempt(s): no labels"#), "{text}");
    }
}
