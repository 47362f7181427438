//! Encodes operations as Redis commands, and decodes replies and errors.

pub(crate) mod batch;
pub(crate) mod errors;
pub(crate) mod load_scripts;
pub(crate) mod ops;
pub(crate) mod read;
pub(crate) mod scripts;
