//! Cleans up the data directory at start.

use std::path::Path;

use super::learned_snapshot;
use crate::persist::{file, hot_keys};

/// Removes the partial files that processes killed during a save left in the data directory.
pub fn clean_up(folder: &Path) {
    let names = [learned_snapshot::NAME, hot_keys::NAME];
    let removed: usize = names.iter().map(|name| file::remove_partial(folder, name)).sum();
    if removed > 0 {
        tracing::info!(removed, "removed partial files of processes that were killed during a save");
    }
}
