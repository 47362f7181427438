//! Operations of event loops of asyncio.
//!
//! ```text
//! await ──► Call::__next__ ──► first poll ──► future of the loop
//!                                               ▲ set_result
//! thread of the runtime ──► wake ──► Port ──► drain: polls all operations that were woken
//!                                   (eventfd)
//! ```
//!
//! The event loop polls the operations itself: the thread of the runtime never waits for the GIL, and many results cross from
//! one thread to the other with one wake.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release},
    },
    task::{Context, Poll, Wake, Waker},
};

use pyo3::{
    exceptions::{PyNotImplementedError, PyRuntimeError, PyStopIteration},
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyWeakrefMethods, PyWeakrefReference},
};
use terrace_client::{Result, bindings};
use tokio::runtime::Runtime;

use crate::{
    client::CoreClient,
    engine::{Process, generation, lock},
    errors::exception,
    load::LoadReply,
    reply::Decoding,
    request::{Reply, Request, Running},
};

/// Work for an event loop.
enum Item {
    /// An operation that was woken.
    Operation(Arc<Operation>),
    /// A load that the loop runs: the function that begins it.
    Load(Arc<Py<PyAny>>, LoadReply),
}

/// Wakes an event loop.
pub(crate) struct Port {
    items: Mutex<Vec<Item>>,
    /// The runtime of the operations.
    runtime: &'static Runtime,
    reader: OwnedFd,
    /// The other end of a pipe; `None` with an eventfd, which is its own other end.
    writer: Option<OwnedFd>,
}

impl Port {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn new(runtime: &'static Runtime) -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let reader = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { items: Mutex::default(), runtime, reader, writer: None })
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn new(runtime: &'static Runtime) -> std::io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe()?;
        for end in [&reader, &writer] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(end, true)?;
        }
        Ok(Self { items: Mutex::default(), runtime, reader, writer: Some(writer) })
    }

    fn push(&self, item: Item) {
        let is_first = {
            let mut items = lock(&self.items);
            items.push(item);
            items.len() == 1
        };
        if is_first {
            // Fails only if the loop has been woken already.
            let _woken = rustix::io::write(self.writer.as_ref().unwrap_or(&self.reader), &1_u64.to_ne_bytes());
        }
    }

    fn take(&self) -> Vec<Item> {
        // The wake is consumed first: an item that comes later wakes again.
        let _consumed = rustix::io::read(&self.reader, &mut [0_u8; 64]);
        std::mem::take(&mut lock(&self.items))
    }

    /// Begins a load on the event loop.
    pub(crate) fn load(&self, run: Arc<Py<PyAny>>, reply: LoadReply) {
        self.push(Item::Load(run, reply));
    }
}

/// The port of one event loop.
#[pyclass(module = "terrace._core", frozen)]
pub(crate) struct LoopPort {
    pub(crate) port: Arc<Port>,
    event_loop: Py<PyWeakrefReference>,
    generation: u64,
}

#[pymethods]
impl LoopPort {
    /// Continues the operations that were woken.
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        // Operations start timers and tasks.
        let _context = self.port.runtime.enter();
        let mut failed = None;
        for item in self.port.take() {
            let done = match item {
                Item::Operation(operation) => operation.advance(py),
                Item::Load(run, reply) => run.call1(py, (reply, false)).map(drop),
            };
            failed = failed.or(done.err());
        }
        failed.map_or(Ok(()), Err)
    }
}

impl LoopPort {
    /// Returns the port of the running event loop.
    ///
    /// # Errors
    /// No event loop runs in this thread, or it cannot wait for descriptors.
    pub(crate) fn of_running_loop(py: Python<'_>, known: &Mutex<Option<Py<Self>>>) -> PyResult<Py<Self>> {
        static GET_RUNNING_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let get = GET_RUNNING_LOOP
            .get_or_try_init(py, || py.import("asyncio")?.getattr("get_running_loop").map(Bound::unbind))?;
        let running = get.bind(py).call0()?;
        if let Some(port) = lock(known).as_ref().filter(|port| port.get().is_of(&running)) {
            return Ok(port.clone_ref(py));
        }
        let port = Self::registered(&running)?;
        *lock(known) = Some(port.clone_ref(py));
        Ok(port)
    }

