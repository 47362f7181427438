//! Resolution of a DNS name to nodes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::lookup_host, time::timeout};

use super::{
    address::{Address, NODES_MAX},
    stream::{Cause, ConnectError},
};

/// Resolves a DNS name to its nodes, in the order of their addresses.
///
/// A node with an IPv4 and an IPv6 address would be two nodes, and clients without IPv6 would see half of them fail.
/// Therefore the nodes are the IPv4 addresses, or the IPv6 addresses if there are no IPv4 addresses.
///
/// # Errors
/// The name does not resolve within `limit`, or to more than [`NODES_MAX`] addresses.
pub(crate) async fn resolve(host: &Arc<str>, port: u16, limit: Duration) -> Result<Vec<Address>, ConnectError> {
    let fault = |cause| ConnectError::new(&Address::Tcp { host: Arc::clone(host), port }, cause);
    let found = timeout(limit, lookup_host((&**host, port))).await;
    let found = found.map_err(|_elapsed| fault(Cause::TimedOut(limit)))?;
    let found = found.map_err(|error| fault(Cause::Unresolvable(error.to_string())))?;
    let nodes = nodes(found.collect(), host);
    match nodes.len() {
        0 => Err(fault(Cause::Unresolvable("the name has no addresses".to_owned()))),
        count if count > NODES_MAX => Err(fault(Cause::TooManyNodes(count))),
        _ => Ok(nodes),
    }
}

fn nodes(mut found: Vec<SocketAddr>, host: &Arc<str>) -> Vec<Address> {
    if found.iter().any(SocketAddr::is_ipv4) {
        found.retain(SocketAddr::is_ipv4);
    }
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|socket| Address::Resolved { socket, host: Arc::clone(host) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn names(found: &[&str]) -> Vec<String> {
        let found = found.iter().map(|socket| socket.parse().unwrap()).collect();
        let nodes = nodes(found, &"cache".into());
        assert!(nodes.iter().all(|node| node.host() == Some("cache")));
        nodes.iter().map(Address::name).collect()
    }

    #[test]
    fn nodes_have_one_order_and_one_family() {
        assert_eq!(names(&["10.0.0.2:1", "10.0.0.1:1", "10.0.0.2:1"]), ["10.0.0.1:1", "10.0.0.2:1"]);
        assert_eq!(names(&["[2001:db8::1]:1", "10.0.0.1:1"]), ["10.0.0.1:1"]);
        assert_eq!(names(&["[2001:db8::2]:1", "[2001:db8::1]:1"]), ["[2001:db8::1]:1", "[2001:db8::2]:1"]);
    }

    #[tokio::test]
    async fn names_are_looked_up() {
        let nodes = resolve(&"localhost".into(), 7400, LIMIT).await.unwrap();
        assert!(!nodes.is_empty() && nodes.iter().all(Address::is_local), "{nodes:?}");
        let fault = resolve(&"terrace.invalid".into(), 7400, LIMIT).await.unwrap_err().to_string();
        assert!(fault.starts_with("cannot connect to terrace.invalid:7400: the name cannot be resolved: "), "{fault}");
    }
}
