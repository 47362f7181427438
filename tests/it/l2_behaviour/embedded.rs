//! The embedded store as a subject of the behaviour suite, and as other tests open it.

use std::{path::Path, sync::Arc};

use terrace::{
    clock::Clock,
    l2::{
        Ban, ChangeSink, Source,
        embedded::{Embedded, OpenError, Settings},
    },
};

use super::{Subject, Time, tunables};

/// Hears nothing.
pub(crate) struct Deaf;

impl ChangeSink for Deaf {
    fn invalidated(&self, _key: &[u8]) {}
    fn flushed(&self, _source: Source) {}
    fn banned(&self, _ban: &Arc<Ban>) {}
}

/// Opens the store in `dir` with its defaults.
pub(crate) fn open(dir: &Path, clock: Clock) -> Result<Arc<Embedded>, OpenError> {
    Embedded::open(Settings::new(dir), clock, tunables(), Arc::new(Deaf))
}

/// An empty store whose time is moved by hand.
pub(crate) async fn start() -> Subject {
    let dir = tempfile::tempdir().expect("a directory");
    let (clock, manual) = Clock::manual();
    let store = open(dir.path(), clock).expect("a store");
    Subject::new(store, Time::Manual(manual), dir)
}
