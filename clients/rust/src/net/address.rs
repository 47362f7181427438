//! Addresses of nodes.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

/// Maximum number of nodes of one client. Each node in use costs connections and a score for each key.
pub const NODES_MAX: usize = 256;
/// Maximum length of a host name in DNS.
const HOST_MAX_BYTES: usize = 253;
/// Accepted forms of one address.
const EXPECTED: &str = "host:port, [::1]:port, :port (this machine) or unix:/path";

/// The address of one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host name or an IP address, which is looked up for each connection.
    Tcp {
        /// Name in lower case, or IP address without brackets.
        host: Arc<str>,
        /// Port.
        port: u16,
    },
    /// One address of a DNS name.
    Resolved {
        /// IP address and port.
        socket: SocketAddr,
        /// The DNS name, which the certificate of the node has to contain.
        host: Arc<str>,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Returns the text that identifies the node: `host:port`, `ip:port` or `unix:/path`.
    ///
    /// Routing hashes this text, so all clients of a fleet have to use the same names for its nodes.
    #[must_use]
    pub fn name(&self) -> String {
        self.to_string()
    }

    /// Returns `true` if bytes to this node stay on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => &**host == "localhost" || host.parse().is_ok_and(is_loopback),
            Self::Resolved { socket, .. } => is_loopback(socket.ip()),
            Self::Unix(_) => true,
        }
    }

    /// Returns the name that the certificate of the node has to contain; `None` for a Unix socket.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp { host, .. } | Self::Resolved { host, .. } => Some(host),
            Self::Unix(_) => None,
        }
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Resolved { socket, .. } => write!(f, "{socket}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |why: &str| AddressError::new(text, why);
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path).ok_or_else(|| wrong("a Unix socket needs an absolute path"));
        }
        if text.starts_with("dns:") {
            return Err(wrong("a DNS name that is resolved again cannot be part of a list"));
        }
        let (host, port) = host_and_port(text).map_err(|why| wrong(&why))?;
        Ok(Self::Tcp { host, port })
    }
}

/// Parses the part after `unix:`: `/path`, or `///path` as gRPC writes it.
fn unix(path: &str) -> Option<Address> {
    let path = path.strip_prefix("//").unwrap_or(path);
    let is_absolute = path.len() > 1 && path.starts_with('/') && !path.starts_with("//");
    is_absolute.then(|| Address::Unix(path.into()))
}

/// Parses `host:port`, `[::1]:port` or `:port`.
fn host_and_port(text: &str) -> Result<(Arc<str>, u16), String> {
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(format!("unsupported scheme {scheme:?}"));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => bracketed(rest)?,
        None => plain(text)?,
    };
    let port = port.parse().ok().filter(|&port| port > 0);
    let port = port.ok_or("the port is not a number from 1 to 65535")?;
    Ok((host, port))
}

/// Parses `::1]:port`.
fn bracketed(text: &str) -> Result<(Arc<str>, &str), String> {
    let (ip, rest) = text.split_once(']').ok_or("the bracket is not closed")?;
    let ip: Ipv6Addr = ip.parse().map_err(|_| "the text in brackets is not an IPv6 address")?;
    let port = rest.strip_prefix(':').ok_or("the port is missing")?;
    // One form of the address, so that all clients compute the same routes.
    Ok((ip.to_string().into(), port))
}

/// Parses `host:port` or `:port`.
fn plain(text: &str) -> Result<(Arc<str>, &str), String> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    if host.contains(':') {
        return Err("an IPv6 address needs brackets".to_owned());
    }
    if host.is_empty() {
        return Ok((Ipv4Addr::LOCALHOST.to_string().into(), port));
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if host.len() > HOST_MAX_BYTES || !host.bytes().all(is_allowed) {
        return Err("the host name is not valid".to_owned());
    }
    Ok((host.to_ascii_lowercase().into(), port))
}

/// Nodes, as specified by a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A list of at least one and at most [`NODES_MAX`] different nodes.
    Nodes(Vec<Address>),
    /// A DNS name that is resolved again: each of its addresses is a node.
    Dns {
        /// Name in lower case.
        host: Arc<str>,
        /// Port of all nodes.
        port: u16,
    },
}

impl Target {
    /// Returns `true` if bytes to every node stay on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Nodes(nodes) => nodes.iter().all(Address::is_local),
            Self::Dns { .. } => false,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes(nodes) => f.write_str(&nodes.iter().map(Address::name).collect::<Vec<_>>().join(",")),
            Self::Dns { host, port } => write!(f, "dns:///{host}:{port}"),
        }
    }
}

impl FromStr for Target {
    type Err = AddressError;

    /// Parses a list of addresses with commas between them, or `dns:///host:port`.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        if !text.contains(',') && text.starts_with("dns:") {
            return dns(text);
        }
        let mut nodes: Vec<Address> = Vec::new();
        for part in text.split(',') {
            let node: Address = part.trim().parse()?;
            if nodes.contains(&node) {
                return Err(AddressError::new(part.trim(), "the list contains this node twice"));
            }
            if nodes.len() == NODES_MAX {
                return Err(AddressError::new(part.trim(), &format!("the list has more than {NODES_MAX} nodes")));
            }
            nodes.push(node);
        }
        Ok(Self::Nodes(nodes))
    }
}

fn dns(text: &str) -> Result<Target, AddressError> {
    let wrong = |why: &str| AddressError { seen: text.to_owned(), why: why.to_owned(), expected: "dns:///host:port" };
    let name = text.strip_prefix("dns:///").ok_or_else(|| wrong("a DNS name follows three slashes"))?;
    let (host, port) = host_and_port(name).map_err(|why| wrong(&why))?;
    if name.starts_with(':') || host.parse::<IpAddr>().is_ok() {
        return Err(wrong("an IP address is not resolved; specify it without dns:///"));
    }
    Ok(Target::Dns { host, port })
}

