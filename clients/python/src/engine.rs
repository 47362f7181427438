//! The runtimes of this process.
//!
//! * Synchronous clients: the thread of a caller drives the runtime while it waits, so that an answer needs no change of
//!   threads. Other callers that wait are served by the same thread. The keeper thread drives the runtime while nobody calls:
//!   the server closes connections that do not answer its pings.
//! * Asynchronous clients: a thread of its own drives the runtime, and the event loops wait for results.
//!
//! A fork copies the memory of a process, but not its threads. The child leaves the runtimes of its parent as they are, because
//! their locks and connections belong to the parent, and starts its own.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Poll, Waker},
    thread,
    time::Duration,
};

use pyo3::{exceptions::PyRuntimeError, prelude::*, sync::PyOnceLock};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
};

use crate::load::Pool;

/// Time without calls after which the keeper drives the runtime. Also the interval at which waiting callers look for
/// signals such as Ctrl-C.
const PAUSE: Duration = Duration::from_millis(100);

/// Number of forks between the first process and this one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// The runtimes of this process; `None` before the first operation. Locked only by threads that hold the GIL, so that no other
/// thread can hold it during a fork.
static PROCESS: Mutex<Option<&'static Process>> = Mutex::new(None);

/// The runtimes of one process. Never dropped: a child must not touch the runtimes of its parent.
pub(crate) struct Process {
    pub(crate) generation: u64,
    blocking: OnceLock<&'static Blocking>,
    background: OnceLock<&'static Runtime>,
    /// Threads that run the loaders of callers that do not wait.
    pub(crate) pool: Pool,
}

/// Locks a mutex that no code holds while it panics.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the number of forks between the first process and this one.
pub(crate) fn generation() -> u64 {
    GENERATION.load(Relaxed)
}

/// Forgets the runtimes of the parent. Called in the child after a fork.
pub(crate) fn forked() {
    GENERATION.fetch_add(1, Relaxed);
    *lock(&PROCESS) = None;
}

fn failed(error: &std::io::Error) -> PyErr {
    PyRuntimeError::new_err(format!("cannot start the runtime of the cache client: {error}"))
}

fn runtime() -> PyResult<&'static Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
    Ok(Box::leak(Box::new(runtime)))
}

impl Process {
    /// Returns the runtimes of this process. Requires the GIL.
    pub(crate) fn current(_py: Python<'_>) -> &'static Self {
        lock(&PROCESS).get_or_insert_with(|| {
            let (blocking, background, pool) = Default::default();
            Box::leak(Box::new(Self { generation: generation(), blocking, background, pool }))
        })
    }

    /// Returns the runtime of the synchronous clients.
    pub(crate) fn blocking(&self) -> PyResult<&'static Blocking> {
        if let Some(blocking) = self.blocking.get() {
            return Ok(blocking);
        }
        let blocking = Blocking::start()?;
        Ok(self.blocking.get_or_init(|| blocking))
    }

    /// Returns the runtime of the asynchronous clients.
    pub(crate) fn background(&self) -> PyResult<&'static Runtime> {
        if let Some(runtime) = self.background.get() {
            return Ok(runtime);
        }
        let runtime = runtime()?;
        let drive = || runtime.block_on(std::future::pending::<()>());
        thread::Builder::new().name("terrace-io".into()).spawn(drive).map_err(|error| failed(&error))?;
        Ok(self.background.get_or_init(|| runtime))
    }
}

/// The runtime of the synchronous clients.
pub(crate) struct Blocking {
    pub(crate) runtime: &'static Runtime,
    /// Number of callers that wait.
    callers: AtomicUsize,
    /// Number of calls so far that have waited, and thereby driven the runtime.
    calls: AtomicU64,
    is_kept: AtomicBool,
    /// Ends the turn of the keeper.
    take_over: Notify,
    /// Raised by the keeper at each [`PAUSE`].
    ticks: AtomicU64,
    /// Wakes the main thread of Python, which looks for signals.
    main: Mutex<Option<Waker>>,
}

