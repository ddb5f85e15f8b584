//! What is searched for, and a page of what was found.

use serde::{Deserialize, Serialize};

use super::{DatasetFilter, View};

/// A search: which things, in which order, from where, how many.
///
/// ```
/// use mlops_registry::search::{Search, View};
/// let search = Search::new("params.model = 'mlp'").order_by("metrics.loss ASC").view(View::All).limit(20);
/// assert_eq!((search.limit, search.order_by.len()), (20, 1));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Search {
    /// The filter; empty for everything.
    pub filter: String,
    /// The keys of the order, first the most important; the entity's own order if empty.
    pub order_by: Vec<String>,
    /// For each key, the dataset that a logged model's metric must be of; may be shorter than `order_by`.
    pub order_datasets: Vec<Option<DatasetFilter>>,
    /// The datasets that a logged model's metrics must be of to fit the filter; all if empty.
    pub datasets: Vec<DatasetFilter>,
    /// Which stages.
    pub view: View,
    /// Most things on the page: 1 to 50,000.
    pub limit: usize,
    /// Where to go on: [`Page::next`] of the page before, for the same search.
    pub page_token: Option<String>,
}

impl Default for Search {
    fn default() -> Self {
        Self::new("")
    }
}

impl Search {
    /// A search with that filter, of at most 1,000 things in use, in the entity's own order.
    pub fn new(filter: impl Into<String>) -> Self {
        Self {
            filter: filter.into(),
            order_by: Vec::new(),
            order_datasets: Vec::new(),
            datasets: Vec::new(),
            view: View::Active,
            limit: 1_000,
            page_token: None,
        }
    }

    /// Adds a key to the order: a field, then `ASC` or `DESC`.
    #[must_use]
    pub fn order_by(mut self, key: impl Into<String>) -> Self {
        self.order_by.push(key.into());
        self
    }

    /// Adds a key to the order of logged models: a metric as measured on a dataset.
    #[must_use]
    pub fn order_by_on(mut self, key: impl Into<String>, dataset: DatasetFilter) -> Self {
        self.order_datasets.resize(self.order_by.len(), None);
        self.order_by.push(key.into());
        self.order_datasets.push(Some(dataset));
        self
    }

    /// Looks only at metrics of logged models that were measured on this dataset, or another that was given.
    #[must_use]
    pub fn dataset(mut self, dataset: DatasetFilter) -> Self {
        self.datasets.push(dataset);
        self
    }

    /// Which stages (default [`View::Active`]).
    #[must_use]
    pub fn view(mut self, view: View) -> Self {
        self.view = view;
        self
    }

    /// Most things on the page, 1 to 50,000 (default 1,000).
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Goes on where a page ended.
    #[must_use]
    pub fn after(mut self, page_token: impl Into<String>) -> Self {
        self.page_token = Some(page_token.into());
        self
    }
}

/// A page of what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Page<T> {
    /// The things, in order.
    pub items: Vec<T>,
    /// What [`Search::after`] takes for the next page; absent on the last.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page, with what leads to the next.
    pub fn new(items: Vec<T>, next: Option<String>) -> Self {
        Self { items, next }
    }
}
