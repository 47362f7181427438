//! Commands and replies of Redis: how operations are written, how replies and errors are read.

pub(crate) mod batch;
pub(crate) mod errors;
pub(crate) mod ops;
pub(crate) mod read;
pub(crate) mod scripts;
