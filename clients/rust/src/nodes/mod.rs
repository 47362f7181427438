//! The nodes of a client: their connections, and the selection of the node of an operation.

pub mod routing;

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use self::routing::RouteHash;
use crate::{
    Target,
    engine::{
        connection::Channel,
        driver,
        link::{Link, Readiness},
    },
    error::{Error, ErrorKind, Result},
    near::{Near, feed, store::Feed},
    net::{address::Address, resolve::resolve},
    settings::{Routing, Settings},
};

/// Metadata of a stream that names the data of the node's L2.
const STORE_ID: &str = "terrace-store-id";
/// Metadata of a stream that has the maximum size of a request in bytes.
const MAX_MESSAGE: &str = "terrace-max-message";
/// Maximum size in bytes of a request to a node that does not state its limit: the default of the server.
const REQUEST_MAX: usize = 16 << 20;
/// Interval between two resolutions of a DNS name.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(10);
/// Interval between two resolutions while no node is ready.
const RESOLVE_INTERVAL_DOWN: Duration = Duration::from_millis(500);
/// Maximum number of attempts of a unary call.
const UNARY_ATTEMPTS: u32 = 6;
/// First pause between attempts on the same node, whose connection may be replaced meanwhile. Each further one doubles it.
const UNARY_PAUSE: Duration = Duration::from_millis(5);
/// Pause between two looks at a node that is being connected.
const CONNECTING_PAUSE: Duration = Duration::from_millis(2);
/// Operations of a node up to which it is not overloaded, whatever the others have.
const LOAD_SLACK: usize = 16;

/// An open connection to a node.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    /// Number of the connection, which no other connection to the node has.
    pub(crate) number: u32,
    /// The connection for unary calls.
    pub(crate) channel: Channel,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) address: Address,
    pub(crate) name: String,
    hash: RouteHash,
    pub(crate) link: Link,
    /// Change feed of the node, for the near cache.
    pub(crate) feed: Arc<Feed>,
    connected: watch::Sender<Option<Connected>>,
    /// Id of the data in the node's L2, as of its last connection.
    store: Mutex<Option<String>>,
    closed: watch::Sender<bool>,
}

impl Node {
    fn new(address: Address) -> Arc<Self> {
        let name = address.name();
        let (closed, _) = watch::channel(false);
        let hash = RouteHash::of(name.as_bytes());
        Arc::new(Self {
            address,
            name,
            hash,
            link: Link::new(),
            feed: Feed::new(),
            connected: watch::Sender::new(None),
            store: Mutex::default(),
            closed,
        })
    }

    /// Sets the connection for unary calls.
    pub(crate) fn set_channel(&self, connected: Option<Connected>) {
        self.connected.send_replace(connected);
    }

    pub(crate) fn channel(&self) -> Option<Channel> {
        self.connected.borrow().as_ref().map(|connected| connected.channel.clone())
    }

    /// Returns the current and all later connections.
    pub(crate) fn connections(&self) -> watch::Receiver<Option<Connected>> {
        self.connected.subscribe()
    }

    fn close(&self) {
        self.closed.send_replace(true);
    }
}

/// The nodes of a client.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) settings: Settings,
    pub(crate) near: Option<Arc<Near>>,
    nodes: RwLock<Arc<[Arc<Node>]>>,
    /// Held while the stores of the nodes are compared.
    stores: Mutex<()>,
}

impl Fleet {
    pub(crate) fn new(settings: Settings) -> Self {
        let near = settings.near.clone().map(|settings| Arc::new(Near::new(settings)));
        Self { settings, near, nodes: RwLock::new(Arc::new([])), stores: Mutex::default() }
    }

    pub(crate) fn nodes(&self) -> Arc<[Arc<Node>]> {
        Arc::clone(&self.nodes.read())
    }

    /// Replaces the nodes: connects to new ones, and closes those that are not listed.
    fn set(self: &Arc<Self>, addresses: Vec<Address>) {
        let old = self.nodes();
        let known = |address: &Address| old.iter().find(|node| node.address == *address).map(Arc::clone);
        let mut nodes = Vec::with_capacity(addresses.len());
        for address in addresses {
            nodes.push(known(&address).unwrap_or_else(|| {
                let node = Node::new(address);
                tokio::spawn(driver::run(Arc::clone(self), Arc::clone(&node), node.closed.subscribe()));
                if let Some(near) = &self.near {
                    let limit = self.settings.connect_timeout;
                    tokio::spawn(feed::run(Arc::clone(near), Arc::clone(&node), limit, node.closed.subscribe()));
                }
                node
            }));
        }
        for node in old.iter().filter(|node| !nodes.iter().any(|kept| Arc::ptr_eq(kept, node))) {
            node.close();
        }
        *self.nodes.write() = nodes.into();
    }

