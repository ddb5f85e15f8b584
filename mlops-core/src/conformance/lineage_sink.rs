//! The cases of [`lineage_sink_conformance!`](crate::lineage_sink_conformance).

use crate::RunId;
use crate::clock::from_micros;
use crate::lineage::LineageSink;
use crate::lineage::openlineage::{EventType, Job, Run, RunEvent};

fn event(n: i64) -> RunEvent {
    let run = Run::new(RunId::derived(from_micros(n), b"run"));
    RunEvent::new(EventType::Complete, from_micros(n), run, Job::new("shop", "train"))
}

fn adds_up(sink: &dyn LineageSink) -> crate::lineage::SinkCounts {
    let counts = sink.counts();
    assert_eq!(counts.emitted, counts.delivered + counts.dropped.total() + counts.queued, "{sink}: {counts}");
    counts
}

/// Contract: `emitted = delivered + dropped + queued`.
pub async fn counts_add_up_at_every_moment(sink: &dyn LineageSink) {
    let before = adds_up(sink).emitted;
    assert_eq!(before, 0, "{sink}");
    for n in 0..100 {
        sink.emit(event(n));
        adds_up(sink);
    }
    assert!(adds_up(sink).emitted >= 100, "{sink}");
    sink.flush().await;
    adds_up(sink);
}

/// Contract: after `flush`, what was emitted before is delivered or dropped; a sink that delivers drops nothing.
pub async fn flush_settles_everything(sink: &dyn LineageSink) {
    sink.flush().await; // nothing to wait for
    (0..50).for_each(|n| sink.emit(event(n)));
    sink.flush().await;
    let counts = adds_up(sink);
    assert_eq!((counts.queued, counts.dropped.total()), (0, 0), "{sink}: {counts}");
    assert_eq!(counts.delivered, counts.emitted, "{sink}");
}

/// Contract: from any thread.
pub async fn many_threads_may_emit(sink: &dyn LineageSink) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || (0..25).for_each(|n| sink.emit(event(thread * 25 + n))));
        }
    });
    sink.flush().await;
    assert_eq!(adds_up(sink).delivered, adds_up(sink).emitted, "{sink}");
}
