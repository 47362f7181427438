//! Permission to load a key.

use std::sync::Mutex;

use pyo3::prelude::*;
use terrace_client::{Client, Grant as RustGrant};

use crate::{
    client::CoreClient,
    convert::{Span, bytes},
    engine::{generation, lock},
    errors::named,
    reply::{Decoding, reason_name},
    request::{Reply, Request},
};

/// Permission to load a key. `fill`, `fill_absent`, `fail` and `release` end it; a grant that is dropped is released.
#[pyclass(module = "terrace", frozen)]
pub(crate) struct Grant {
    grant: Mutex<Option<RustGrant>>,
    client: Py<CoreClient>,
    generation: u64,
    /// Time in seconds in which no other client loads the key.
    #[pyo3(get)]
    lease: f64,
    /// Reason of the load: `miss`, `stale`, `early`, `forced` or `takeover`.
    #[pyo3(get)]
    reason: &'static str,
    /// The server can store the loaded value.
    #[pyo3(get)]
    can_fill: bool,
}

impl Grant {
    pub(crate) fn new(grant: RustGrant, client: Py<CoreClient>) -> Self {
        let (lease, reason, can_fill) = (grant.lease().as_secs_f64(), reason_name(grant.reason()), grant.can_fill());
        Self { grant: Mutex::new(Some(grant)), client, generation: generation(), lease, reason, can_fill }
    }

    fn take(&self, py: Python<'_>) -> PyResult<RustGrant> {
        lock(&self.grant).take().ok_or_else(|| named(py, "InvalidArgument", "the grant was used already"))
    }

    fn run(&self, py: Python<'_>, request: Request) -> PyResult<Py<PyAny>> {
        let client = self.client.bind(py);
        client.get().run(client, request, Decoding::default())
    }
}

#[pymethods]
impl Grant {
    /// Stores a loaded value. Returns `stored`, `changed`, `invalidated` or `lease_lost`.
    #[pyo3(signature = (value, *, ttl=None, stale=None))]
    fn fill(
        &self,
        py: Python<'_>,
        value: &Bound<'_, PyAny>,
        ttl: Option<Span>,
        stale: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        let value = bytes(value, "the value")?;
        let grant = self.take(py)?;
        let fill =
            move |_: &Client| async move { grant.fill(value, ttl.map(|ttl| ttl.0), stale.map(|stale| stale.0)).await };
        self.run(py, Request::new(fill, Reply::Filled))
    }

    /// Stores that the origin does not have the key.
    #[pyo3(signature = (*, ttl=None))]
    fn fill_absent(&self, py: Python<'_>, ttl: Option<Span>) -> PyResult<Py<PyAny>> {
        let grant = self.take(py)?;
        let fill = move |_: &Client| async move { grant.fill_absent(ttl.map(|ttl| ttl.0)).await };
        self.run(py, Request::new(fill, Reply::Filled))
    }

    /// Reports that the load failed.
    #[pyo3(signature = (message, *, retry_after=None))]
    fn fail(&self, py: Python<'_>, message: String, retry_after: Option<Span>) -> PyResult<Py<PyAny>> {
        let grant = self.take(py)?;
        let fail = move |_: &Client| async move { grant.fail(message, retry_after.map(|delay| delay.0)).await };
        self.run(py, Request::new(fail, |()| Reply::Done))
    }

    /// Ends the lease without a value.
    fn release(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let grant = self.take(py)?;
        let release = move |_: &Client| async move { grant.release().await };
        self.run(py, Request::new(release, |()| Reply::Done))
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let Some(grant) = lock(&self.grant).take() else { return };
        if self.generation == generation() {
            self.client.get().within(|| drop(grant));
        } else {
            // The parent of this process has the lease.
            std::mem::forget(grant);
        }
    }
}