    /// Closes all connections after their operations.
    pub(crate) fn close(&self) {
        for node in self.nodes().iter() {
            node.close();
        }
    }

    /// Selects the node for a key, or for any key; `except` is selected only if no other node is as ready.
    ///
    /// # Errors
    /// `Unavailable` if no node can be reached.
    pub(crate) fn choose(&self, key: Option<RouteHash>, except: Option<&Node>) -> Result<Arc<Node>> {
        let nodes = self.nodes.read();
        if let ([only], None) = (&**nodes, except) {
            return if only.link.readiness() == Readiness::Down {
                Err(unreachable(&nodes))
            } else {
                Ok(Arc::clone(only))
            };
        }
        let rank =
            |node: &Arc<Node>| (node.link.readiness(), !except.is_some_and(|except| std::ptr::eq(&**node, except)));
        let Some(best) = nodes.iter().map(rank).max() else { return Err(unreachable(&nodes)) };
        if best.0 == Readiness::Down {
            return Err(unreachable(&nodes));
        }
        let candidates = || nodes.iter().filter(|node| rank(node) == best);
        let selected = match key.filter(|_| self.settings.routing == Routing::Key) {
            Some(key) => {
                let (count, load) =
                    candidates().fold((0, 0), |(count, load), node| (count + 1, load + node.link.pending()));
                // Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, SODA 2018), with the factor 1.25.
                let most = LOAD_SLACK.max((load + 1) * 5 / (4 * count));
                let free = candidates().filter(|node| node.link.pending() <= most);
                free.max_by_key(|node| key.score(node.hash))
            }
            None => {
                // Begins at a random node, so that nodes with equal loads take turns.
                let first = fastrand::usize(..nodes.len());
                let turned = nodes[first..].iter().chain(&nodes[..first]).filter(|node| rank(node) == best);
                turned.min_by_key(|node| node.link.pending())
            }
        };
        selected.map(Arc::clone).ok_or_else(|| unreachable(&nodes))
    }

    /// Makes a call that is safe to repeat, on one node after the other.
    ///
    /// # Errors
    /// The error of the last node, or `DeadlineExceeded`.
    pub(crate) async fn unary<T, F>(&self, limit: Duration, call: impl Fn(Channel) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let attempts = async {
            let mut failed: Option<Arc<Node>> = None;
            let (mut left, mut pause) = (UNARY_ATTEMPTS, UNARY_PAUSE);
            loop {
                let node = self.choose(None, failed.as_deref())?;
                if failed.as_ref().is_some_and(|failed| Arc::ptr_eq(failed, &node)) {
                    sleep(pause).await;
                    pause *= 2;
                }
                let Some(channel) = node.channel() else {
                    sleep(CONNECTING_PAUSE).await;
                    continue;
                };
                left -= 1;
                match call(channel).await {
                    Err(error)
                        if left > 0 && matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::OutcomeUnknown) =>
                    {
                        failed = Some(node);
                    }
                    result => return result,
                }
            }
        };
        within(limit, None, attempts).await
    }

    /// Waits until a node is ready.
    ///
    /// # Errors
    /// No node is ready within the deadline of a connection, or all nodes refuse the client.
    pub(crate) async fn ready(&self) -> Result<()> {
        let limit = self.settings.connect_timeout;
        let is_ready = async {
            loop {
                let nodes = self.nodes();
                if nodes.iter().any(|node| node.link.readiness() == Readiness::Ready) {
                    return Ok(());
                }
                let faults: Vec<Error> = nodes.iter().filter_map(|node| node.link.fault()).collect();
                let is_final = |fault: &Error| fault.kind() != ErrorKind::Unavailable;
                if !nodes.is_empty() && faults.len() == nodes.len() && faults.iter().all(is_final) {
                    return Err(unreachable(&nodes));
                }
                sleep(CONNECTING_PAUSE).await;
            }
        };
        timeout(limit, is_ready).await.unwrap_or_else(|_elapsed| Err(unreachable(&self.nodes())))
    }

    /// Returns the channel of a node. Waits for its first connection, within the deadline of a connection.
    ///
    /// # Errors
    /// The node cannot be reached.
    pub(crate) async fn channel_of(&self, node: &Node) -> Result<Channel> {
        let mut connections = node.connections();
        let connecting = async {
            loop {
                if let Some(channel) = node.channel() {
                    return Ok(channel);
                }
                if let Some(fault) = node.link.fault() {
                    return Err(fault);
                }
                if timeout(CONNECTING_PAUSE, connections.changed()).await.is_ok_and(|changed| changed.is_err()) {
                    break;
                }
            }
            Err(Error::new(ErrorKind::Unavailable, format!("{}: the node has left", node.name)))
        };
        within(self.settings.connect_timeout, Some(&node.name), connecting).await
    }

    /// Takes over the limit of a node's requests.
    pub(crate) fn set_request_max(node: &Node, headers: &HeaderMap) {
        let max = headers.get(MAX_MESSAGE).and_then(|max| max.to_str().ok()?.parse().ok());
        node.link.set_request_max(max.unwrap_or(REQUEST_MAX));
    }

    /// Compares the store of a node with those of the other nodes. Returns `false` if the node does not know its store yet.
    ///
    /// # Errors
    /// `FailedPrecondition` if the stores differ.
    pub(crate) fn check_store(&self, node: &Node, headers: &HeaderMap) -> Result<bool> {
        let Some(store) = headers.get(STORE_ID).and_then(|id| id.to_str().ok()) else { return Ok(false) };
        // Nodes that connect at the same time are compared one after the other.
        let _one_at_a_time = self.stores.lock();
        for other in self.nodes().iter().filter(|other| !std::ptr::eq(&***other, node)) {
            let is_in_use = other.link.readiness() != Readiness::Down;
            let others = other.store.lock().clone();
            if let Some(others) = others.filter(|others| is_in_use && others != store) {
                let text = format!(
                    "{} has the store {store}, {} has the store {others}; all nodes of a client must have the same L2",
                    node.name, other.name
                );
                return Err(Error::new(ErrorKind::FailedPrecondition, text));
            }
        }
        *node.store.lock() = Some(store.to_owned());
        Ok(true)
    }
}