/// Reason why an address is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid address {seen:?}: {why}; expected {expected}")]
pub struct AddressError {
    seen: String,
    why: String,
    expected: &'static str,
}

impl AddressError {
    fn new(seen: &str, why: &str) -> Self {
        let why = if seen.is_empty() { "it is empty" } else { why };
        Self { seen: seen.to_owned(), why: why.to_owned(), expected: EXPECTED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        match text.parse().unwrap() {
            Target::Nodes(nodes) => nodes.iter().map(Address::name).collect(),
            Target::Dns { .. } => panic!("{text} is a list"),
        }
    }

    #[test]
    fn a_node_has_one_name_however_it_is_written() {
        for (text, name) in [
            ("cache-a:7400", "cache-a:7400"),
            ("Cache_A.Example:1", "cache_a.example:1"),
            ("127.0.0.1:7400", "127.0.0.1:7400"),
            (":7400", "127.0.0.1:7400"),
            ("[::1]:7400", "[::1]:7400"),
            ("[2001:DB8:0::1]:65535", "[2001:db8::1]:65535"),
            ("unix:/run/terrace", "unix:/run/terrace"),
            ("unix:///run/terrace", "unix:/run/terrace"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().name(), name);
            assert_eq!(name.parse::<Address>().unwrap().name(), name);
        }
    }

    #[test]
    fn lists_and_dns_names() {
        assert_eq!(names("a:1"), ["a:1"]);
        assert_eq!(names(" a:1, [::1]:2,unix:/s ,:3 "), ["a:1", "[::1]:2", "unix:/s", "127.0.0.1:3"]);
        let target: Target = "dns:///Terrace.cache.svc:7400".parse().unwrap();
        assert_eq!(target, Target::Dns { host: "terrace.cache.svc".into(), port: 7400 });
        assert_eq!(target.to_string(), "dns:///terrace.cache.svc:7400");
        assert_eq!("A:1,:2".parse::<Target>().unwrap().to_string(), "a:1,127.0.0.1:2");
    }

    #[test]
    fn faults_name_the_cause_the_value_and_the_accepted_forms() {
        for (text, seen, why) in [
            ("", "", "it is empty"),
            ("a:1,", "", "it is empty"),
            ("a:1,,b:2", "", "it is empty"),
            ("cache", "cache", "the port is missing"),
            ("a:1,b", "b", "the port is missing"),
            ("a:1,A:1", "A:1", "the list contains this node twice"),
            ("cache:0", "cache:0", "the port is not a number from 1 to 65535"),
            ("cache:65536", "cache:65536", "the port is not a number from 1 to 65535"),
            ("cache:", "cache:", "the port is not a number from 1 to 65535"),
            ("http://cache:7400", "http://cache:7400", "unsupported scheme \"http\""),
            ("::1:7400", "::1:7400", "an IPv6 address needs brackets"),
            ("[::1:7400", "[::1:7400", "the bracket is not closed"),
            ("[::1]7400", "[::1]7400", "the port is missing"),
            ("[::g]:1", "[::g]:1", "the text in brackets is not an IPv6 address"),
            ("a b:1", "a b:1", "the host name is not valid"),
            ("user@a:1", "user@a:1", "the host name is not valid"),
            ("unix:run", "unix:run", "a Unix socket needs an absolute path"),
            ("unix://host/run", "unix://host/run", "a Unix socket needs an absolute path"),
            ("a:1,dns:///b:1", "dns:///b:1", "a DNS name that is resolved again cannot be part of a list"),
        ] {
            let fault = text.parse::<Target>().unwrap_err().to_string();
            assert_eq!(fault, format!("invalid address {seen:?}: {why}; expected {EXPECTED}"));
        }
        for (text, why) in [
            ("dns://8.8.8.8/a:1", "a DNS name follows three slashes"),
            ("dns:a:1", "a DNS name follows three slashes"),
            ("dns:///a", "the port is missing"),
            ("dns:///:7400", "an IP address is not resolved; specify it without dns:///"),
            ("dns:///[::1]:7400", "an IP address is not resolved; specify it without dns:///"),
        ] {
            let fault = text.parse::<Target>().unwrap_err().to_string();
            assert_eq!(fault, format!("invalid address {text:?}: {why}; expected dns:///host:port"));
        }
    }

    #[test]
    fn the_number_of_nodes_is_limited() {
        let list = |count: usize| (0..count).map(|node| format!("n{node}:1")).collect::<Vec<_>>().join(",");
        assert_eq!(names(&list(NODES_MAX)).len(), NODES_MAX);
        let fault = list(NODES_MAX + 1).parse::<Target>().unwrap_err().to_string();
        assert!(fault.contains("\"n256:1\": the list has more than 256 nodes"), "{fault}");
    }

    #[test]
    fn only_loopback_and_unix_sockets_are_local() {
        for local in ["127.0.0.1:7400", "127.9.9.9:1", "[::1]:7400", ":7400", "LocalHost:7400", "unix:/run/terrace"] {
            assert!(local.parse::<Address>().unwrap().is_local(), "{local}");
        }
        for remote in
            ["10.0.0.1:7400", "[2001:db8::1]:7400", "terrace:7400", "localhost.example:7400", "127.0.0.1.nip.io:1"]
        {
            assert!(!remote.parse::<Address>().unwrap().is_local(), "{remote}");
        }
        assert!(":1,unix:/a".parse::<Target>().unwrap().is_local());
        assert!(!":1,a:1".parse::<Target>().unwrap().is_local());
        assert!(!"dns:///localhost:1".parse::<Target>().unwrap().is_local());
    }
}
