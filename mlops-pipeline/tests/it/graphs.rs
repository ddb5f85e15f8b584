//! Random graphs, random failures, random numbers of workers: outputs are those of the sequential reference, and what
//! a step does outside happens once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mlops_core::RunId;
use mlops_core::store::MemoryStore;
use mlops_pipeline::{CodeIdentity, FailureMode, Handle, Pipeline, Runner};
use proptest::prelude::*;

/// Of each step: what it takes, how often it fails before it succeeds, and how often it lets others go first.
type Graph = Vec<(Vec<usize>, u32, usize)>;

fn graphs() -> impl Strategy<Value = Graph> {
    prop::collection::vec((prop::collection::vec(any::<prop::sample::Index>(), 0..4), 0..3_u32, 0..3_usize), 1..25)
        .prop_map(|steps| {
            let place = |(i, (inputs, failures, yields)): (usize, (Vec<prop::sample::Index>, u32, usize))| {
                let inputs = inputs.into_iter().filter(|_| i > 0).map(|input| input.index(i)).collect();
                (inputs, failures, yields)
            };
            steps.into_iter().enumerate().map(place).collect()
        })
}

fn combine(step: usize, inputs: &[u64]) -> u64 {
    inputs.iter().fold(step as u64 + 1, |sum, v| sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(*v))
}

fn reference(graph: &Graph) -> Vec<u64> {
    let mut outputs: Vec<u64> = Vec::new();
    for (i, (inputs, ..)) in graph.iter().enumerate() {
        let taken: Vec<u64> = inputs.iter().map(|&input| outputs[input]).collect();
        outputs.push(combine(i, &taken));
    }
    outputs
}

struct Counted {
    tried: Vec<AtomicUsize>,
    done: Vec<AtomicUsize>,
}

/// `retries` bounds how often a step is tried again within one run.
fn pipeline(graph: &Graph, counted: &Arc<Counted>, retries: usize) -> (Pipeline, Vec<Handle<u64>>) {
    let mut p = Pipeline::builder("random").code(CodeIdentity::declared("1"));
    let mut handles: Vec<Handle<u64>> = Vec::new();
    for (i, (inputs, failures, yields)) in graph.iter().enumerate() {
        let taken: Vec<Handle<u64>> = inputs.iter().map(|&input| handles[input]).collect();
        let (counted, failures, yields) = (Arc::clone(counted), *failures as usize, *yields);
        let handle = p.step(format!("s{i}"), taken, move |_, values| {
            let counted = Arc::clone(&counted);
            async move {
                for _ in 0..yields {
                    tokio::task::yield_now().await;
                }
                if counted.tried[i].fetch_add(1, Ordering::SeqCst) < failures {
                    return Err("not yet".into());
                }
                counted.done[i].fetch_add(1, Ordering::SeqCst);
                Ok(combine(i, &values))
            }
        });
        let options = p.options(handle).retries(retries).backoff(Duration::ZERO, Duration::ZERO);
        // Every third step has effects outside.
        if i % 3 == 0 {
            options.uncached();
        }
        handles.push(handle);
    }
    (p.build().unwrap(), handles)
}

fn counted(graph: &Graph) -> Arc<Counted> {
    let zeros = || graph.iter().map(|_| AtomicUsize::new(0)).collect();
    Arc::new(Counted { tried: zeros(), done: zeros() })
}

fn on_threads<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn retried_to_the_end_it_equals_the_reference(graph in graphs(), workers in 1..9_usize) {
        let counted = counted(&graph);
        let (pipeline, handles) = pipeline(&graph, &counted, 3);
        let run = on_threads(pipeline.run(&Runner::new(MemoryStore::default()).workers(workers))).unwrap();
        let outputs: Vec<u64> = handles.iter().map(|h| run.output(*h).unwrap()).collect();
        prop_assert_eq!(outputs, reference(&graph));
        prop_assert!(counted.done.iter().all(|n| n.load(Ordering::SeqCst) == 1));
    }

    #[test]
    fn started_again_after_each_failure_it_repeats_no_finished_step(
        graph in graphs(),
        workers in 1..9_usize,
    ) {
        let counted = counted(&graph);
        let (pipeline, handles) = pipeline(&graph, &counted, 0);
        let run = RunId::derived("1997-01-01T00:00:00Z".parse().unwrap(), b"random");
        let runner = Runner::new(MemoryStore::default()).workers(workers).run_id(run);
        // Each start gets past at least one failure.
        let most = graph.iter().map(|(_, failures, _)| *failures as usize).sum::<usize>() + 1;
        let ended = (0..most).find_map(|_| on_threads(pipeline.run(&runner)).ok());
        let run = ended.expect("every failure is used up by then");
        let outputs: Vec<u64> = handles.iter().map(|h| run.output(*h).unwrap()).collect();
        prop_assert_eq!(outputs, reference(&graph));
        prop_assert!(counted.done.iter().all(|n| n.load(Ordering::SeqCst) == 1));
    }

    #[test]
    fn cut_off_anywhere_and_started_again_it_equals_the_reference(
        graph in graphs(),
        workers in 1..9_usize,
        polls in prop::collection::vec(0..40_usize, 1..6),
        fail_fast in any::<bool>(),
    ) {
        let counted = counted(&graph);
        let (pipeline, handles) = pipeline(&graph, &counted, 3);
        let run = RunId::derived("1997-01-01T00:00:00Z".parse().unwrap(), b"random");
        let mode = if fail_fast { FailureMode::FailFast } else { FailureMode::FinishRunning };
        let runner = Runner::new(MemoryStore::default()).workers(workers).run_id(run).on_failure(mode);
        let outputs = on_threads(async {
            for polls in polls {
                // Dropped wherever it is by then.
                tokio::select! {
                    biased;
                    _ = pipeline.run(&runner) => {}
                    () = async { for _ in 0..polls { tokio::task::yield_now().await } } => {}
                }
            }
            let run = pipeline.run(&runner).await.unwrap();
            handles.iter().map(|h| run.output(*h).unwrap()).collect::<Vec<u64>>()
        });
        prop_assert_eq!(outputs, reference(&graph));
    }
}
