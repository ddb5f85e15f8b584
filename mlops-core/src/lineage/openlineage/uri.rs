use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// An absolute URI, as the standard asks for in a few places.
///
/// ```
/// use mlops_core::lineage::openlineage::Uri;
/// assert!("https://git.example/shop.git?ref=main#top".parse::<Uri>().is_ok());
/// assert!("git@git.example:shop.git".parse::<Uri>().is_err()); // no scheme: write ssh://git@git.example/shop.git
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uri(String);

impl Uri {
    /// A URI of this crate's own. A test checks every one.
    pub(super) fn known(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The URI as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A scheme, then characters that RFC 3986 allows; an authority of user, host and port.
    fn fault(text: &str) -> Option<&'static str> {
        let is_scheme = |scheme: &str| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        };
        let Some((_, rest)) = text.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
            return Some("begin with a scheme such as https:");
        };
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
            None => ("", rest),
        };
        let (user, host) = authority.split_once('@').unwrap_or(("", authority));
        let (host, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => {
                ("", port.strip_prefix(':').unwrap_or(port))
            }
            Some(_) => return Some("between [ and ] write an IPv6 address"),
            None => host.split_once(':').unwrap_or((host, "")),
        };
        if host.contains('@') || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Some("after // write user@host:port, with numbers for the port");
        }
        if path.matches('#').count() > 1 {
            return Some("write the second # as %23");
        }
        if ![user, host, path].into_iter().all(is_plain) {
            return Some("write other characters as % and two hexadecimal digits");
        }
        None
    }
}

fn is_plain(part: &str) -> bool {
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        let mut hex = || bytes.next().is_some_and(|b| b.is_ascii_hexdigit());
        let allowed = byte.is_ascii_alphanumeric() || b"-._~:/?#@!$&'()*+,;=".contains(&byte);
        if !(allowed || byte == b'%' && hex() && hex()) {
            return false;
        }
    }
    true
}

impl FromStr for Uri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for Uri {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        match Self::fault(&text) {
            None => Ok(Self(text)),
            Some(remedy) => Err(Error::invalid("URI", format!("{text:?}: {remedy}"))),
        }
    }
}

impl From<Uri> for String {
    fn from(uri: Uri) -> Self {
        uri.0
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
