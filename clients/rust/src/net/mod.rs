//! The network: addresses of nodes, and connections to them over TCP, TLS or Unix sockets.

pub(crate) mod address;
#[cfg(feature = "bindings")]
pub(crate) mod descriptors;
pub(crate) mod resolve;
pub(crate) mod stream;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
pub(crate) mod tls;
