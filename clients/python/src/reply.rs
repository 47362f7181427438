//! Answers as objects of Python.

use bytes::Bytes;
use pyo3::{
    IntoPyObjectExt, intern,
    prelude::*,
    types::{PyBytes, PyDict, PyList, PyString},
};
use terrace_client::{
    Entry as RustEntry, Filled, Lease as RustLease, NearStats, Result, Tier,
    bindings::NearCopy,
    proto::{GetStatsResponse, GrantReason, WatchEvent, WatchResponse, watch_event::Subject, watch_response::News},
};

use crate::{
    client::CoreClient,
    errors::{exception, named},
    grant::Grant,
    request::Reply,
    watch::{self, Event, Feed},
};

/// Conversion of an answer to an object of Python.
#[derive(Default)]
pub(crate) struct Decoding {
    /// Decodes values; `None`: values are bytes.
    pub(crate) codec: Option<Py<PyAny>>,
    /// Result for an absent key; `None`: the object `None`.
    pub(crate) default: Option<Py<PyAny>>,
    /// Each copy of the near cache is decoded, instead of sharing one object.
    pub(crate) decodes_copies: bool,
    /// The end of a feed is the end of an asynchronous iteration.
    pub(crate) ends_iteration: bool,
}

/// A decoded copy, and the codec that has decoded it.
struct Decoded {
    codec: Py<PyAny>,
    value: Py<PyAny>,
}

impl Decoding {
    /// Decodes a value.
    ///
    /// # Errors
    /// `DecodeError` with the exception of the codec as its cause.
    pub(crate) fn value(&self, py: Python<'_>, bytes: &Bytes) -> PyResult<Py<PyAny>> {
        decode(py, self.codec.as_ref(), bytes)
    }

    /// Returns the value of a copy. It is decoded once per codec, and shared.
    pub(crate) fn copy(&self, py: Python<'_>, copy: &NearCopy) -> PyResult<Py<PyAny>> {
        if self.decodes_copies {
            return self.value(py, copy.value());
        }
        let codec = self.codec.as_ref().map_or_else(|| py.None(), |codec| codec.clone_ref(py));
        let mut failed = None;
        let decode = |bytes: &Bytes| match self.value(py, bytes) {
            Ok(value) => Some(Decoded { codec: codec.clone_ref(py), value }),
            Err(error) => {
                failed = Some(error);
                None
            }
        };
        match (copy.decoded(decode), failed) {
            (Some(decoded), _) if decoded.codec.is(&codec) => Ok(decoded.value.clone_ref(py)),
            (_, Some(error)) => Err(error),
            (Some(_) | None, None) => self.value(py, copy.value()),
        }
    }

    fn found(&self, py: Python<'_>, value: Option<&Bytes>) -> PyResult<Py<PyAny>> {
        match (value, &self.default) {
            (Some(bytes), _) => self.value(py, bytes),
            (None, Some(default)) => Ok(default.clone_ref(py)),
            (None, None) => Ok(py.None()),
        }
    }

    /// Converts an answer.
    ///
    /// # Errors
    /// The value cannot be decoded.
    pub(crate) fn object(&self, py: Python<'_>, reply: Reply, client: &Bound<'_, CoreClient>) -> PyResult<Py<PyAny>> {
        match reply {
            Reply::Done => Ok(py.None()),
            Reply::Copy(copy) => self.copy(py, &copy),
            Reply::Value(value) => self.found(py, value.as_ref()),
            Reply::Values(values) => {
                let values = values.iter().map(|value| self.found(py, value.as_ref())).collect::<PyResult<Vec<_>>>()?;
                list(py, values)
            }
            Reply::EachValue(results) => each(py, results, |value: Option<Bytes>| self.found(py, value.as_ref())),
            Reply::EachDone(results) => each(py, results, |()| Ok(py.None())),
            Reply::Bool(is_true) => is_true.into_py_any(py),
            Reply::Count(count) => count.into_py_any(py),
            Reply::Number(number) => number.into_py_any(py),
            Reply::Entry(None) => Ok(py.None()),
            Reply::Entry(Some(entry)) => self.entry(py, &entry)?.into_py_any(py),
            Reply::Touched(touched) => {
                dict(py, [("found", touched.found.into_py_any(py)?), ("applied", touched.applied.into_py_any(py)?)])
            }
            Reply::Invalidated(done) => {
                dict(py, [("removed", done.removed.into_py_any(py)?), ("is_done", done.is_done.into_py_any(py)?)])
            }
            Reply::Lease(lease) => self.lease(py, *lease, client)?.into_py_any(py),
            Reply::Filled(filled) => Ok(PyString::intern(py, filled_name(filled)).into_any().unbind()),
            Reply::Feed(feed, resumed) => Feed::new(*feed, resumed, client.clone().unbind()).into_py_any(py),
            Reply::Event(None) if self.ends_iteration => Err(watch::end()),
            Reply::Event(None) => Ok(py.None()),
            Reply::Event(Some((kind, name))) => Event::new(py, kind, name.as_ref()).into_py_any(py),
            Reply::Stats(nodes) => {
                let nodes = nodes.iter().map(|(node, stats)| node_stats(py, node, stats));
                list(py, nodes.collect::<PyResult<Vec<_>>>()?)
            }
        }
    }
}

