//! The test gear itself: what the other tests rely on has to be true.

mod checker;
mod cluster;
mod proxy;
mod sentinel;
