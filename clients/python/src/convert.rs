//! Arguments from Python: keys, values, tags, durations, sizes.

use std::{str::FromStr, time::Duration};

use bytes::Bytes;
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    intern,
    prelude::*,
    types::{PyBool, PyByteArray, PyBytes, PyFloat, PyInt, PyMemoryView, PyString},
};

/// Returns the name of a value's type, for messages.
fn type_of(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string())
}

/// Calls a function with the bytes of text or of a bytes object, without a copy.
pub(crate) fn with_bytes<T>(value: &Bound<'_, PyAny>, what: &str, use_bytes: impl FnOnce(&[u8]) -> T) -> PyResult<T> {
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(use_bytes(text.to_str()?.as_bytes()));
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(use_bytes(bytes.as_bytes()));
    }
    if value.is_instance_of::<PyByteArray>() || value.is_instance_of::<PyMemoryView>() {
        let copied = value.py().get_type::<PyBytes>().call1((value,))?;
        return Ok(use_bytes(copied.cast::<PyBytes>()?.as_bytes()));
    }
    Err(PyTypeError::new_err(format!("{what} is {}; expected str or bytes", type_of(value))))
}

/// Returns the bytes of text (as UTF-8) or of a bytes object.
pub(crate) fn bytes(value: &Bound<'_, PyAny>, what: &str) -> PyResult<Bytes> {
    with_bytes(value, what, Bytes::copy_from_slice)
}

/// A key.
pub(crate) struct Key(pub(crate) Bytes);

impl<'py> FromPyObject<'_, 'py> for Key {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        bytes(&value, "the key").map(Self)
    }
}

/// A list of keys, tags or prefixes.
pub(crate) struct Names(pub(crate) Vec<Bytes>);

impl<'py> FromPyObject<'_, 'py> for Names {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>() {
            let text = format!("a list of str or bytes is required, not one {}", type_of(&value));
            return Err(PyTypeError::new_err(text));
        }
        value.try_iter()?.map(|item| bytes(&item?, "an item of the list")).collect::<PyResult<_>>().map(Self)
    }
}

/// A duration: a number of seconds, a `timedelta`, or a text such as `5m`.
#[derive(Clone, Copy)]
pub(crate) struct Span(pub(crate) Duration);

impl<'py> FromPyObject<'_, 'py> for Span {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let py = value.py();
        if let Ok(text) = value.cast::<PyString>() {
            return parse_span(text.to_str()?).map(Self);
        }
        let is_number = value.is_instance_of::<PyInt>() || value.is_instance_of::<PyFloat>();
        let seconds: f64 = if is_number && !value.is_instance_of::<PyBool>() {
            value.extract()?
        } else if let Ok(seconds) = value.call_method0(intern!(py, "total_seconds")) {
            seconds.extract()?
        } else {
            let text =
                format!("a duration is {}; expected seconds, a timedelta or a text such as \"5m\"", type_of(&value));
            return Err(PyTypeError::new_err(text));
        };
        Duration::try_from_secs_f64(seconds).map(Self).map_err(|_out_of_range| {
            PyValueError::new_err(format!("a duration is {seconds} s; expected 0 or more seconds"))
        })
    }
}

fn parse_span(text: &str) -> PyResult<Duration> {
    humantime::parse_duration(text).map_err(|error| {
        PyValueError::new_err(format!("invalid duration {text:?}: {error}; expected a text such as \"30s\" or \"5m\""))
    })
}

/// A number of bytes: an integer, or a text such as `64MiB`.
#[derive(Clone, Copy)]
pub(crate) struct Size(pub(crate) u64);

impl<'py> FromPyObject<'_, 'py> for Size {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = value.cast::<PyString>() {
            let text = text.to_str()?;
            return bytesize::ByteSize::from_str(text).map(|size| Self(size.0)).map_err(|error| {
                PyValueError::new_err(format!("invalid size {text:?}: {error}; expected a text such as \"64MiB\""))
            });
        }
        value.extract().map(Self)
    }
}
