//! Exceptions. Their classes are in `terrace/errors.py`.

use std::{error::Error as StdError, fmt, sync::Arc};

use pyo3::{prelude::*, sync::PyOnceLock};
use terrace_client::{Error, ErrorKind, bindings::ForeignError};

/// Returns the name of the class for a kind of errors.
fn class_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unavailable => "Unavailable",
        ErrorKind::DeadlineExceeded => "DeadlineExceeded",
        ErrorKind::ResourceExhausted => "ResourceExhausted",
        ErrorKind::InvalidArgument => "InvalidArgument",
        ErrorKind::FailedPrecondition => "FailedPrecondition",
        ErrorKind::PermissionDenied => "PermissionDenied",
        ErrorKind::Unauthenticated => "Unauthenticated",
        ErrorKind::Unimplemented => "Unimplemented",
        ErrorKind::OutcomeUnknown => "OutcomeUnknown",
        ErrorKind::LoadFailed => "LoadFailed",
        ErrorKind::Internal | _ => "Internal",
    }
}

/// All kinds of errors.
const KINDS: [ErrorKind; 11] = [
    ErrorKind::Unavailable,
    ErrorKind::DeadlineExceeded,
    ErrorKind::ResourceExhausted,
    ErrorKind::InvalidArgument,
    ErrorKind::FailedPrecondition,
    ErrorKind::PermissionDenied,
    ErrorKind::Unauthenticated,
    ErrorKind::Unimplemented,
    ErrorKind::OutcomeUnknown,
    ErrorKind::LoadFailed,
    ErrorKind::Internal,
];

/// Returns the kind of errors of a class name.
pub(crate) fn kind_of(name: &str) -> Option<ErrorKind> {
    KINDS.into_iter().find(|kind| class_name(*kind) == name)
}

fn module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    Ok(MODULE.get_or_try_init(py, || py.import("terrace.errors").map(Bound::unbind))?.bind(py))
}

/// Returns the exception for an error. The exception of a loader is raised as it is.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    if let Some(raised) = error.source().and_then(|source| source.downcast_ref::<Raised>()) {
        return raised.exception.clone_ref(py);
    }
    create(py, class_name(error.kind()), error.message(), error.retry_after().map(|delay| delay.as_secs_f64()))
        .unwrap_or_else(|failed| failed)
}

fn create(py: Python<'_>, class: &str, message: &str, retry_after: Option<f64>) -> PyResult<PyErr> {
    Ok(PyErr::from_value(module(py)?.getattr(class)?.call1((message, retry_after))?))
}

/// Returns an exception of `terrace.errors`.
pub(crate) fn named(py: Python<'_>, class: &str, message: &str) -> PyErr {
    create(py, class, message, None).unwrap_or_else(|failed| failed)
}

/// Returns an invalid-argument exception.
pub(crate) fn invalid(py: Python<'_>, message: &str) -> PyErr {
    named(py, class_name(ErrorKind::InvalidArgument), message)
}

/// An exception that a loader raised.
pub(crate) struct Raised {
    exception: PyErr,
    text: String,
}

impl Raised {
    /// Returns the failure of a load.
    pub(crate) fn foreign(py: Python<'_>, exception: PyErr) -> ForeignError {
        let type_name =
            exception.get_type(py).fully_qualified_name().map_or_else(|_| "Exception".into(), |name| name.to_string());
        let text = exception.value(py).str().map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned());
        ForeignError { type_name: type_name.into(), cause: Arc::new(Self { exception, text }) }
    }
}

impl fmt::Debug for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Raised")
    }
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Raised {}

/// The loader ended without a result: its event loop or the interpreter has ended.
#[derive(Debug)]
pub(crate) struct Abandoned;

impl Abandoned {
    pub(crate) fn foreign() -> ForeignError {
        ForeignError { type_name: "abandoned".into(), cause: Arc::new(Self) }
    }
}

impl fmt::Display for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the loader ended without a result, because its event loop was closed")
    }
}

impl StdError for Abandoned {}
