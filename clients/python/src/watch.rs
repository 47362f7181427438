//! Change feeds.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use pyo3::{
    exceptions::{PyStopAsyncIteration, PyStopIteration},
    prelude::*,
    types::PyBytes,
};
use terrace_client::WatchFeed;
use tokio::sync::Mutex;

use crate::{
    client::CoreClient,
    reply::{Decoding, changes},
    request::{Change, Reply, Request},
};

/// A change. `kind` is `key`, `pattern`, `tag`, `everything` or `discontinuity`; `name` is the key, pattern or tag.
#[pyclass(module = "terrace", frozen, get_all)]
pub(crate) struct Event {
    kind: &'static str,
    name: Option<Py<PyBytes>>,
}

impl Event {
    pub(crate) fn new(py: Python<'_>, kind: &'static str, name: Option<&Bytes>) -> Self {
        Self { kind, name: name.map(|name| PyBytes::new(py, name).unbind()) }
    }
}

#[pymethods]
impl Event {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let name = self.name.as_ref().map(|name| name.bind(py).repr()).transpose()?;
        Ok(format!("Event({}{})", self.kind, name.map_or_else(String::new, |name| format!(", {name}"))))
    }
}

/// A feed and the changes that nobody has read.
struct Reader {
    feed: WatchFeed,
    changes: VecDeque<Change>,
}

/// The changes of a node. Iterate over it. Its end is a discontinuity: changes may be missing until it is opened again.
#[pyclass(module = "terrace", frozen)]
pub(crate) struct Feed {
    reader: Arc<Mutex<Reader>>,
    client: Py<CoreClient>,
    /// The feed continued where an earlier one ended.
    #[pyo3(get)]
    resumed: bool,
}

impl Feed {
    pub(crate) fn new(feed: WatchFeed, resumed: bool, client: Py<CoreClient>) -> Self {
        let reader = Arc::new(Mutex::new(Reader { feed, changes: VecDeque::new() }));
        Self { reader, client, resumed }
    }

    fn next(&self, py: Python<'_>, decoding: Decoding) -> PyResult<Py<PyAny>> {
        let reader = Arc::clone(&self.reader);
        let next = move |_client: &terrace_client::Client| async move {
            let mut reader = reader.lock().await;
            loop {
                if let Some(change) = reader.changes.pop_front() {
                    return Ok(Some(change));
                }
                let Some(message) = reader.feed.next().await? else { return Ok(None) };
                reader.changes.extend(changes(message));
            }
        };
        self.client.bind(py).get().run(self.client.bind(py), Request::new(next, Reply::Event), decoding)
    }
}

#[pymethods]
impl Feed {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let event = self.next(py, Decoding::default())?;
        if event.is_none(py) { Err(PyStopIteration::new_err(())) } else { Ok(event) }
    }

    fn __aiter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __anext__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.next(py, Decoding { ends_iteration: true, ..Decoding::default() })
    }
}

/// Returns the exception at the end of an asynchronous iteration.
pub(crate) fn end() -> PyErr {
    PyStopAsyncIteration::new_err(())
}
