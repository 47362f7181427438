//! The in-memory fake for unit tests.

use bytes::Bytes;
use pyo3::{exceptions::PyValueError, prelude::*, types::PyBytes};
use terrace_client::{ErrorKind, testing::Fake as RustFake};

use crate::{
    convert::{Key, Span},
    errors::kind_of,
};

/// An in-memory cache with a manual clock, injected faults and counts.
#[pyclass(module = "terrace._core", frozen, subclass)]
#[derive(Default)]
pub(crate) struct CoreFake(pub(crate) RustFake);

/// Value, remaining TTL in seconds, and tags.
type FakeEntry<'py> = (Bound<'py, PyBytes>, Option<f64>, Vec<Bound<'py, PyBytes>>);

fn kind(name: &str) -> PyResult<ErrorKind> {
    kind_of(name).ok_or_else(|| {
        PyValueError::new_err(format!(
            "unknown kind of error {name:?}; expected the name of an exception of terrace.errors"
        ))
    })
}

fn objects<'py>(py: Python<'py>, keys: &[Bytes]) -> Vec<Bound<'py, PyBytes>> {
    keys.iter().map(|key| PyBytes::new(py, key)).collect()
}

#[pymethods]
impl CoreFake {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Moves the manual clock.
    fn advance(&self, by: Span) {
        self.0.advance(by.0);
    }

    /// Time on the manual clock in seconds since the creation of the fake.
    #[getter]
    fn now(&self) -> f64 {
        self.0.now().as_secs_f64()
    }

    fn _fail(&self, name: &str, message: String) -> PyResult<()> {
        self.0.fail(kind(name)?, message);
        Ok(())
    }

    fn _fail_key(&self, key: Key, name: &str, message: String) -> PyResult<()> {
        self.0.fail_key(key.0, kind(name)?, message);
        Ok(())
    }

    fn _fail_next(&self, count: usize, name: &str) -> PyResult<()> {
        self.0.fail_next(count, kind(name)?);
        Ok(())
    }

    /// Applies the next writes, but reports that their outcome is unknown.
    fn unknown_next(&self, count: usize) {
        self.0.unknown_next(count);
    }

    /// Delays the answer of each operation by a real time.
    fn delay(&self, by: Span) {
        self.0.delay(by.0);
    }

    /// Removes all faults and the delay.
    fn recover(&self) {
        self.0.recover();
    }

    /// Returns the number of loads of a key that ended.
    fn loads(&self, key: Key) -> u64 {
        self.0.loads(key.0)
    }

    /// Number of loads of all keys that ended.
    #[getter]
    fn total_loads(&self) -> u64 {
        self.0.total_loads()
    }

    /// Number of callers that wait for the loads of others.
    #[getter]
    fn waiting(&self) -> usize {
        self.0.waiting()
    }

    /// Returns whether a client holds the load lease of a key.
    fn is_loading(&self, key: Key) -> bool {
        self.0.is_loading(key.0)
    }

    /// Returns the keys, sorted.
    fn keys<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        objects(py, &self.0.keys())
    }

    /// Returns the value, remaining TTL in seconds and tags of a key; `None` if it does not exist.
    fn entry<'py>(&self, py: Python<'py>, key: Key) -> Option<FakeEntry<'py>> {
        let entry = self.0.entry(key.0)?;
        let expires_in = entry.expires_in.map(|span| span.as_secs_f64());
        Some((PyBytes::new(py, &entry.value), expires_in, objects(py, &entry.tags)))
    }

    /// Removes all keys, tags and leases. Counts, faults and the clock remain.
    fn clear(&self) {
        self.0.clear();
    }

    /// Sets all counts to 0.
    fn reset_counts(&self) {
        self.0.reset_counts();
    }
}
