//! The nodes of a fleet: which node serves a key.

pub mod routing;