impl Decoding {
    fn entry(&self, py: Python<'_>, entry: &RustEntry) -> PyResult<Entry> {
        let RustEntry { value, tier, is_stale, expires_in, fresh_for, age, tags, l1_hits, .. } = entry;
        Ok(Entry {
            value: self.value(py, value)?,
            tier: match tier {
                Tier::L1 => "L1",
                Tier::L2 => "L2",
            },
            is_stale: *is_stale,
            expires_in: expires_in.map(|span| span.as_secs_f64()),
            fresh_for: fresh_for.map(|span| span.as_secs_f64()),
            age: age.as_secs_f64(),
            tags: tags.iter().map(|tag| PyBytes::new(py, tag).unbind()).collect(),
            l1_hits: *l1_hits,
        })
    }

    fn lease(&self, py: Python<'_>, lease: RustLease, client: &Bound<'_, CoreClient>) -> PyResult<Lease> {
        let grant = |grant| Py::new(py, Grant::new(grant, client.clone().unbind()));
        let seconds = |span: std::time::Duration| Some(span.as_secs_f64());
        let mut shown = Lease::default();
        match lease {
            RustLease::Hit { entry, needs_refresh, grant: granted, fresh_for } => {
                (shown.kind, shown.needs_refresh) = ("hit", needs_refresh);
                shown.fresh_for = fresh_for.and_then(seconds);
                shown.value = Some(self.value(py, &entry.value)?);
                shown.grant = granted.map(grant).transpose()?;
            }
            RustLease::Load(granted) => (shown.kind, shown.grant) = ("load", Some(grant(granted)?)),
            RustLease::Busy { leader_age, expected } => {
                (shown.kind, shown.leader_age) = ("busy", seconds(leader_age));
                shown.expected = expected.and_then(seconds);
            }
            RustLease::Absent { ttl } => (shown.kind, shown.ttl) = ("absent", seconds(ttl)),
            RustLease::Failed { message, retry_after } => {
                (shown.kind, shown.message, shown.retry_after) = ("failed", Some(message), seconds(retry_after));
            }
            _ => return Err(named(py, "Internal", "the server sent a lease that this version does not know")),
        }
        Ok(shown)
    }
}

/// Decodes a value; without a codec, values are bytes.
fn decode(py: Python<'_>, codec: Option<&Py<PyAny>>, bytes: &Bytes) -> PyResult<Py<PyAny>> {
    let raw = PyBytes::new(py, bytes);
    let Some(codec) = codec else { return Ok(raw.into_any().unbind()) };
    codec.call_method1(py, intern!(py, "decode"), (raw,)).map_err(|cause| {
        let error = named(py, "DecodeError", &format!("cannot decode a value of {} bytes: {cause}", bytes.len()));
        error.set_cause(py, Some(cause));
        error
    })
}

fn list(py: Python<'_>, items: Vec<Py<PyAny>>) -> PyResult<Py<PyAny>> {
    Ok(PyList::new(py, items)?.into_any().unbind())
}

/// Converts one result per key: an object, or the exception of the key.
fn each<T>(py: Python<'_>, results: Vec<Result<T>>, object: impl Fn(T) -> PyResult<Py<PyAny>>) -> PyResult<Py<PyAny>> {
    let result = |result| match result {
        Ok(value) => object(value),
        Err(error) => exception(py, &error).into_value(py).into_py_any(py),
    };
    list(py, results.into_iter().map(result).collect::<PyResult<Vec<_>>>()?)
}

fn dict<const COUNT: usize>(py: Python<'_>, fields: [(&str, Py<PyAny>); COUNT]) -> PyResult<Py<PyAny>> {
    let dict = PyDict::new(py);
    for (name, value) in fields {
        dict.set_item(name, value)?;
    }
    Ok(dict.into_any().unbind())
}

