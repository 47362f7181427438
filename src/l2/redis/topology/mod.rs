//! The topology: which primaries exist, which hash slots they hold, and the invalidation link to each of them.

pub(crate) mod cluster;
pub(crate) mod control_connections;
pub(crate) mod follow;
pub(crate) mod invalidation_link;
pub(crate) mod map;
pub(crate) mod sentinel;
pub(crate) mod slots;
