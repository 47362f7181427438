//! L2 backends without a server around them: keys, limits, and the embedded store.

use std::{path::Path, sync::Arc, time::Duration};

use terrace::{
    clock::Clock,
    l2::{
        Ban, ChangeSink, Deadlines, Source, Tunables,
        embedded::{Embedded, EmbeddedSettings, OpenError},
    },
    model::Key,
};

/// Maximum value size in bytes of [`tunables`].
pub const VALUE_MAX: u64 = 1 << 20;

/// Deadlines that only a hang exceeds, and a value limit of [`VALUE_MAX`].
pub fn tunables() -> Arc<Tunables> {
    let patience = Duration::from_secs(20);
    Tunables::new(Deadlines { read: patience, write: patience }, VALUE_MAX)
}

/// The key `name`, which must be valid.
pub fn key(name: &str) -> Key {
    Key::copied(name.as_bytes()).expect("a valid key")
}

/// A change sink that ignores all notifications.
pub struct Deaf;

impl ChangeSink for Deaf {
    fn invalidated(&self, _key: &[u8]) {}
    fn flushed(&self, _source: Source) {}
    fn banned(&self, _ban: &Arc<Ban>) {}
}

/// Opens the embedded store in `dir` with its default settings.
pub fn open_embedded(dir: &Path, clock: Clock) -> Result<Arc<Embedded>, OpenError> {
    Embedded::open(EmbeddedSettings::new(dir), clock, tunables(), Arc::new(Deaf))
}
