//! Replacement of TLS in a build without the feature `tls`.

/// TLS is unavailable in a build without the feature `tls`: this type has no values.
#[derive(Debug, Clone)]
pub(crate) enum Tls {}
