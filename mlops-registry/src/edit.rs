//! What the edits of several things have in common.

/// The setters of an edit with `set_tags` and `remove_tags`.
macro_rules! tag_setters {
    () => {
        /// Sets a tag, new or over the value that was.
        #[must_use]
        pub fn set_tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
            self.set_tags.insert(key.into(), value.into());
            self
        }

        /// Takes a tag away; one that is not there is no error.
        #[must_use]
        pub fn remove_tag(mut self, key: impl Into<String>) -> Self {
            self.remove_tags.insert(key.into());
            self
        }
    };
}
pub(crate) use tag_setters;
