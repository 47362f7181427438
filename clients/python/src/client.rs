//! The client: arguments of Python become operations, which a runtime of this process executes.

use std::{
    cell::Cell,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use pyo3::{
    IntoPyObjectExt,
    exceptions::{PyException, PyTypeError},
    prelude::*,
    types::PyTuple,
};
use terrace_client::{Client, ClientBuilder, InvalidatePattern, NewEntry, bindings, proto::watch_response::News};
use tokio::runtime::Runtime;

use crate::{
    convert::{Key, Names, Size, Span, bytes, with_bytes},
    engine::{Process, generation, lock},
    errors::{exception, invalid, named},
    event_loop::{Call, LoopPort},
    fake::CoreFake,
    load::{Chain, LoadOptions, LoadReply},
    reply::{Decoding, near_stats},
    request::{Reply, Request},
    runner::{Runner, linked},
    settings::{Arguments, NearCache, Tls},
};

/// The connections of a client in this process.
pub(crate) struct Started {
    generation: u64,
    pub(crate) process: &'static Process,
    pub(crate) runtime: &'static Runtime,
    pub(crate) client: Client,
}

impl Started {
    /// Returns the client for the operations of this thread.
    pub(crate) fn client_of_thread(&self) -> Client {
        bindings::for_task(&self.client, THREAD.get())
    }
}

/// A client. The subclasses in Python have the methods with loaders.
#[pyclass(module = "terrace._core", frozen, subclass)]
pub(crate) struct CoreClient {
    builder: ClientBuilder,
    fake: Option<Py<CoreFake>>,
    pub(crate) is_async: bool,
    is_closed: AtomicBool,
    /// Locked only by threads that hold the GIL: no other thread can hold it during a fork.
    started: Mutex<Option<Arc<Started>>>,
    codec: Option<Py<PyAny>>,
    /// Hits of the near cache share one decoded object.
    shares_objects: bool,
    /// Port of the event loop that the last operation was for.
    pub(crate) port: Mutex<Option<Py<LoopPort>>>,
}

thread_local! {
    /// Number of this thread, for prefetch: operations of a thread count as one caller.
    static THREAD: Cell<u64> = {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Cell::new(NEXT.fetch_add(1, Relaxed))
    };
}

impl CoreClient {
    /// Returns the connections of this process, and opens them for the first operation.
    ///
    /// # Errors
    /// The client is closed, or a runtime cannot be started.
    pub(crate) fn started(&self, py: Python<'_>) -> PyResult<Arc<Started>> {
        let mut started = lock(&self.started);
        if let Some(started) = started.as_ref().filter(|started| started.generation == generation()) {
            return Ok(Arc::clone(started));
        }
        if self.is_closed.load(Relaxed) {
            return Err(named(py, "Unavailable", "the client is closed"));
        }
        // The connections of the parent are not closed: that would send messages in the name of the parent.
        std::mem::forget(started.take());
        let process = Process::current(py);
        let runtime = if self.is_async { process.background()? } else { process.blocking()?.runtime };
        let _context = runtime.enter();
        let client = match &self.fake {
            Some(fake) => fake.get().0.client_with(self.builder.clone()),
            None => self.builder.clone().connect_lazy().map_err(|error| exception(py, &error))?,
        };
        let new = Arc::new(Started { generation: process.generation, process, runtime, client });
        *started = Some(Arc::clone(&new));
        Ok(new)
    }

    /// Calls a function in the context of the runtime, if it was started.
    pub(crate) fn within(&self, run: impl FnOnce()) {
        let started = lock(&self.started).clone();
        let _context = started.as_ref().map(|started| started.runtime.enter());
        run();
    }

    /// Executes an operation: a synchronous client returns its result, an asynchronous client a coroutine.
    pub(crate) fn run(&self, slf: &Bound<'_, Self>, request: Request, decoding: Decoding) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        if self.is_async {
            return Call::new(slf, request, decoding).into_py_any(py);
        }
        let started = self.started(py)?;
        let blocking = started.process.blocking()?;
        let client = started.client_of_thread();
        let running = {
            let _context = started.runtime.enter();
            request.begin(&client)
        };
        let result = blocking.wait(py, running)?;
        decoding.object(py, result.map_err(|error| exception(py, &error))?, slf)
    }

    /// Returns the codec of an operation: its own one, or the codec of the client.
    fn codec(&self, py: Python<'_>, codec: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
        codec.or_else(|| self.codec.as_ref().map(|codec| codec.clone_ref(py)))
    }

    fn encoded(&self, value: &Bound<'_, PyAny>, codec: Option<&Py<PyAny>>) -> PyResult<Bytes> {
        match codec.or(self.codec.as_ref()) {
            Some(codec) => {
                bytes(codec.bind(value.py()).call_method1("encode", (value,))?.as_any(), "the encoded value")
            }
            None => bytes(value, "the value").map_err(|error| {
                let hint = format!("{error}, or a codec such as terrace.Json()");
                if error.is_instance_of::<PyTypeError>(value.py()) { PyTypeError::new_err(hint) } else { error }
            }),
        }
    }

    fn decoding(&self, py: Python<'_>, codec: Option<Py<PyAny>>, default: Option<Py<PyAny>>) -> Decoding {
        Decoding { codec: self.codec(py, codec), default, decodes_copies: !self.shares_objects, ..Decoding::default() }
    }
}