    fn is_of(&self, running: &Bound<'_, PyAny>) -> bool {
        self.generation == generation()
            && self.event_loop.bind(running.py()).upgrade().is_some_and(|known| known.is(running))
    }

    /// Returns the port of a loop, and creates it for the first operation.
    fn registered(running: &Bound<'_, PyAny>) -> PyResult<Py<Self>> {
        static PORTS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = running.py();
        let ports = PORTS
            .get_or_try_init(py, || py.import("weakref")?.getattr("WeakKeyDictionary")?.call0().map(Bound::unbind))?;
        let ports = ports.bind(py);
        let known = ports.call_method1(intern!(py, "get"), (running,))?;
        if let Ok(port) = known.cast::<Self>()
            && port.get().is_of(running)
        {
            return Ok(port.clone().unbind());
        }
        let create = |error: std::io::Error| PyRuntimeError::new_err(format!("cannot create an eventfd: {error}"));
        let port = Arc::new(Port::new(Process::current(py).background()?).map_err(create)?);
        let descriptor = port.reader.as_raw_fd();
        let event_loop = PyWeakrefReference::new(running)?.unbind();
        let object = Bound::new(py, Self { port, event_loop, generation: generation() })?;
        running.call_method1(intern!(py, "add_reader"), (descriptor, object.getattr(intern!(py, "drain"))?)).map_err(
            |error| {
                if !error.is_instance_of::<PyNotImplementedError>(py) {
                    return error;
                }
                let name = running.get_type().name().map_or_else(|_| String::new(), |name| name.to_string());
                PyRuntimeError::new_err(format!(
                    "{name} cannot wait for descriptors; use asyncio.SelectorEventLoop or uvloop"
                ))
            },
        )?;
        ports.set_item(running, &object)?;
        Ok(object.unbind())
    }
}

/// An operation that an event loop waits for.
struct Operation {
    running: Mutex<Option<Running>>,
    result: Mutex<Option<Result<Reply>>>,
    future: Mutex<Option<Py<PyAny>>>,
    port: Arc<Port>,
    is_woken: AtomicBool,
}

impl Wake for Operation {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, AcqRel) {
            self.port.push(Item::Operation(Arc::clone(self)));
        }
    }
}

impl Operation {
    /// Polls the operation, on the thread of its event loop.
    fn poll(self: &Arc<Self>) -> bool {
        self.is_woken.store(false, Release);
        let waker = Waker::from(Arc::clone(self));
        let mut running = lock(&self.running);
        let Some(operation) = running.as_mut() else { return false };
        let Poll::Ready(result) = Pin::new(operation).poll(&mut Context::from_waker(&waker)) else { return false };
        *running = None;
        *lock(&self.result) = Some(result);
        true
    }

    fn advance(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        if !self.poll() {
            return Ok(());
        }
        let Some(future) = lock(&self.future).take() else { return Ok(()) };
        let future = future.bind(py);
        if !future.call_method0(intern!(py, "done"))?.is_truthy()? {
            future.call_method1(intern!(py, "set_result"), (py.None(),))?;
        }
        Ok(())
    }
}

/// Returns the number of the current task, for prefetch: operations of a task count as one caller.
fn number_of_task(py: Python<'_>) -> PyResult<u64> {
    static CURRENT_TASK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let current = CURRENT_TASK
        .get_or_try_init(py, || py.import("asyncio")?.getattr("current_task").map(Bound::unbind))?
        .bind(py)
        .call0()?;
    Ok(current.as_ptr() as u64)
}

enum State {
    New(Request, Decoding),
    Waiting(Arc<Operation>, Decoding),
    Done,
}

/// A coroutine of an operation.
#[pyclass(module = "terrace", frozen)]
pub(crate) struct Call {
    state: Mutex<State>,
    client: Py<CoreClient>,
    generation: u64,
}

