//! State that the clones of a client share, and the place that operations are sent to.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use terrace_proto::operation_result::Result as Answer;
use tokio::sync::watch;

#[cfg(feature = "testing")]
use crate::testing::Server;
use crate::{
    Target,
    engine::call::{Call, Order},
    error::Result,
    load::Loads,
    near::Near,
    nodes::{self, Fleet, Node, routing::RouteHash},
    operations::lease::Nonces,
    settings::Settings,
};

/// State that the clones of a client share. The connections close when it is dropped.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) backend: Backend,
    pub(crate) loads: Loads,
    pub(crate) near: Option<Arc<Near>>,
    pub(crate) nonces: Nonces,
    closed: watch::Sender<bool>,
}

/// The place that operations are sent to.
#[derive(Debug)]
pub(crate) enum Backend {
    /// Nodes of a cache server.
    Fleet(Arc<Fleet>),
    /// An in-memory cache.
    #[cfg(feature = "testing")]
    Fake(Arc<Server>),
}

impl Backend {
    /// Begins an operation. It makes no progress until it is polled.
    #[inline]
    pub(crate) fn begin(&self, order: Order) -> Running {
        match self {
            Self::Fleet(fleet) => Running::Call(Call::new(Arc::clone(fleet), order)),
            #[cfg(feature = "testing")]
            Self::Fake(server) => Running::Fake(server.begin(order)),
        }
    }

    /// Returns the nodes.
    pub(crate) fn nodes(&self) -> Arc<[Arc<Node>]> {
        match self {
            Self::Fleet(fleet) => fleet.nodes(),
            #[cfg(feature = "testing")]
            Self::Fake(_) => Arc::new([]),
        }
    }

    /// Selects the node of a key; `None` if there is none.
    pub(crate) fn choose(&self, key: RouteHash) -> Option<Arc<Node>> {
        match self {
            Self::Fleet(fleet) => fleet.choose(Some(key), None).ok(),
            #[cfg(feature = "testing")]
            Self::Fake(_) => None,
        }
    }
}

/// An operation in progress.
#[cfg_attr(
    feature = "testing",
    allow(clippy::large_enum_variant, reason = "an operation on a server must not cost an allocation")
)]
pub(crate) enum Running {
    /// On the nodes of a cache server.
    Call(Call),
    /// On an in-memory cache.
    #[cfg(feature = "testing")]
    Fake(crate::testing::BoxFuture<Answer>),
}

impl Future for Running {
    /// The answer, and the node that sent it, if there are nodes.
    type Output = Result<(Answer, Option<Arc<Node>>)>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Call(call) => Pin::new(call).poll(context).map_ok(|(answer, node)| (answer, Some(node))),
            #[cfg(feature = "testing")]
            Self::Fake(answer) => answer.as_mut().poll(context).map_ok(|answer| (answer, None)),
        }
    }
}

impl Core {
    /// Connects to the nodes of a target in the background.
    pub(crate) fn connect(target: Target, settings: Settings) -> Self {
        let fleet = Arc::new(Fleet::new(settings.clone()));
        let (closed, watched) = watch::channel(false);
        nodes::start(&fleet, target, watched);
        let near = fleet.near.clone();
        Self {
            settings,
            near,
            backend: Backend::Fleet(fleet),
            loads: Loads::default(),
            nonces: Nonces::default(),
            closed,
        }
    }

    /// Returns the state of a client of an in-memory cache.
    #[cfg(feature = "testing")]
    pub(crate) fn fake(server: Arc<Server>, settings: Settings) -> Self {
        let (closed, _) = watch::channel(false);
        Self {
            settings,
            near: None,
            backend: Backend::Fake(server),
            loads: Loads::default(),
            nonces: Nonces::default(),
            closed,
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.closed.send_replace(true);
    }
}
