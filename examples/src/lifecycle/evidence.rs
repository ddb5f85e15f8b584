//! What others can check: lineage events in a file, and the audit log under a signed checkpoint.

use std::collections::BTreeSet;
use std::path::PathBuf;

use mlops_core::audit::{CheckpointSigner, Checkpointer, verify_log};
use mlops_core::lineage::openlineage::EnvironmentFacet;
use mlops_core::lineage::{
    EventFile, FileTransport, LineageEvents, LineageQueue, LineageSink, NodeKind, NodeRef, graph_of,
};
use mlops_core::store::LocalStore;
use mlops_core::{Digest, ManualClock};
use mlops_registry::SqlRegistry;
use serde::{Deserialize, Serialize};

use super::retrain::built;
use super::{MODEL, Options};
use crate::Result;

/// The file of lineage events, in the directory where everything is written.
pub const LINEAGE_FILE: &str = "lineage.jsonl";

/// Where evidence is written while the stream is replayed.
pub(crate) struct Evidence {
    /// To be given to what tells of its lineage.
    pub(crate) events: LineageEvents,
    /// The audit log of everybody, under checkpoints.
    pub(crate) audit: Checkpointer<SqlRegistry>,
    /// The public key that verifies the checkpoints.
    key: String,
    queue: LineageQueue,
    file: PathBuf,
}

/// What was found when the evidence was checked: equal for equal options, killed and resumed or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Entries of the audit log, all of them under a signed checkpoint.
    pub audit_entries: u64,
    /// The public key that verifies the checkpoint.
    pub signed_by: String,
    /// The dataset versions, model versions and deployments that the file of lineage events names.
    pub lineage: [usize; 3],
}

impl Evidence {
    pub(crate) async fn open(
        options: &Options,
        store: &LocalStore,
        registry: &SqlRegistry,
        clock: &ManualClock,
    ) -> Result<Self> {
        let file = options.out.join(LINEAGE_FILE);
        let (queue, worker) = LineageQueue::new(FileTransport::open(&file)?, 10_000);
        tokio::spawn(worker.run());
        let environment = EnvironmentFacet::from(&built()).seed(options.seed);
        let events = LineageEvents::to(queue.clone()).namespace(MODEL).environment(environment);
        // One seed, one result. A service has 32 random bytes here, out of reach of whoever writes to the log.
        let secret = Digest::of(format!("checkpoints of the lifecycle, seed {}", options.seed).as_bytes());
        let signer = CheckpointSigner::from_seed("mlops-examples/lifecycle", secret.as_bytes())?;
        let key = signer.key().to_string();
        let audit = Checkpointer::builder(registry.clone(), signer, store.clone()).clock(clock.clone()).open().await?;
        Ok(Self { events, audit, key, queue, file })
    }

    /// Brings what was told so far into the file.
    pub(crate) async fn flush(&self) -> Result<()> {
        self.queue.flush().await;
        match self.queue.last_error() {
            Some(error) => Err(format!("lineage events were lost: {error}").into()),
            None => Ok(()),
        }
    }

    /// Signs the audit log as it is, then reads all evidence back.
    pub(crate) async fn check(&self) -> Result<Checked> {
        self.audit.checkpoint().await?;
        let verified = verify_log(&self.audit, self.audit.checkpoints().all().await?).await??;
        self.flush().await?;
        let told = EventFile::read(&self.file)?.events;
        let nodes = told.iter().flat_map(|event| graph_of(event, self.events.home()).0);
        let nodes: BTreeSet<NodeRef> = nodes.map(|node| node.node).collect();
        let count = |kind| nodes.iter().filter(|node| node.kind == kind).count();
        Ok(Checked {
            audit_entries: verified.entries,
            signed_by: self.key.clone(),
            lineage: [NodeKind::Dataset, NodeKind::Model, NodeKind::Deployment].map(count),
        })
    }
}
