//! Connections to one server: how they are opened, secured, retried, and lent for pass-through commands.

pub(crate) mod backoff;
pub(crate) mod connect;
pub(crate) mod login;
pub(crate) mod passthrough;
pub(crate) mod tls;
