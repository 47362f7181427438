//! The embedded store as a subject of the behavior suite.

use terrace::clock::Clock;

use super::{Subject, Time};
use crate::support::backend::open_embedded;

/// An empty store with a manual clock.
pub(crate) async fn start() -> Subject {
    let dir = tempfile::tempdir().expect("a directory");
    let (clock, manual) = Clock::manual();
    let store = open_embedded(dir.path(), clock).expect("a store");
    Subject::new(store, Time::Manual(manual), dir)
}
