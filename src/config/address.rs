//! Listen addresses in the notation of the configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `host:port`, `[::1]:port`, `:port` (all interfaces) or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: Host,
    /// Port number; 0 = any free port.
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    All,
    Ip(IpAddr),
    Name(String),
    Unix(String),
}

const EXPECTED: &str = "host:port, [::1]:port, :port (all interfaces) or unix:/path";
/// Maximum size of a Unix socket path, set by the operating system.
const PATH_MAX_BYTES: usize = 107;

impl Address {
    /// Parses an address.
    ///
    /// # Errors
    /// A message with the fault and the accepted forms.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::unix(path).map_err(|why| format!("{text:?}: {why}"));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} has no port; expected {EXPECTED}"))?;
        let port = port.parse().map_err(|_| format!("{text:?}: invalid port {port:?}; expected 0 to 65535"))?;
        let host = Host::parse(host).ok_or_else(|| format!("{text:?} is not {EXPECTED}"))?;
        Ok(Self { host, port })
    }

    fn unix(path: &str) -> Result<Self, String> {
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err(format!("{path:?} is not an absolute path of a socket"));
        }
        if path.len() > PATH_MAX_BYTES {
            return Err(format!("the socket path has {} bytes; expected at most {PATH_MAX_BYTES}", path.len()));
        }
        Ok(Self { host: Host::Unix(path.into()), port: 0 })
    }

    /// Returns the host, if it is a name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Name(name) => Some(name),
            Host::All | Host::Ip(_) | Host::Unix(_) => None,
        }
    }

    /// Returns true if only this machine can reach the address. Host names other than localhost count as reachable from
    /// other machines.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::All => false,
            Host::Ip(ip) => ip.to_canonical().is_loopback(),
            Host::Name(name) => name == "localhost",
            Host::Unix(_) => true,
        }
    }

    /// Returns true if two listeners would need the same port of the same interface, or the same path. Names are not
    /// resolved.
    #[must_use]
    pub fn clashes(&self, other: &Self) -> bool {
        if matches!(self.host, Host::Unix(_)) {
            return self.host == other.host;
        }
        self.port != 0 && self.port == other.port && (self.host == other.host || self.is_all() || other.is_all())
    }

    fn is_all(&self) -> bool {
        match &self.host {
            Host::All => true,
            Host::Ip(ip) => ip.is_unspecified(),
            Host::Name(_) | Host::Unix(_) => false,
        }
    }
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::All);
        }
        if let Some(inner) = text.strip_prefix('[') {
            return inner.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(|ip| Self::Ip(ip.into()));
        }
        if let Ok(ip) = text.parse::<Ipv4Addr>() {
            return Some(Self::Ip(ip.into()));
        }
        let named = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        // A last label of only digits is a mistyped IPv4 address, never a name (RFC 3696).
        let digits = text.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
        (named && !digits).then(|| Self::Name(text.into()))
    }
}
