//! Client of the Terrace cache server.

pub mod nodes;