impl Call {
    pub(crate) fn new(client: &Bound<'_, CoreClient>, request: Request, decoding: Decoding) -> Self {
        let state = Mutex::new(State::New(request, decoding));
        Self { state, client: client.clone().unbind(), generation: generation() }
    }

    fn take(&self) -> State {
        std::mem::replace(&mut *lock(&self.state), State::Done)
    }

    /// Returns the end of the coroutine: its result is the value of a `StopIteration`.
    fn finish(&self, py: Python<'_>, result: Result<Reply>, decoding: &Decoding) -> PyErr {
        let result = result.map_err(|error| exception(py, &error));
        match result.and_then(|reply| decoding.object(py, reply, self.client.bind(py))) {
            Ok(object) => PyStopIteration::new_err((object,)),
            Err(error) => error,
        }
    }

    fn begin(&self, py: Python<'_>, request: Request, decoding: Decoding) -> PyResult<Py<PyAny>> {
        let core = self.client.get();
        let started = core.started(py)?;
        let port = LoopPort::of_running_loop(py, &core.port)?;
        let port = port.get();
        let _context = started.runtime.enter();
        let client = bindings::for_task(&started.client, number_of_task(py)?);
        let running = match request.begin(&client) {
            Running::Ready(Some(reply)) => return Err(self.finish(py, Ok(reply), &decoding)),
            running @ (Running::Ready(_) | Running::Get(_) | Running::Other(_)) => running,
        };
        let operation = Arc::new(Operation {
            running: Mutex::new(Some(running)),
            result: Mutex::default(),
            future: Mutex::default(),
            port: Arc::clone(&port.port),
            is_woken: AtomicBool::new(false),
        });
        if operation.poll()
            && let Some(result) = lock(&operation.result).take()
        {
            return Err(self.finish(py, result, &decoding));
        }
        let future = port.new_future(py)?;
        // What `Future.__await__` sets before it yields itself.
        future.setattr(intern!(py, "_asyncio_future_blocking"), true)?;
        *lock(&operation.future) = Some(future.clone().unbind());
        *lock(&self.state) = State::Waiting(operation, decoding);
        Ok(future.unbind())
    }

    fn step(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.take() {
            State::New(request, decoding) => self.begin(py, request, decoding),
            State::Waiting(operation, decoding) => {
                let result = lock(&operation.result).take();
                match result {
                    Some(result) => Err(self.finish(py, result, &decoding)),
                    None => Err(PyRuntimeError::new_err("the operation was resumed before it had a result")),
                }
            }
            State::Done => Err(PyRuntimeError::new_err("cannot reuse already awaited coroutine")),
        }
    }

    /// Cancels the operation.
    fn cancel(&self) {
        let state = self.take();
        if self.generation == generation() {
            let State::Waiting(operation, _decoding) = state else { return };
            // The engine has a waker, and with it the operation, until the operation itself is dropped. A result that nobody
            // takes may be a lease, which the runtime releases.
            let left = (lock(&operation.running).take(), lock(&operation.result).take());
            self.client.get().within(|| drop(left));
        } else {
            // The operation belongs to the parent of this process.
            std::mem::forget(state);
        }
    }
}

impl LoopPort {
    fn new_future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let event_loop = self.event_loop.bind(py).upgrade();
        let event_loop = event_loop.ok_or_else(|| PyRuntimeError::new_err("the event loop was closed"))?;
        event_loop.call_method0(intern!(py, "create_future"))
    }
}

#[pymethods]
impl Call {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.step(py)
    }

    fn send(&self, py: Python<'_>, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.step(py)
    }

    #[pyo3(signature = (kind, value=None, _traceback=None))]
    fn throw(
        &self,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        self.cancel();
        let exception = value.filter(|value| !value.is_none()).unwrap_or(kind);
        Err(PyErr::from_value(exception.clone()))
    }

    fn close(&self) {
        self.cancel();
    }

    #[getter(__name__)]
    fn name(&self) -> &'static str {
        "operation"
    }

    #[getter(__qualname__)]
    fn qualified_name(&self) -> &'static str {
        "terrace.operation"
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if matches!(*lock(&self.state), State::Waiting(..)) {
            self.cancel();
        }
    }
}
