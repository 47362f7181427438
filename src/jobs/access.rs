//! Follows the users file, and ends the access of users that are removed, changed or expired.

use std::sync::Arc;

use super::ticks;
use crate::access::{Access, FILE_CHECK_INTERVAL};

/// Runs until dropped. Calls `changed` after each change of permissions.
pub async fn run(access: Arc<Access>, changed: impl Fn()) {
    let mut every = ticks(FILE_CHECK_INTERVAL);
    let mut changes = access.changes();
    let mut checked_ms = access.end_expired(u64::MAX);
    loop {
        tokio::select! {
            _ = every.tick() => {
                checked_ms = access.end_expired(checked_ms);
                let access = Arc::clone(&access);
                // Reading a file may block.
                let followed = tokio::task::spawn_blocking(move || access.follow_file()).await;
                if let Err(error) = followed {
                    tracing::error!(%error, "cannot check the users file");
                }
            }
            // The sender lives as long as `access`.
            _ended = changes.changed() => changed(),
        }
    }
}
