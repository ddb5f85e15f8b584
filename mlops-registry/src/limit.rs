use std::fmt::{self, Display};

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal,)+) => {
        /// What a backend does not do of a contract, because the system behind it cannot.
        ///
        /// Each says what happens instead. What is refused is [`Error::Unsupported`](crate::Error::Unsupported), which
        /// names the operation, the backend and the remedy.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Limit { $($(#[doc = $doc])+ $name,)+ }

        impl Limit {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The limit in one word: `chosen_ids`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }
        }
    };
}

limits! {
    /// Ids are the backend's: one that is given to a new run or logged model is refused.
    ChosenIds = "chosen_ids",
    /// Times are kept to the millisecond.
    Microseconds = "microseconds",
    /// The infinities come back as the greatest finite numbers, and NaN counts as 0 where the latest point is chosen.
    MetricExtremes = "metric_extremes",
    /// A metric's history does not say of which model and on which dataset a point was measured; pages of it go by time
    /// before step. Of a logged model, a run
    /// tells one point of each step and time: another, or the same again, is refused.
    MetricOrigin = "metric_origin",
    /// A run reads a dataset for one purpose: another context of the same dataset is refused.
    InputContexts = "input_contexts",
    /// The system is asked for the artifacts of a run, never told of them: their bytes are taken from and put into the
    /// artifact store that the backend was given, and `Run::artifacts` is empty.
    ArtifactDigests = "artifact_digests",
    /// URIs hold the system's ids and are its own to choose.
    OwnUris = "own_uris",
    /// A path that is a file cannot be a directory too.
    FilesAndFolders = "files_and_folders",
    /// A deleted logged model is not found, and not restored; searches find none.
    DeletedLoggedModels = "deleted_logged_models",
    /// Restoring an experiment restores all its runs, and its logged models do not follow it.
    Cascades = "cascades",
    /// Pages go by place, so that what is added or removed meanwhile is missed or seen twice.
    StablePages = "stable_pages",
    /// Filters by NaN, by an infinity, by text with both kinds of quotes, of registered models and versions by a tag that
    /// is not there, of logged models by their status, and orders by params or tags of logged models are refused. Which models a search on some datasets finds is the
    /// system's to say.
    Filters = "filters",
    /// A call that says more than one thing is made of several, and may be kept in part.
    Atomic = "atomic",
    /// There is no compare-and-swap: of two calls at the same time both may take effect, the last one staying.
    CompareAndSwap = "compare_and_swap",
    /// Policies, requests, approvals, rollbacks, histories, holds, events and own stages are refused. What moves an alias
    /// or a stage moves it at once, and only the last move is known.
    Governance = "governance",
    /// What was deleted is forgotten: deleting it again is `NotFound`, and the numbers of a model's versions begin anew
    /// with its name.
    Memory = "memory",
}

impl Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
