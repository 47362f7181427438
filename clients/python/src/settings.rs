//! Settings of a client.

use pyo3::{exceptions::PyValueError, prelude::*};
use terrace_client::{ClientBuilder, NearCache as RustNearCache, Routing, Tls as RustTls};

use crate::convert::{Names, Size, Span};

/// TLS options: which servers a client trusts, and its own certificate. Files are read for each new connection.
#[pyclass(module = "terrace", frozen)]
pub(crate) struct Tls(RustTls);

#[pymethods]
impl Tls {
    /// `ca`: a PEM file of authorities; without it, the authorities of the system are trusted. `pinned`: a PEM file whose first
    /// certificate is the only trusted one.
    #[new]
    #[pyo3(signature = (*, ca=None, pinned=None, certificate=None, key=None, server_name=None))]
    fn new(
        ca: Option<std::path::PathBuf>,
        pinned: Option<std::path::PathBuf>,
        certificate: Option<std::path::PathBuf>,
        key: Option<std::path::PathBuf>,
        server_name: Option<String>,
    ) -> PyResult<Self> {
        let mut tls = match (ca, pinned) {
            (Some(_), Some(_)) => return Err(PyValueError::new_err("Tls: ca and pinned exclude each other")),
            (Some(ca), None) => RustTls::authorities(ca),
            (None, Some(pinned)) => RustTls::pinned(pinned),
            (None, None) => RustTls::system(),
        };
        match (certificate, key) {
            (Some(certificate), Some(key)) => tls = tls.identity(certificate, key),
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => {
                return Err(PyValueError::new_err("Tls: certificate and key are required together"));
            }
        }
        if let Some(name) = server_name {
            tls = tls.server_name(name);
        }
        Ok(Self(tls))
    }
}

/// Settings of a near cache: copies of values in this process, which the change feeds of the nodes keep true.
#[pyclass(module = "terrace", frozen)]
pub(crate) struct NearCache {
    settings: RustNearCache,
    /// Each hit decodes its value, instead of sharing one object.
    #[pyo3(get)]
    copy: bool,
}

#[pymethods]
impl NearCache {
    #[new]
    #[pyo3(signature = (prefixes=None, *, max_bytes=None, max_staleness=None, heartbeat=None, copy=false))]
    fn new(
        prefixes: Option<Names>,
        max_bytes: Option<Size>,
        max_staleness: Option<Span>,
        heartbeat: Option<Span>,
        copy: bool,
    ) -> Self {
        let mut near = RustNearCache::new();
        if let Some(prefixes) = prefixes {
            near = near.prefixes(prefixes.0);
        }
        if let Some(size) = max_bytes {
            near = near.max_bytes(size.0);
        }
        if let Some(span) = max_staleness {
            near = near.max_staleness(span.0);
        }
        if let Some(span) = heartbeat {
            near = near.heartbeat(span.0);
        }
        Self { settings: near, copy }
    }
}

/// Arguments of the constructor of a client.
pub(crate) struct Arguments {
    pub(crate) near_cache: Option<Py<NearCache>>,
    pub(crate) tls: Option<Py<Tls>>,
    pub(crate) token: Option<String>,
    pub(crate) token_file: Option<std::path::PathBuf>,
    pub(crate) routing: String,
    pub(crate) read_timeout: Option<Span>,
    pub(crate) write_timeout: Option<Span>,
    pub(crate) connect_timeout: Option<Span>,
    pub(crate) max_message: Option<Size>,
    pub(crate) retry_writes: bool,
}

impl Arguments {
    /// Returns whether hits of the near cache share one decoded object.
    pub(crate) fn shares_objects(&self) -> bool {
        self.near_cache.as_ref().is_none_or(|near| !near.get().copy)
    }

    /// Applies the arguments to a builder.
    ///
    /// # Errors
    /// An argument is not valid.
    pub(crate) fn apply(self, mut builder: ClientBuilder) -> PyResult<ClientBuilder> {
        builder = match self.routing.as_str() {
            "key" => builder.routing(Routing::Key),
            "any" => builder.routing(Routing::Any),
            other => {
                let text = format!("routing is {other:?}; expected \"key\" or \"any\"");
                return Err(PyValueError::new_err(text));
            }
        };
        if let Some(near) = self.near_cache {
            builder = builder.near_cache(near.get().settings.clone());
        }
        if let Some(tls) = self.tls {
            builder = builder.tls(tls.get().0.clone());
        }
        builder = match (self.token, self.token_file) {
            (Some(_), Some(_)) => return Err(PyValueError::new_err("token and token_file exclude each other")),
            (Some(token), None) => builder.token(token),
            (None, Some(path)) => builder.token_file(path),
            (None, None) => builder,
        };
        if let Some(span) = self.read_timeout {
            builder = builder.read_timeout(span.0);
        }
        if let Some(span) = self.write_timeout {
            builder = builder.write_timeout(span.0);
        }
        if let Some(span) = self.connect_timeout {
            builder = builder.connect_timeout(span.0);
        }
        if let Some(size) = self.max_message {
            builder = builder.max_message(usize::try_from(size.0).unwrap_or(usize::MAX));
        }
        Ok(builder.retry_writes(self.retry_writes))
    }
}