/// Sets the deadline of an operation, if one is given.
macro_rules! limited {
    ($operation:expr, $timeout:expr) => {{
        let operation = $operation;
        match $timeout {
            Some(Span(limit)) => operation.timeout(limit),
            None => operation,
        }
    }};
}

#[pymethods]
impl CoreClient {
    #[new]
    #[pyo3(signature = (target, is_async, codec, fake, *, near_cache, tls, token, token_file, routing, read_timeout,
        write_timeout, connect_timeout, max_message, retry_writes))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        py: Python<'_>,
        target: String,
        is_async: bool,
        codec: Option<Py<PyAny>>,
        fake: Option<Py<CoreFake>>,
        near_cache: Option<Py<NearCache>>,
        tls: Option<Py<Tls>>,
        token: Option<String>,
        token_file: Option<std::path::PathBuf>,
        routing: String,
        read_timeout: Option<Span>,
        write_timeout: Option<Span>,
        connect_timeout: Option<Span>,
        max_message: Option<Size>,
        retry_writes: bool,
    ) -> PyResult<Self> {
        let arguments = Arguments {
            near_cache,
            tls,
            token,
            token_file,
            routing,
            read_timeout,
            write_timeout,
            connect_timeout,
            max_message,
            retry_writes,
        };
        let shares_objects = arguments.shares_objects();
        let builder = arguments.apply(Client::builder(target))?;
        if fake.is_none() {
            bindings::check(&builder).map_err(|error| exception(py, &error))?;
        }
        let (is_closed, started, port) = Default::default();
        Ok(Self { builder, fake, is_async, is_closed, started, codec, shares_objects, port })
    }

    /// Reads a key. Returns its value, or `default` if the key does not exist.
    #[pyo3(signature = (key, default=None, *, codec=None, timeout=None))]
    fn get(
        slf: &Bound<'_, Self>,
        key: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
        codec: Option<Py<PyAny>>,
        timeout: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        let (py, core) = (slf.py(), slf.get());
        let decoding = core.decoding(py, codec, default);
        if !core.is_async
            && let Some(copy) = core.near_copy(key)?
        {
            return decoding.copy(py, &copy);
        }
        let key = bytes(key, "the key")?;
        core.run(slf, Request::Get { key, timeout: timeout.map(|timeout| timeout.0) }, decoding)
    }

    /// Reads many keys. Returns one value per key, in order; `None` for a key that does not exist.
    #[pyo3(signature = (keys, *, codec=None, timeout=None))]
    fn get_many(
        slf: &Bound<'_, Self>,
        keys: Names,
        codec: Option<Py<PyAny>>,
        timeout: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        let get = move |client: &Client| limited!(client.get_many(keys.0), timeout);
        slf.get().run(slf, Request::new(get, Reply::Values), slf.get().decoding(slf.py(), codec, None))
    }

    /// As `get_many`, with the exception of a key in its place, instead of raising it.
    #[pyo3(signature = (keys, *, codec=None, timeout=None))]
    fn get_many_each(
        slf: &Bound<'_, Self>,
        keys: Names,
        codec: Option<Py<PyAny>>,
        timeout: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        let get = move |client: &Client| {
            let get = limited!(client.get_many(keys.0), timeout);
            async { get.each().await }
        };
        slf.get().run(slf, Request::new(get, Reply::EachValue), slf.get().decoding(slf.py(), codec, None))
    }

    /// Reads a key with its metadata: an `Entry`, or `None`.
    #[pyo3(signature = (key, *, codec=None, no_touch=false, timeout=None))]
    fn lookup(
        slf: &Bound<'_, Self>,
        key: Key,
        codec: Option<Py<PyAny>>,
        no_touch: bool,
        timeout: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        let lookup = move |client: &Client| {
            let lookup = limited!(client.lookup(key.0), timeout);
            if no_touch { lookup.no_touch() } else { lookup }
        };
        let request = Request::new(lookup, |entry: Option<_>| Reply::Entry(entry.map(Box::new)));
        slf.get().run(slf, request, slf.get().decoding(slf.py(), codec, None))
    }

    /// Writes a key and replaces its TTL and tags. Returns `False` if a condition did not hold.
    #[pyo3(signature = (key, value, *, ttl=None, stale=None, tags=None, if_absent=false, if_present=false,
        if_equal=None, codec=None, timeout=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn set(
        slf: &Bound<'_, Self>,
        key: Key,
        value: &Bound<'_, PyAny>,
        ttl: Option<Span>,
        stale: Option<Span>,
        tags: Option<Names>,
        if_absent: bool,
        if_present: bool,
        if_equal: Option<&Bound<'_, PyAny>>,
        codec: Option<Py<PyAny>>,
        timeout: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        let core = slf.get();
        if u8::from(if_absent) + u8::from(if_present) + u8::from(if_equal.is_some()) > 1 {
            return Err(invalid(slf.py(), "if_absent, if_present and if_equal exclude each other"));
        }
        let value = core.encoded(value, codec.as_ref())?;
        let equal = if_equal.map(|value| core.encoded(value, codec.as_ref())).transpose()?;
        let set = move |client: &Client| {
            let mut set = limited!(client.set(key.0, value), timeout);
            if let Some(ttl) = ttl {
                set = set.ttl(ttl.0);
            }
            if let Some(stale) = stale {
                set = set.stale(stale.0);
            }
            if let Some(tags) = tags {
                set = set.tags(tags.0);
            }
            match equal {
                Some(value) => set.if_equal(value),
                None if if_absent => set.if_absent(),
                None if if_present => set.if_present(),
                None => set,
            }
        };
        core.run(slf, Request::new(set, Reply::Bool), Decoding::default())
    }

    /// Writes a mapping, or pairs of keys and values. Not atomic.
    #[pyo3(signature = (entries, *, ttl=None, tags=None, codec=None, timeout=None))]
    fn set_many(
        slf: &Bound<'_, Self>,
        entries: &Bound<'_, PyAny>,
        ttl: Option<Span>,
        tags: Option<Names>,
        codec: Option<Py<PyAny>>,
        timeout: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        let entries = slf.get().new_entries(entries, ttl, tags.as_ref(), codec.as_ref())?;
        let set = move |client: &Client| limited!(client.set_many(entries), timeout);
        slf.get().run(slf, Request::new(set, |()| Reply::Done), Decoding::default())
    }

    /// As `set_many`. Returns `None` or an exception per entry.
    #[pyo3(signature = (entries, *, ttl=None, tags=None, codec=None, timeout=None))]
    fn set_many_each(
        slf: &Bound<'_, Self>,
        entries: &Bound<'_, PyAny>,
        ttl: Option<Span>,
        tags: Option<Names>,
        codec: Option<Py<PyAny>>,
        timeout: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        let entries = slf.get().new_entries(entries, ttl, tags.as_ref(), codec.as_ref())?;
        let set = move |client: &Client| {
            let set = limited!(client.set_many(entries), timeout);
            async { set.each().await }
        };
        slf.get().run(slf, Request::new(set, Reply::EachDone), Decoding::default())
    }

    /// Deletes keys. Returns the number of keys that existed.
    #[pyo3(signature = (*keys, timeout=None))]
    fn delete(slf: &Bound<'_, Self>, keys: &Bound<'_, PyTuple>, timeout: Option<Span>) -> PyResult<Py<PyAny>> {
        let keys = keys.iter().map(|key| bytes(&key, "the key")).collect::<PyResult<Vec<Bytes>>>()?;
        let delete = move |client: &Client| limited!(client.delete(keys), timeout);
        slf.get().run(slf, Request::new(delete, Reply::Count), Decoding::default())
    }

    /// Changes the TTL of a key; without a TTL, the key does not expire. `only`: "longer" or "shorter".
    #[pyo3(signature = (key, ttl=None, *, only=None, timeout=None))]
    fn touch(
        slf: &Bound<'_, Self>,
        key: Key,
        ttl: Option<Span>,
        only: Option<&str>,
        timeout: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        let only = match only {
            None => None,
            Some("longer") => Some(true),
            Some("shorter") => Some(false),
            Some(other) => {
                let text = format!("only is {other:?}; expected \"longer\" or \"shorter\"");
                return Err(invalid(slf.py(), &text));
            }
        };
        let touch = move |client: &Client| {
            let touch = limited!(client.touch(key.0, ttl.map(|ttl| ttl.0)), timeout);
            match only {
                Some(true) => touch.if_longer(),
                Some(false) => touch.if_shorter(),
                None => touch,
            }
        };
        slf.get().run(slf, Request::new(touch, Reply::Touched), Decoding::default())
    }

    /// Adds a number to the value of a key, a decimal 64-bit integer. Returns the new number.
    #[pyo3(signature = (key, delta=1, *, ttl=None, timeout=None))]
    fn increment(
        slf: &Bound<'_, Self>,
        key: Key,
        delta: i64,
        ttl: Option<Span>,
        timeout: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        let increment = move |client: &Client| {
            let increment = limited!(client.increment(key.0, delta), timeout);
            match ttl {
                Some(ttl) => increment.ttl(ttl.0),
                None => increment,
            }
        };
        slf.get().run(slf, Request::new(increment, Reply::Number), Decoding::default())
    }

    /// Invalidates all keys that match a Redis glob of at most 1 KiB, on all nodes.
    #[pyo3(signature = (pattern, *, dry_run=false, wait=false, timeout=None))]
    fn invalidate_pattern(
        slf: &Bound<'_, Self>,
        pattern: Key,
        dry_run: bool,
        wait: bool,
        timeout: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        slf.get().invalidate(slf, move |client| client.invalidate_pattern(pattern.0), dry_run, wait, timeout)
    }

    /// Invalidates all keys with a prefix of at most 512 bytes, on all nodes.
    #[pyo3(signature = (prefix, *, dry_run=false, wait=false, timeout=None))]
    fn invalidate_prefix(
        slf: &Bound<'_, Self>,
        prefix: Key,
        dry_run: bool,
        wait: bool,
        timeout: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        slf.get().invalidate(slf, move |client| client.invalidate_prefix(prefix.0), dry_run, wait, timeout)
    }

    /// Invalidates all entries with one of the tags, at most 1,000. Returns the number of tags in use.
    #[pyo3(signature = (tags, *, timeout=None))]
    fn invalidate_tags(slf: &Bound<'_, Self>, tags: Names, timeout: Option<Span>) -> PyResult<Py<PyAny>> {
        let invalidate = move |client: &Client| limited!(client.invalidate_tags(tags.0), timeout);
        slf.get().run(slf, Request::new(invalidate, Reply::Count), Decoding::default())
    }

    /// Reads a key. If it is absent or needs a refresh, one client receives the permission to load it: a `Grant`.
    #[pyo3(signature = (key, *, stale=None, lease=None, wait=None, tags=None, refresh=false, codec=None, timeout=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn get_or_lease(
        slf: &Bound<'_, Self>,
        key: Key,
        stale: Option<Span>,
        lease: Option<Span>,
        wait: Option<Span>,
        tags: Option<Names>,
        refresh: bool,
        codec: Option<Py<PyAny>>,
        timeout: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        let get = move |client: &Client| {
            let mut get = limited!(client.get_or_lease(key.0), timeout);
            if let Some(stale) = stale {
                get = get.stale(stale.0);
            }
            if let Some(lease) = lease {
                get = get.lease(lease.0);
            }
            if let Some(wait) = wait {
                get = get.wait(wait.0);
            }
            if let Some(tags) = tags {
                get = get.tags(tags.0);
            }
            if refresh { get.refresh() } else { get }
        };
        let request = Request::new(get, |lease| Reply::Lease(Box::new(lease)));
        slf.get().run(slf, request, slf.get().decoding(slf.py(), codec, None))
    }

    /// Follows the changes of keys, on one node. Returns a `Feed`.
    #[pyo3(signature = (prefixes=None, *, heartbeat=None))]
    fn watch(slf: &Bound<'_, Self>, prefixes: Option<Names>, heartbeat: Option<Span>) -> PyResult<Py<PyAny>> {
        let watch = move |client: &Client| {
            let mut watch = client.watch();
            if let Some(prefixes) = prefixes {
                watch = watch.prefixes(prefixes.0);
            }
            if let Some(heartbeat) = heartbeat {
                watch = watch.heartbeat(heartbeat.0);
            }
            async move {
                let mut feed = watch.open().await?;
                let started = feed.next().await?.and_then(|message| message.news);
                let resumed = matches!(started, Some(News::Started(started)) if started.resumed);
                Ok((feed, resumed))
            }
        };
        let request = Request::new(watch, |(feed, resumed)| Reply::Feed(Box::new(feed), resumed));
        slf.get().run(slf, request, Decoding::default())
    }

    /// Waits until a node is ready.
    fn ready(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let ready = |client: &Client| {
            let client = client.clone();
            async move { client.ready().await }
        };
        slf.get().run(slf, Request::new(ready, |()| Reply::Done), Decoding::default())
    }

    /// Returns the statistics of each node.
    fn stats(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let stats = |client: &Client| {
            let client = client.clone();
            async move { client.stats().await }
        };
        slf.get().run(slf, Request::new(stats, Reply::Stats), Decoding::default())
    }

    /// Returns the statistics of the near cache; `None` without one.
    fn near_stats(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.started(py)?.client.near_stats().map(|stats| near_stats(py, &stats)).transpose()
    }

    /// Number of operations that have no result.
    fn operations_in_progress(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.started(py)?.client.operations_in_progress())
    }

    /// Returns the decoded copy of the near cache, or `missing`.
    #[pyo3(signature = (key, codec, missing))]
    fn _near(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        codec: Option<Py<PyAny>>,
        missing: Py<PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let Some(copy) = self.near_copy(key)? else { return Ok(missing) };
        let decoding = Decoding { codec, decodes_copies: !self.shares_objects, ..Decoding::default() };
        // A value that cannot be decoded was stored by another version of the application: it is loaded again.
        decoding.copy(py, &copy).or_else(
            |error| {
                if error.is_instance_of::<PyException>(py) { Ok(missing) } else { Err(error) }
            },
        )
    }

    /// Reads a key, and loads it if it is absent. `run` runs the loader. The result is bytes, or `missing`.
    #[expect(clippy::too_many_arguments, reason = "called by the package only")]
    fn _load(
        slf: &Bound<'_, Self>,
        key: Key,
        options: &Bound<'_, LoadOptions>,
        tags: Names,
        run: Py<PyAny>,
        chain: Option<Py<Chain>>,
        refresh: bool,
        timeout: Option<Span>,
        missing: Py<PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let plan = options.get();
        let options = plan.options.clone().tags(tags.0);
        let runner = Runner::of(slf, run, plan.has_soft_timeout)?;
        let to_run = runner.dispatch.clone();
        let load = move |client: &Client| {
            let load = move || {
                let (reply, result) = LoadReply::new(Vec::new());
                to_run.begin(reply);
                async { Ok(result.await?.pop().unwrap_or_else(terrace_client::Loaded::absent)) }
            };
            let mut load = bindings::get_or_load_missed(client, key.0, options, load);
            if refresh {
                load = load.refresh();
            }
            linked(chain, limited!(load, timeout).into_future())
        };
        runner.run(slf, Request::new(load, Reply::Value), Decoding { default: Some(missing), ..Decoding::default() })
    }

    /// Reads keys, each with its tags, and loads those that are absent. Returns one result per key: bytes, `None` or an
    /// exception.
    fn _load_many(
        slf: &Bound<'_, Self>,
        keys: Vec<(Key, Names)>,
        options: &Bound<'_, LoadOptions>,
        run: Py<PyAny>,
        chain: Option<Py<Chain>>,
        timeout: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        let plan = options.get();
        let options = plan.options.clone();
        let runner = Runner::of(slf, run, plan.has_soft_timeout)?;
        let to_run = runner.dispatch.clone();
        let load = move |client: &Client| {
            let load = move |keys: Vec<Bytes>| {
                let (reply, result) = LoadReply::new(keys);
                to_run.begin(reply);
                result
            };
            let keys = keys.into_iter().map(|(key, tags)| (key.0, tags.0));
            let load = limited!(bindings::get_or_load_many(client, keys, options, load), timeout);
            linked(chain, async { Ok(load.each().await) })
        };
        runner.run(slf, Request::new(load, Reply::EachValue), Decoding::default())
    }

    /// Closes the connections. Operations fail then.
    fn _close(&self, py: Python<'_>) {
        self.is_closed.store(true, Relaxed);
        let started = lock(&self.started).take();
        if started.as_ref().is_some_and(|started| started.generation != generation()) {
            std::mem::forget(started);
        } else {
            py.detach(|| drop(started));
        }
    }
}

