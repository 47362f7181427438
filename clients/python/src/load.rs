//! Loaders in Python.
//!
//! The task of a load asks for the loader to be run, and waits for its result. Who runs it:
//! * asyncio: the event loop of the caller;
//! * synchronous clients: the thread of the caller while it waits, otherwise a pool of [`THREADS`] threads.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use bytes::Bytes;
use pyo3::{
    exceptions::PyValueError,
    prelude::*,
    types::{PyBytes, PyTuple},
};
use terrace_client::{
    LoadOptions as RustLoadOptions, Loaded, OnUnavailable,
    bindings::{ForeignError, LoadChain},
};
use tokio::sync::oneshot;

use crate::{
    convert::{Span, bytes},
    engine::lock,
    errors::{Abandoned, Raised},
};

/// Number of threads for loads whose callers do not wait: refreshes of values in their stale part.
pub(crate) const THREADS: usize = 4;

/// Results of a loader.
pub(crate) type LoadResult = Result<Vec<Loaded<Bytes>>, ForeignError>;

/// A request to run a loader.
#[pyclass(module = "terrace._core", frozen)]
pub(crate) struct LoadReply {
    sender: Mutex<Option<oneshot::Sender<LoadResult>>>,
    keys: Vec<Bytes>,
    chain: Option<LoadChain>,
}

impl LoadReply {
    /// Returns a request for the loader, from the task of a load, and its result.
    pub(crate) fn new(keys: Vec<Bytes>) -> (Self, impl Future<Output = LoadResult>) {
        let (sender, receiver) = oneshot::channel();
        let reply = Self { sender: Mutex::new(Some(sender)), keys, chain: LoadChain::current() };
        (reply, async { receiver.await.unwrap_or_else(|_abandoned| Err(Abandoned::foreign())) })
    }

    fn send(&self, result: LoadResult) {
        if let Some(sender) = lock(&self.sender).take() {
            // The load may have exceeded its deadline.
            let _received = sender.send(result);
        }
    }
}

/// The value, TTL and stale part of a result. Without a value, the origin does not have the key.
type Item<'py> = (Option<Bound<'py, PyAny>>, Option<Span>, Option<Span>);

#[pymethods]
impl LoadReply {
    /// The keys to load.
    #[getter]
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.keys.iter().map(|key| PyBytes::new(py, key)))
    }

    /// The chain of loads, for the operations of the loader.
    #[getter]
    fn chain(&self) -> Option<Chain> {
        self.chain.clone().map(Chain)
    }

    /// Ends the load with one result per key.
    fn loaded(&self, items: Vec<Item<'_>>) -> PyResult<()> {
        let mut loaded = Vec::with_capacity(items.len());
        for (value, ttl, stale) in items {
            let mut item = match value {
                Some(value) => Loaded::value(bytes(&value, "the loaded value")?),
                None => Loaded::absent(),
            };
            if let Some(ttl) = ttl {
                item = item.ttl(ttl.0);
            }
            if let Some(stale) = stale {
                item = item.stale(stale.0);
            }
            loaded.push(item);
        }
        self.send(Ok(loaded));
        Ok(())
    }

    /// Ends the load with an exception.
    fn failed(&self, py: Python<'_>, exception: Bound<'_, PyAny>) {
        self.send(Err(Raised::foreign(py, PyErr::from_value(exception))));
    }
}

/// Loads that the present load was begun by.
#[pyclass(module = "terrace._core", frozen)]
pub(crate) struct Chain(pub(crate) LoadChain);

/// Options of loads.
#[pyclass(module = "terrace._core", frozen)]
pub(crate) struct LoadOptions {
    pub(crate) options: RustLoadOptions,
    /// Callers wait for refreshes, so that they cannot run them.
    pub(crate) has_soft_timeout: bool,
}

#[pymethods]
impl LoadOptions {
    #[new]
    #[pyo3(signature = (*, ttl=None, stale=None, negative_ttl=None, lease=None, wait=None, soft_timeout=None,
        load_timeout=None, on_unavailable="load", share_errors=false))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        ttl: Option<Span>,
        stale: Option<Span>,
        negative_ttl: Option<Span>,
        lease: Option<Span>,
        wait: Option<Span>,
        soft_timeout: Option<Span>,
        load_timeout: Option<Span>,
        on_unavailable: &str,
        share_errors: bool,
    ) -> PyResult<Self> {
        let on_unavailable = match on_unavailable {
            "load" => OnUnavailable::Load,
            "stale" => OnUnavailable::Stale,
            "error" => OnUnavailable::Error,
            other => {
                let text = format!("on_unavailable is {other:?}; expected \"load\", \"stale\" or \"error\"");
                return Err(PyValueError::new_err(text));
            }
        };
        let mut options = RustLoadOptions::new().on_unavailable(on_unavailable).share_errors(share_errors);
        type Set = fn(RustLoadOptions, Duration) -> RustLoadOptions;
        let durations: [(Option<Span>, Set); 7] = [
            (ttl, RustLoadOptions::ttl),
            (stale, RustLoadOptions::stale),
            (negative_ttl, RustLoadOptions::negative_ttl),
            (lease, RustLoadOptions::lease),
            (wait, RustLoadOptions::wait),
            (soft_timeout, RustLoadOptions::soft_timeout),
            (load_timeout, RustLoadOptions::load_timeout),
        ];
        for (span, set) in durations {
            if let Some(span) = span {
                options = set(options, span.0);
            }
        }
        Ok(Self { options, has_soft_timeout: soft_timeout.is_some_and(|span| !span.0.is_zero()) })
    }
}

/// A load for the pool: the function that runs it.
type Job = (Arc<Py<PyAny>>, LoadReply);

/// Threads that run loads in the background. They start with the first load.
pub(crate) struct Pool {
    jobs: mpsc::Sender<Job>,
    queue: Arc<Mutex<mpsc::Receiver<Job>>>,
    started: std::sync::Once,
}

impl Default for Pool {
    fn default() -> Self {
        let (jobs, queue) = mpsc::channel();
        Self { jobs, queue: Arc::new(Mutex::new(queue)), started: std::sync::Once::new() }
    }
}

impl Pool {
    /// Runs a load on a thread of the pool. The client limits the number of loads in progress.
    pub(crate) fn run(&self, run: Arc<Py<PyAny>>, reply: LoadReply) {
        self.started.call_once(|| {
            for number in 0..THREADS {
                let queue = Arc::clone(&self.queue);
                // Without a thread, the loads end as abandoned at their deadline.
                let _started =
                    thread::Builder::new().name(format!("terrace-load-{number}")).spawn(move || work(&queue));
            }
        });
        // The pool is never dropped.
        let _sent = self.jobs.send((run, reply));
    }
}

fn work(queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let Ok((run, reply)) = lock(queue).recv() else { return };
        let ran = Python::try_attach(|py| {
            if let Err(error) = run.call1(py, (reply, true)) {
                error.write_unraisable(py, Some(run.bind(py)));
            }
        });
        if ran.is_none() {
            // The interpreter has ended.
            return;
        }
    }
}