/// Limits the time of calls. The error names the node, if there is only one.
///
/// # Errors
/// The error of the calls, or `DeadlineExceeded`.
pub(crate) async fn within<T>(
    limit: Duration,
    node: Option<&str>,
    calls: impl Future<Output = Result<T>>,
) -> Result<T> {
    timeout(limit, calls).await.unwrap_or_else(|_elapsed| {
        let node = node.map(|node| format!("{node}: ")).unwrap_or_default();
        Err(Error::new(ErrorKind::DeadlineExceeded, format!("{node}no answer within {limit:?}")))
    })
}

fn unreachable(nodes: &[Arc<Node>]) -> Error {
    match nodes.iter().find_map(|node| node.link.fault()) {
        Some(fault) if nodes.len() == 1 || fault.kind() != ErrorKind::Unavailable => fault,
        Some(fault) => Error::new(ErrorKind::Unavailable, format!("no node can be reached: {}", fault.message())),
        None => Error::new(ErrorKind::Unavailable, "no node is known yet"),
    }
}

/// Connects to the nodes of a target, and keeps them up to date until `closed` is true.
pub(crate) fn start(fleet: &Arc<Fleet>, target: Target, closed: watch::Receiver<bool>) {
    match target {
        Target::Nodes(nodes) => {
            fleet.set(nodes);
            tokio::spawn(close_at_end(Arc::clone(fleet), closed));
        }
        Target::Dns { host, port } => {
            // Operations wait at this node until the name is resolved.
            let unresolved = Node::new(Address::Tcp { host: Arc::clone(&host), port });
            *fleet.nodes.write() = Arc::new([Arc::clone(&unresolved)]);
            tokio::spawn(follow(Arc::clone(fleet), host, port, unresolved, closed));
        }
    }
}

async fn close_at_end(fleet: Arc<Fleet>, mut closed: watch::Receiver<bool>) {
    // The sender is dropped after it has sent `true`.
    let _closed = closed.wait_for(|closed| *closed).await;
    fleet.close();
}

/// Resolves a DNS name again and again.
async fn follow(
    fleet: Arc<Fleet>,
    host: Arc<str>,
    port: u16,
    unresolved: Arc<Node>,
    mut closed: watch::Receiver<bool>,
) {
    let deadlines = tokio::spawn(driver::check_deadlines(Arc::clone(&unresolved)));
    loop {
        match resolve(&host, port, fleet.settings.connect_timeout).await {
            Ok(addresses) => {
                fleet.set(addresses);
                let text = format!("{host}: the name has been resolved");
                unresolved.link.retire(&Error::new(ErrorKind::Unavailable, text));
                deadlines.abort();
            }
            Err(error) => {
                // The nodes that are known stay in use.
                tracing::warn!(%error, "cannot resolve the nodes");
                unresolved.link.down(&Error::new(ErrorKind::Unavailable, error.to_string()));
            }
        }
        let is_down = !fleet.nodes().iter().any(|node| node.link.readiness() == Readiness::Ready);
        let pause = if is_down { RESOLVE_INTERVAL_DOWN } else { RESOLVE_INTERVAL };
        tokio::select! {
            () = sleep(pause) => {}
            _ = closed.wait_for(|closed| *closed) => break,
        }
    }
    deadlines.abort();
    fleet.close();
}
