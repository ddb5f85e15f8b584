use std::fmt;
use std::io::Read;

use mlops_core::digest::Hasher;
use serde::{Deserialize, Serialize};

use crate::Result;

/// Says which code a step runs. It is part of every cache key, so that other code never gets this code's results.
///
/// Without one, nothing is taken from the cache.
///
/// It stands for code, not for data: a value that a step's closure captures, and a file or service that it reads, are not
/// part of it, nor of the key. Give those as [`value`](crate::PipelineBuilder::value)s or inputs, or mark the step
/// [`uncached`](crate::StepOptions::uncached).
///
/// | made by | changes when | forgets |
/// | --- | --- | --- |
/// | [`declared`](Self::declared) | you say so | whatever you forget |
/// | [`of_sources`](Self::of_sources) | one of those sources changes | what they call |
/// | [`of_executable`](Self::of_executable) | the program is built anew with any change | nothing in the program |
///
/// ```
/// use mlops_pipeline::CodeIdentity;
/// assert_ne!(CodeIdentity::declared("v1"), CodeIdentity::declared("v2"));
/// let sources = CodeIdentity::of_sources(&[("train.rs", "fn train() {}"), ("Cargo.lock", "...")]);
/// assert!(sources.to_string().starts_with("sources:"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CodeIdentity(String);

impl CodeIdentity {
    /// A version that you give and change by hand.
    pub fn declared(version: impl fmt::Display) -> Self {
        Self(format!("declared:{version}"))
    }

    /// The digest of named sources, most often from `include_str!`. Their order does not matter.
    #[must_use]
    pub fn of_sources(sources: &[(&str, &str)]) -> Self {
        let mut sources = sources.to_vec();
        sources.sort_unstable();
        let mut hasher = Hasher::default();
        for (name, text) in sources {
            hasher.field(name.as_bytes()).field(text.as_bytes());
        }
        Self(format!("sources:{}", hasher.finish()))
    }

    /// The digest of the program that is running. Reads the whole file, so call it once.
    ///
    /// # Errors
    /// [`mlops_core::Error::Backend`] if the file cannot be read.
    pub fn of_executable() -> Result<Self> {
        let failed = |operation, key: String, source| mlops_core::Error::Backend {
            backend: "running program".to_owned(),
            operation,
            key,
            retryable: false,
            source: Box::new(source),
        };
        // On Linux this link leads to the file that was started, even after a build has put another in its place.
        let path = if cfg!(target_os = "linux") {
            "/proc/self/exe".into()
        } else {
            std::env::current_exe().map_err(|e| failed("find", String::new(), e))?
        };
        let unreadable = |e| failed("read", path.display().to_string(), e);
        let mut file = std::fs::File::open(&path).map_err(unreadable)?;
        let (mut hasher, mut buffer) = (Hasher::default(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer).map_err(unreadable)? {
                0 => return Ok(Self(format!("executable:{}", hasher.finish()))),
                n => hasher.update(&buffer[..n]),
            };
        }
    }

    /// The identity as text, as it enters cache keys and lineage.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_by_name_and_text_but_not_by_order() {
        let of = CodeIdentity::of_sources;
        assert_eq!(of(&[("a", "1"), ("b", "2")]), of(&[("b", "2"), ("a", "1")]));
        assert_ne!(of(&[("a", "1"), ("b", "2")]), of(&[("a", "2"), ("b", "1")]));
        assert_ne!(of(&[("a", "1b")]), of(&[("a1", "b")]));
    }

    #[test]
    fn one_program_has_one_identity() {
        assert_eq!(CodeIdentity::of_executable().unwrap(), CodeIdentity::of_executable().unwrap());
    }
}
