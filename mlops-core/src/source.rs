//! Where a deployment gets its models from.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Digest, Error, Package, Result};

/// Which version of a model is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Selector {
    /// The version with that number.
    Version(u64),
    /// The version that alias points at, now.
    Alias(String),
    /// The newest version.
    Latest,
}

/// A model and which version of it: `models:/prices/3`, `models:/prices@champion`, `models:/prices/latest`.
///
/// ```
/// use mlops_core::{ModelRef, Selector};
/// let wanted: ModelRef = "models:/prices@champion".parse()?;
/// assert_eq!(wanted, ModelRef::alias("prices", "champion"));
/// assert_eq!(ModelRef::version("prices", 3).to_string(), "models:/prices/3");
/// # Ok::<(), mlops_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelRef {
    /// The model's name.
    pub name: String,
    /// Which version.
    pub selector: Selector,
}

impl ModelRef {
    /// The version that `alias` points at.
    pub fn alias(name: impl Into<String>, alias: impl Into<String>) -> Self {
        Self { name: name.into(), selector: Selector::Alias(alias.into()) }
    }

    /// One version by number.
    pub fn version(name: impl Into<String>, version: u64) -> Self {
        Self { name: name.into(), selector: Selector::Version(version) }
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.selector {
            Selector::Version(version) => write!(f, "models:/{}/{version}", self.name),
            Selector::Alias(alias) => write!(f, "models:/{}@{alias}", self.name),
            Selector::Latest => write!(f, "models:/{}/latest", self.name),
        }
    }
}

impl FromStr for ModelRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid(
                "model reference",
                format!("{text:?} is none of models:/name/3, models:/name@alias, models:/name/latest"),
            )
        };
        let rest = text.strip_prefix("models:/").ok_or_else(invalid)?;
        let (name, selector) = if let Some((name, alias)) = rest.split_once('@') {
            (name, Selector::Alias(alias.to_owned()))
        } else {
            match rest.split_once('/').ok_or_else(invalid)? {
                (name, "latest") => (name, Selector::Latest),
                (name, number) => (name, Selector::Version(number.parse().map_err(|_| invalid())?)),
            }
        };
        let empty = name.is_empty() || name.contains('/') || selector == Selector::Alias(String::new());
        if empty { Err(invalid()) } else { Ok(Self { name: name.to_owned(), selector }) }
    }
}

/// What a reference points at now.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResolvedModel {
    /// The model's name.
    pub name: String,
    /// The version's number.
    pub version: u64,
    /// Grows whenever the reference points at something else; 0 for a fixed version.
    pub revision: u64,
    /// The digest of the version's package.
    pub package: Digest,
}

impl fmt::Display for ResolvedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}", self.name, self.version)
    }
}

/// Finds and fetches model packages; the registry is one.
///
/// # Contract
/// - **Fresh.** `resolve` tells what is true when it is called; it never answers from a cache that may be stale.
/// - **Revision.** For one reference it never goes down, and two equal revisions mean the same version.
/// - **Verified.** `package` checks every byte and returns [`Error::Corrupt`] rather than a damaged model.
/// - **Missing** models, versions and aliases are [`Error::NotFound`].
#[async_trait]
pub trait ModelSource: fmt::Debug + Send + Sync + 'static {
    /// What `wanted` points at now.
    async fn resolve(&self, wanted: &ModelRef) -> Result<ResolvedModel>;

    /// The package of a resolved model.
    async fn package(&self, model: &ResolvedModel) -> Result<Package>;
}

/// Conveniences for callers. Implemented for every source; never implement it by hand.
pub trait ModelSourceExt: ModelSource {
    /// The package that `wanted` points at now.
    fn fetch(&self, wanted: &ModelRef) -> impl Future<Output = Result<Package>> + Send {
        async move { self.package(&self.resolve(wanted).await?).await }
    }
}

impl<S: ModelSource + ?Sized> ModelSourceExt for S {}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: ModelSource + ?Sized> ModelSource for Arc<S> {
    async fn resolve(&self, wanted: &ModelRef) -> Result<ResolvedModel> {
        (**self).resolve(wanted).await
    }

    async fn package(&self, model: &ResolvedModel) -> Result<Package> {
        (**self).package(model).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_read_back_as_written() {
        for text in ["models:/a/3", "models:/a@champion", "models:/a/latest"] {
            assert_eq!(text.parse::<ModelRef>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            "a/3",
            "models:/",
            "models:/a",
            "models:/a/",
            "models:/a/x",
            "models:/@b",
            "models:/a@",
            "models:/a/-1",
        ] {
            assert!(text.parse::<ModelRef>().is_err(), "{text:?}");
        }
    }
}
