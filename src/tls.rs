//! TLS of the server's ports: settings, certificates, handshakes, and reloads of changed files.
//!
//! Each port has an [`Endpoint`]. A connection takes the endpoint's current TLS configuration once, at its handshake, so a
//! reload never affects existing connections. Unix sockets have no TLS.

mod certificate;
mod endpoint;
mod handshake;
mod load;
pub mod pem;
mod settings;

pub use self::{
    endpoint::{Endpoint, Endpoints, Prepared},
    handshake::{HANDSHAKE_TIMEOUT, handshake},
    settings::{Clients, NamedFile, Settings, Version},
};