fn filled_name(filled: Filled) -> &'static str {
    match filled {
        Filled::Stored => "stored",
        Filled::Changed => "changed",
        Filled::Invalidated => "invalidated",
        Filled::LeaseLost | _ => "lease_lost",
    }
}

pub(crate) fn near_stats(py: Python<'_>, stats: &NearStats) -> PyResult<Py<PyAny>> {
    let fields = [
        ("hits", stats.hits),
        ("misses", stats.misses),
        ("kept", stats.kept),
        ("not_kept", stats.not_kept),
        ("removed", stats.removed),
        ("entries", stats.entries),
        ("weight", stats.weight),
        ("discontinuities", stats.discontinuities),
        ("feeds", stats.feeds),
    ];
    numbers(py, &fields)
}

fn numbers(py: Python<'_>, fields: &[(&str, u64)]) -> PyResult<Py<PyAny>> {
    let dict = PyDict::new(py);
    for (name, value) in fields {
        dict.set_item(name, value)?;
    }
    Ok(dict.into_any().unbind())
}

/// Returns the statistics of a node: numbers since its start.
fn node_stats(py: Python<'_>, node: &str, stats: &GetStatsResponse) -> PyResult<Py<PyAny>> {
    let (reads, l1) = (stats.reads.unwrap_or_default(), stats.l1.unwrap_or_default());
    let loads = stats.loads.unwrap_or_default();
    let reads = numbers(
        py,
        &[
            ("hit_l1", reads.hit_l1),
            ("hit_l2", reads.hit_l2),
            ("stale", reads.stale),
            ("miss", reads.miss),
            ("error", reads.error),
            ("coalesced", reads.coalesced),
        ],
    )?;
    let l1 = numbers(py, &[("entries", l1.entries), ("bytes", l1.bytes), ("capacity_bytes", l1.capacity_bytes)])?;
    let loads = numbers(
        py,
        &[
            ("granted_miss", loads.granted_miss),
            ("granted_stale", loads.granted_stale),
            ("granted_early", loads.granted_early),
            ("granted_forced", loads.granted_forced),
            ("granted_takeover", loads.granted_takeover),
        ],
    )?;
    let uptime = stats.uptime_ms as f64 / 1_000.0;
    dict(
        py,
        [
            ("node", node.into_py_any(py)?),
            ("uptime", uptime.into_py_any(py)?),
            ("reads", reads),
            ("l1", l1),
            ("loads", loads),
        ],
    )
}

/// A value with its metadata. Durations are seconds.
#[pyclass(module = "terrace", frozen, get_all)]
pub(crate) struct Entry {
    value: Py<PyAny>,
    tier: &'static str,
    is_stale: bool,
    expires_in: Option<f64>,
    fresh_for: Option<f64>,
    age: f64,
    tags: Vec<Py<PyBytes>>,
    l1_hits: u64,
}

/// Answer to `get_or_lease`. Durations are seconds.
#[pyclass(module = "terrace", frozen, get_all)]
#[derive(Default)]
pub(crate) struct Lease {
    kind: &'static str,
    value: Option<Py<PyAny>>,
    needs_refresh: bool,
    fresh_for: Option<f64>,
    grant: Option<Py<Grant>>,
    leader_age: Option<f64>,
    expected: Option<f64>,
    ttl: Option<f64>,
    message: Option<String>,
    retry_after: Option<f64>,
}

/// Returns the name of the reason for a grant.
pub(crate) fn reason_name(reason: GrantReason) -> &'static str {
    match reason {
        GrantReason::Miss => "miss",
        GrantReason::Stale => "stale",
        GrantReason::Early => "early",
        GrantReason::Forced => "forced",
        GrantReason::Takeover => "takeover",
        _ => "unspecified",
    }
}

/// Returns the changes of a message of a feed, without heartbeats.
pub(crate) fn changes(message: WatchResponse) -> Vec<(&'static str, Option<Bytes>)> {
    let subject = |event: WatchEvent| match event.subject {
        Some(Subject::Key(key)) => ("key", Some(key)),
        Some(Subject::Pattern(pattern)) => ("pattern", Some(pattern)),
        Some(Subject::Tag(tag)) => ("tag", Some(tag)),
        Some(Subject::Everything(_)) | None => ("everything", None),
    };
    match message.news {
        Some(News::Events(events)) => events.events.into_iter().map(subject).collect(),
        Some(News::Discontinuity(_)) => vec![("discontinuity", None)],
        Some(News::Started(_) | News::Heartbeat(_)) | None => Vec::new(),
    }
}