impl CoreClient {
    fn invalidate(
        &self,
        slf: &Bound<'_, Self>,
        invalidate: impl FnOnce(&Client) -> InvalidatePattern + Send + 'static,
        dry_run: bool,
        wait: bool,
        timeout: Option<Span>,
    ) -> PyResult<Py<PyAny>> {
        let begin = move |client: &Client| {
            let invalidate = limited!(invalidate(client), timeout);
            let invalidate = if dry_run { invalidate.dry_run() } else { invalidate };
            if wait { invalidate.wait() } else { invalidate }
        };
        self.run(slf, Request::new(begin, Reply::Invalidated), Decoding::default())
    }

    fn near_copy(&self, key: &Bound<'_, PyAny>) -> PyResult<Option<bindings::NearCopy>> {
        let started = lock(&self.started);
        // The copies of the parent are not used: another thread may have locked them during the fork.
        let Some(started) = started.as_ref().filter(|started| started.generation == generation()) else {
            return Ok(None);
        };
        with_bytes(key, "the key", |key| bindings::near_copy(&started.client, key))
    }

    /// Returns the entries of a mapping, or of a list of keys and values.
    fn new_entries(
        &self,
        entries: &Bound<'_, PyAny>,
        ttl: Option<Span>,
        tags: Option<&Names>,
        codec: Option<&Py<PyAny>>,
    ) -> PyResult<Vec<NewEntry>> {
        let items = if entries.hasattr("items")? { entries.call_method0("items")? } else { entries.clone() };
        let mut new = Vec::new();
        for item in items.try_iter()? {
            let (key, value): (Key, Bound<'_, PyAny>) = item?.extract()?;
            let mut entry = NewEntry::new(key.0, self.encoded(&value, codec)?);
            if let Some(ttl) = ttl {
                entry = entry.ttl(ttl.0);
            }
            if let Some(tags) = tags {
                entry = entry.tags(tags.0.clone());
            }
            new.push(entry);
        }
        Ok(new)
    }
}

impl Drop for CoreClient {
    fn drop(&mut self) {
        let started = lock(&self.started).take();
        if started.as_ref().is_some_and(|started| started.generation != generation()) {
            std::mem::forget(started);
        }
    }
}