/// Counts a caller that waits.
struct Caller<'a>(&'a Blocking);

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.0.callers.fetch_sub(1, SeqCst);
    }
}

impl Blocking {
    fn start() -> PyResult<&'static Self> {
        let blocking: &'static Self = Box::leak(Box::new(Self {
            runtime: runtime()?,
            callers: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            is_kept: AtomicBool::new(false),
            take_over: Notify::new(),
            ticks: AtomicU64::new(0),
            main: Mutex::new(None),
        }));
        let keep = || blocking.keep();
        thread::Builder::new().name("terrace-keeper".into()).spawn(keep).map_err(|error| failed(&error))?;
        Ok(blocking)
    }

    /// Drives the runtime while nobody calls.
    fn keep(&self) {
        loop {
            let seen = self.calls.load(SeqCst);
            thread::sleep(PAUSE);
            self.ticks.fetch_add(1, Relaxed);
            if let Some(waker) = lock(&self.main).take() {
                waker.wake();
            }
            if self.callers.load(SeqCst) > 0 || self.calls.load(SeqCst) != seen {
                continue;
            }
            self.is_kept.store(true, SeqCst);
            // Either this thread sees a new caller, or the caller sees that the runtime is kept.
            if self.callers.load(SeqCst) == 0 {
                self.runtime.block_on(self.take_over.notified());
            }
            self.is_kept.store(false, SeqCst);
        }
    }

    /// Waits for a future, without the GIL.
    ///
    /// # Errors
    /// The exception of a signal handler, such as `KeyboardInterrupt`.
    pub(crate) fn wait<T: Send>(&self, py: Python<'_>, future: impl Future<Output = T> + Send) -> PyResult<T> {
        // The drop of the future may send a message, such as the release of a lease.
        let _context = self.runtime.enter();
        let is_main = is_main_thread(py)?;
        let mut future = pin!(future);
        loop {
            let waited = py.detach(|| self.wait_for_turn(future.as_mut(), is_main));
            match waited {
                Some(result) => return Ok(result),
                // A handler may call this client, which is impossible while this thread drives the runtime.
                None => py.check_signals()?,
            }
        }
    }

    /// Drives the runtime until the future is ready. On the main thread also until the next tick of the keeper: `None`.
    fn wait_for_turn<T>(&self, mut future: Pin<&mut impl Future<Output = T>>, is_main: bool) -> Option<T> {
        self.callers.fetch_add(1, SeqCst);
        let _caller = Caller(self);
        let seen = self.ticks.load(Relaxed);
        self.runtime.block_on(poll_fn(|context| {
            if let Poll::Ready(result) = future.as_mut().poll(context) {
                return Poll::Ready(Some(result));
            }
            self.calls.fetch_add(1, SeqCst);
            // A call that waits drives the runtime itself.
            if self.is_kept.load(SeqCst) {
                self.take_over.notify_one();
            }
            if !is_main {
                return Poll::Pending;
            }
            *lock(&self.main) = Some(context.waker().clone());
            if self.ticks.load(Relaxed) == seen { Poll::Pending } else { Poll::Ready(None) }
        }))
    }
}

thread_local! {
    /// Generation in which this thread was found to be the main thread or another one.
    static IS_MAIN: Cell<Option<(u64, bool)>> = const { Cell::new(None) };
}

/// Returns whether Python runs signal handlers on this thread.
fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    static THREADING: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    if let Some((known, is_main)) = IS_MAIN.get()
        && known == generation()
    {
        return Ok(is_main);
    }
    let threading = THREADING.get_or_try_init(py, || py.import("threading").map(Bound::unbind))?.bind(py);
    let main = threading.call_method0("main_thread")?.getattr("ident")?;
    let is_main = main.eq(threading.call_method0("get_ident")?)?;
    IS_MAIN.set(Some((generation(), is_main)));
    Ok(is_main)
}
