use mlops_pipeline::gate::{Gate, GateSuite};
use mlops_pipeline::{Error, Handle, Pipeline, RunObserver, Runner, StepContext};

fn is_send_and_sync<T: Send + Sync + 'static>() {}

#[test]
fn what_travels_between_threads_can() {
    is_send_and_sync::<Pipeline>();
    is_send_and_sync::<Runner>();
    is_send_and_sync::<StepContext>();
    is_send_and_sync::<Handle<String>>();
    is_send_and_sync::<Error>();
    is_send_and_sync::<GateSuite>();
    is_send_and_sync::<Box<dyn Gate>>();
    is_send_and_sync::<Box<dyn RunObserver>>();
}

#[test]
fn a_run_can_be_spawned() {
    fn is_send<T: Send>(_: &T) {}
    let mut p = Pipeline::builder("p");
    p.step("a", (), |_, ()| async { Ok(1) });
    let (pipeline, runner) = (p.build().unwrap(), Runner::new(mlops_core::store::MemoryStore::default()));
    is_send(&pipeline.run(&runner));
}
