//! Following the events as they happen.

use std::collections::VecDeque;
use std::fmt;

use futures::Stream;
use futures::future::select;

use super::SqlRegistry;
use super::db::Bell;
use crate::registry::Event;
use crate::{Result, check};

/// How many times the interval a follower waits that is told of events, in case that telling it failed unnoticed.
const TOLD: u32 = 10;

/// The events behind one place, each once and in order. [`SqlRegistry::watch`] makes one.
#[must_use = "a watch does nothing until `next` is called"]
pub struct Watch {
    registry: SqlRegistry,
    /// The last event that was given.
    after: u64,
    ready: VecDeque<Event>,
    bell: Bell,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("registry", &self.registry).field("after", &self.after).finish_non_exhaustive()
    }
}

impl SqlRegistry {
    /// Follows what happens, from behind event `after`: 0 for everything there is, or [`Watch::position`] of an earlier
    /// watch to go on where it stood.
    ///
    /// SQLite is asked every [`poll_interval`](super::SqlRegistryBuilder::poll_interval). PostgreSQL tells its followers,
    /// each over a connection of its own, and is asked at ten times the interval besides.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use mlops_core::{Principal, Role, store::MemoryStore};
    /// # use mlops_registry::{ModelRegistry, NewModel, SqlRegistry};
    /// let registry = SqlRegistry::builder().artifacts(MemoryStore::default()).open_in_memory().await?;
    /// let mut events = registry.watch(0);
    /// registry.create_model(&Principal::new("ana").with_role(Role::Contributor), NewModel::new("prices")).await?;
    /// let event = events.next().await?;
    /// assert_eq!((event.seq, &*event.model), (1, "prices"));
    /// # Ok(()) }
    /// # #[cfg(not(feature = "sqlite"))] fn main() {}
    /// ```
    pub fn watch(&self, after: u64) -> Watch {
        Watch { registry: self.clone(), after, ready: VecDeque::new(), bell: self.0.database.bell() }
    }
}

impl Watch {
    /// The next event; waits for it, through lost connections and whatever else may work later. Dropping the future loses
    /// no event.
    ///
    /// # Errors
    /// What [`ModelRegistry::events`](crate::ModelRegistry::events) gives, unless it is retryable. The next call tries
    /// again.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.after = event.seq;
                return Ok(event);
            }
            // Before looking, so that what happens between looking and waiting rings.
            let told = self.bell.listen().await;
            let mut pause = self.registry.0.poll_interval;
            match self.registry.list_events(self.after, check::PAGE).await {
                Ok(events) if events.is_empty() => pause *= if told { TOLD } else { 1 },
                Ok(events) => {
                    self.ready = events.into();
                    continue;
                }
                Err(error) if error.is_retryable() => tracing::warn!(%error, "cannot read events; trying again"),
                Err(error) => return Err(error),
            }
            select(Box::pin(tokio::time::sleep(pause)), Box::pin(self.bell.heard())).await;
        }
    }

    /// The place of the last event that was given: where another watch goes on.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.after
    }

    /// The same as a stream, which does not end.
    pub fn into_stream(self) -> impl Stream<Item = Result<Event>> + Send {
        futures::stream::unfold(self, |mut watch| async move {
            let next = watch.next().await;
            Some((next, watch))
        })
    }
}
