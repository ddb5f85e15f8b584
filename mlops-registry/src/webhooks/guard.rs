//! Where webhooks may lead: what keeps a service from being sent to its own network (SSRF).

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use hyper::Uri;
use mlops_core::{Error, Result};

/// Longest address of a webhook, in characters.
const LONGEST: usize = 2_000;

/// IPv4 networks that are no public hosts (RFC 6890 and later): this network, private, carriers' NAT, loopback, link-local
/// with the metadata services of clouds, protocol assignments, documentation, 6to4 relays, benchmarks, multicast, reserved.
const NOT_PUBLIC_V4: [([u8; 4], u8); 15] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

/// The IPv6 addresses that are given to hosts. Outside are loopback, unspecified, unique local, link-local, multicast, those
/// that stand for an IPv4 address (mapped, compatible, NAT64), and what is not given out.
const PUBLIC_V6: ([u16; 8], u8) = ([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// And what is no public host within: protocol assignments with Teredo and ORCHID, documentation, 6to4.
const NOT_PUBLIC_V6: [([u16; 8], u8); 4] = [
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];

fn is_public(ip: IpAddr) -> bool {
    let within = |(base, bits)| Network { base, bits }.contains(ip);
    match ip {
        IpAddr::V4(_) => !NOT_PUBLIC_V4.iter().any(|(base, bits)| within((Ipv4Addr::from(*base).into(), *bits))),
        IpAddr::V6(_) => {
            let six = |(base, bits): &([u16; 8], u8)| within((Ipv6Addr::from(*base).into(), *bits));
            six(&PUBLIC_V6) && !NOT_PUBLIC_V6.iter().any(six)
        }
    }
}

/// A network of addresses: `10.1.0.0/16`, `fd00::/8`, or one address.
///
/// ```
/// use mlops_registry::webhooks::Network;
/// let network: Network = "10.1.0.0/16".parse()?;
/// assert!(network.contains("10.1.2.3".parse()?) && !network.contains("10.2.0.0".parse()?));
/// assert!("10.1.2.3/16".parse::<Network>().is_err()); // that is an address in it
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether the address is in it. An IPv4 address is in no IPv6 network, nor the other way round.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.base, ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.bits);
                base.to_bits().checked_shr(shift) == ip.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.bits);
                base.to_bits().checked_shr(shift) == ip.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::invalid("network", format!("{text:?} {why}; write 10.1.0.0/16 or fd00::/8"));
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let base: IpAddr = address.parse().map_err(|_| wrong("is no network"))?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(|| wrong("has no such size"))?,
        };
        let beyond = match base {
            IpAddr::V4(base) => base.to_bits().checked_shl(bits.into()).unwrap_or(0) != 0,
            IpAddr::V6(base) => base.to_bits().checked_shl(bits.into()).unwrap_or(0) != 0,
        };
        if beyond {
            return Err(wrong("names an address in a network"));
        }
        Ok(Self { base, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// What finds the addresses of a name. What it gives is checked, so it may be anybody's.
///
/// # Contract
/// - Gives every address that it knows, in the order in which to try them; none is an error.
/// - May be asked about one name many times, and need not give the same.
#[async_trait]
pub trait Resolver: fmt::Debug + Send + Sync + 'static {
    /// The addresses of `host`, which is no address itself.
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// What the operating system says, asked on the caller's tokio runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// Why an address is not gone to.
#[derive(Debug)]
pub(super) enum Refused {
    /// It may not be.
    Forbidden(String),
    /// It could not be found out; perhaps later.
    Unknown(String),
}

/// Where webhooks may lead.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub(super) allowed: Vec<Network>,
    pub(super) resolver: Arc<dyn Resolver>,
}

/// A webhook's address in its parts.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) uri: Uri,
    pub(super) tls: bool,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Target {
    /// Reads an address; where it leads is not looked at yet. The text is not repeated in errors: it may hold a token.
    pub(super) fn read(url: &str) -> Result<Self> {
        let wrong = |why: &str| Error::invalid("webhook URL", format!("{why}; write https://host/path"));
        if url.len() > LONGEST {
            return Err(wrong("is longer than 2,000 characters"));
        }
        let uri: Uri = url.parse().map_err(|_| wrong("is not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("is neither http nor https")),
        };
        let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty()) else {
            return Err(wrong("has no host"));
        };
        if authority.as_str().contains('@') {
            return Err(wrong("has a user, which is never sent"));
        }
        if url.contains('#') {
            return Err(wrong("has a fragment, which is never sent"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
            "" if tls => 443,
            "" => 80,
            given => given.trim_start_matches(':').parse().map_err(|_| wrong("has no such port"))?,
        };
        if port == 0 {
            return Err(wrong("has port 0"));
        }
        Ok(Self { uri, tls, host, port })
    }

    /// What may be told of it to everybody: where to, without path and query.
    pub(super) fn origin(&self) -> String {
        let authority = self.uri.authority().map(ToString::to_string).unwrap_or_default();
        format!("{}://{authority}", if self.tls { "https" } else { "http" })
    }
}

/// The origin of an address that was taken once.
pub(crate) fn origin(url: &str) -> String {
    Target::read(url).map_or_else(|_| String::new(), |target| target.origin())
}

/// Whether it is the address of a webhook; where it leads is looked at when it is used.
pub(crate) fn check(url: &str) -> Result<()> {
    Target::read(url).map(drop)
}

impl Guard {
    /// The addresses to connect to, all of which may be.
    pub(super) async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, Refused> {
        let Target { host, port, tls, .. } = target;
        let found = match host.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => match self.resolver.resolve(host).await {
                Ok(found) if found.is_empty() => return Err(Refused::Unknown(format!("{host} has no address"))),
                Ok(found) => found,
                Err(error) => return Err(Refused::Unknown(format!("cannot find the address of {host}: {error}"))),
            },
        };
        for ip in &found {
            let allowed = self.allowed.iter().any(|network| network.contains(*ip));
            if !allowed && !is_public(*ip) {
                let named = if host.parse::<IpAddr>().is_ok() { String::new() } else { format!("{host} leads to ") };
                let why = format!("{named}{ip}, which is not a public address, nor in a network that was allowed");
                return Err(Refused::Forbidden(why));
            }
            if !allowed && !tls {
                let why = format!("{host} is in no network that was allowed, so it is reached over https alone");
                return Err(Refused::Forbidden(why));
            }
        }
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, *port)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for good in [
            "1.1.1.1",
            "8.8.8.8",
            "93.184.216.34",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2003::1",
            "2a00::1",
            "3ffe::1",
        ] {
            assert!(is_public(good.parse().unwrap()), "{good}");
        }
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.0.0",
            "169.254.169.254",
            "169.254.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:169.254.169.254",
            "64:ff9b::8.8.8.8",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:10::1",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "febf::1",
            "ff02::1",
            "ff0e::1",
            "1fff::1",
        ] {
            assert!(!is_public(bad.parse().unwrap()), "{bad}");
        }
    }

    proptest::proptest! {
        /// The standard library agrees wherever it has a word for it.
        #[test]
        fn what_the_library_names_is_not_public(bits: u32, shape in 0_u8..8) {
            let ip = Ipv4Addr::from_bits(bits);
            if ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast()
                || ip.is_unspecified() || ip.is_documentation() {
                proptest::prop_assert!(!is_public(ip.into()), "{}", ip);
            }
            proptest::prop_assert!(!is_public(ip.to_ipv6_mapped().into()));
            proptest::prop_assert!(!is_public(ip.to_ipv6_compatible().into()));
            let six = Ipv6Addr::from_bits((u128::from(bits) << 96) | u128::from(bits) | (u128::from(shape) << 125));
            if six.is_unique_local() || six.is_unicast_link_local() || six.is_multicast() || six.is_loopback() {
                proptest::prop_assert!(!is_public(six.into()), "{}", six);
            }
            let within = Network { base: ip.into(), bits: 32 };
            proptest::prop_assert!(within.contains(ip.into()));
            proptest::prop_assert!(!within.contains(Ipv4Addr::from_bits(bits ^ 1).into()));
        }
    }

    #[test]
    fn networks_read_and_contain() {
        for (text, inside, outside) in [
            ("10.1.0.0/16", "10.1.255.255", "10.2.0.0"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "255.255.255.255", "::"),
            ("fd00::/8", "fdff::1", "fe00::"),
            ("::1", "::1", "127.0.0.1"),
            ("::/0", "ffff::", "1.2.3.4"),
        ] {
            let network: Network = text.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{text}");
            assert!(!network.contains(outside.parse().unwrap()), "{text}");
            assert_eq!(network.to_string().parse::<Network>().unwrap(), network);
        }
        for bad in
            ["", "10.0.0.0/33", "10.0.0.1/8", "::1/127", "fd00::/129", "host", "10.0.0.0/", "10.0.0.0/-1", "10/8"]
        {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_read_as_what_is_connected_to() {
        let target = Target::read("https://[2606:4700::1111]:8443/a?b=c").unwrap();
        assert_eq!((&*target.host, target.port, target.tls), ("2606:4700::1111", 8443, true));
        assert_eq!(target.origin(), "https://[2606:4700::1111]:8443");
        let target = Target::read("http://example.org").unwrap();
        assert_eq!((&*target.host, target.port, target.tls), ("example.org", 80, false));
        for bad in [
            "",
            "example.org",
            "/path",
            "ftp://example.org/",
            "file:///etc/passwd",
            "https://",
            "https:///x",
            "gopher://x/",
            "https://user:hush@example.org/",
            "https://example.org/#hush",
            "https://example.org:0/",
            "https://example.org:/",
            "https://example.org:99999/",
            "https://exa mple.org/",
            "javascript:alert(1)",
            "https://a/\n",
            &format!("https://example.org/{}", "x".repeat(2_000)),
        ] {
            let error = Target::read(bad).unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
