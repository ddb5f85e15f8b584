use std::fmt;
use std::str::FromStr;

use super::{DatasetStore, DatasetVersion};
use crate::store::check_name;
use crate::{Digest, Error, Result, Timestamp};

/// Names a version the way people do.
///
/// | text | the version |
/// | --- | --- |
/// | `prices` | committed last |
/// | `prices@3f9a2b41` | whose digest begins so (at least 8 digits, and only one does) |
/// | `prices@gold` | tagged `gold`, should no digest begin so |
/// | `prices@v3` | numbered 3 by a store that numbers them, should no tag be called so |
/// | `prices@2026-11-25T12:00:00Z` | committed last by then |
/// | any of these with `~2` | two parents before it, of this dataset |
///
/// ```
/// use mlops_core::dataset::DatasetSpec;
/// let spec: DatasetSpec = "prices@gold~1".parse()?;
/// assert_eq!((spec.name(), spec.to_string().as_str()), ("prices", "prices@gold~1"));
/// assert!("prices@gold~minus one".parse::<DatasetSpec>().is_err());
/// # Ok::<(), mlops_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetSpec {
    name: String,
    at: At,
    distance: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    Last,
    Word(String),
    Time(Timestamp),
}

impl DatasetSpec {
    /// The dataset's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version committed last by `time`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a name that is not plain.
    pub fn as_of(name: impl Into<String>, time: Timestamp) -> Result<Self> {
        let name = name.into();
        check_name("dataset name", &name)?;
        Ok(Self { name, at: At::Time(time), distance: 0 })
    }

    /// Finds the version in `store`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none; [`Error::InvalidInput`] for a beginning that several digests have.
    pub async fn find<S: DatasetStore + ?Sized>(&self, store: &S) -> Result<DatasetVersion> {
        let missing = || Error::not_found("dataset version", self);
        let mut version = match &self.at {
            At::Last => store.versions(&self.name).await?.pop().ok_or_else(missing)?,
            At::Time(time) => {
                let mut versions = store.versions(&self.name).await?;
                versions.retain(|version| version.created_at <= *time);
                versions.pop().ok_or_else(missing)?
            }
            At::Word(word) => match self.digest(store, word).await? {
                Some(digest) => store.version(&self.name, &digest).await?,
                None => {
                    let tags = store.tags(&self.name).await?;
                    match (tags.iter().find(|tag| tag.tag == *word), number(word)) {
                        (Some(tag), _) => store.version(&self.name, &tag.version.ok_or_else(missing)?).await?,
                        (None, Some(number)) => {
                            let mut versions = store.versions(&self.name).await?.into_iter();
                            versions.find(|version| version.number == Some(number)).ok_or_else(missing)?
                        }
                        (None, None) => return Err(missing()),
                    }
                }
            },
        };
        for _ in 0..self.distance {
            let parent = version.parent.filter(|parent| parent.name == self.name).ok_or_else(missing)?;
            version = store.version(&parent.name, &parent.digest).await?;
        }
        Ok(version)
    }

    /// The digest that begins with `word`, if it looks like the beginning of one.
    async fn digest<S: DatasetStore + ?Sized>(&self, store: &S, word: &str) -> Result<Option<Digest>> {
        if let Ok(digest) = word.parse() {
            return Ok(Some(digest));
        }
        let digits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if word.len() < 8 || !word.bytes().all(digits) {
            return Ok(None);
        }
        let versions = store.versions(&self.name).await?;
        let found: Vec<Digest> =
            versions.iter().map(|v| v.digest).filter(|d| d.to_string().starts_with(word)).collect();
        match found[..] {
            [] => Ok(None),
            [digest] => Ok(Some(digest)),
            _ => {
                let reason = format!("{word} begins the digests of {} versions; give more digits", found.len());
                Err(Error::invalid("dataset version", reason))
            }
        }
    }
}

/// The number that `v3` names.
fn number(word: &str) -> Option<u64> {
    word.strip_prefix('v')?.parse().ok()
}

impl FromStr for DatasetSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let shown: String = text.chars().take(80).collect();
        let invalid = |reason: &str| Error::invalid("dataset version", format!("{shown:?} {reason}"));
        let (text, distance) = match text.split_once('~') {
            Some((text, distance)) => {
                (text, distance.parse().map_err(|_| invalid("must end with a number after '~'"))?)
            }
            None => (text, 0),
        };
        let (name, at) = match text.split_once('@') {
            None => (text, At::Last),
            Some((name, at)) => match at.parse() {
                Ok(time) => (name, At::Time(time)),
                Err(_) => {
                    check_name("dataset tag, digest or time", at)?;
                    (name, At::Word(at.to_owned()))
                }
            },
        };
        check_name("dataset name", name)?;
        Ok(Self { name: name.to_owned(), at, distance })
    }
}

impl fmt::Display for DatasetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.at {
            At::Last => {}
            At::Word(word) => write!(f, "@{word}")?,
            At::Time(time) => write!(f, "@{}", time.to_rfc3339())?,
        }
        if self.distance > 0 { write!(f, "~{}", self.distance) } else { Ok(()) }
    }
}
