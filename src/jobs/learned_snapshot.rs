//! Saves the learned state of prefetch to the data directory, so that the next process predicts from its first request.
//!
//! The state is saved every `learn.snapshot_every` and while the server drains, block by block: the learner continues
//! meanwhile, and the file is never in memory as a whole. It is loaded before the first request is accepted. An
//! unusable file is set aside, and a failed save is logged; the server continues in both cases.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::task::spawn_blocking;

use super::periodic_save;
use crate::{
    cache::{
        Core, Flavor,
        prefetch::{FORM, SnapshotFiles},
    },
    clock::stopwatch_ns,
    persist::file::{self, Loaded},
};

/// Name of the file in the data directory.
pub(super) const NAME: &str = "learned";

/// Saves and restores the learned state of one server.
pub struct LearnedSnapshot {
    core: Arc<Core>,
    folder: PathBuf,
    /// Interval between saves; zero disables saving.
    every: Duration,
}

impl LearnedSnapshot {
    /// Creates the job for a server. `every` is the interval between saves. Zero disables saving and restoring.
    #[must_use]
    pub fn new(core: Arc<Core>, folder: PathBuf, every: Duration) -> Self {
        Self { core, folder, every }
    }

    /// Returns whether the job is disabled. Without an L2, nothing is prefetched or learned.
    fn is_off(&self) -> bool {
        self.every.is_zero() || self.core.flavor() == Flavor::None
    }

    /// Restores the learned state of the previous process. Blocks on file I/O: call it before the server accepts
    /// requests.
    pub fn restore(&self) {
        if self.is_off() {
            return;
        }
        let begun_ns = stopwatch_ns();
        let (mut learner, mut bytes) = (self.core.new_learner(), 0);
        let loaded = file::load(&self.folder, NAME, |file| {
            FORM.read(file, self.core.learned_max_bytes(), |block| {
                bytes += block.len() as u64;
                learner.restore_block(block)
            })
        });
        match loaded {
            Ok(Loaded::None) => {}
            Ok(Loaded::Kept(())) => {
                let (keys, took_ms) = (learner.keys(), (stopwatch_ns() - begun_ns) / 1_000_000);
                self.core.set_learner(learner);
                self.core.note_learned(|files| *files = SnapshotFiles { loaded: files.loaded + 1, bytes, ..*files });
                tracing::info!(keys, bytes, took_ms, "restored learned state from disk");
            }
            Ok(Loaded::Damaged(why, aside)) => {
                self.core.note_learned(|files| files.set_aside += 1);
                tracing::warn!(
                    why,
                    aside = %aside.display(),
                    "learned state on disk is unusable and was set aside; learning starts from scratch"
                );
            }
            Err(error) => {
                self.core.note_learned(|files| files.failed += 1);
                tracing::warn!(%error, "could not read learned state from disk; learning starts from scratch");
            }
        }
    }

    /// Saves periodically, until the future is dropped.
    pub async fn run(&self) {
        if self.is_off() {
            return;
        }
        periodic_save::save_every(self.every, || self.save()).await;
    }

    /// Saves for the last time.
    pub async fn finish(&self) {
        if !self.is_off() && !periodic_save::save_last(self.save()).await {
            tracing::warn!("abandoned writing learned state: it took too long");
        }
    }

    async fn save(&self) {
        // An empty state must not replace the state of a previous process.
        if self.core.prefetch().keys == 0 {
            return;
        }
        let (core, folder) = (Arc::clone(&self.core), self.folder.clone());
        let saved = spawn_blocking(move || {
            let mut cursor = Default::default();
            file::save(&folder, NAME, |file| FORM.write(file, || core.keep_learned(&mut cursor)))
        });
        match saved.await.map_err(io::Error::other).flatten() {
            Ok(bytes) => {
                self.core.note_learned(|files| *files = SnapshotFiles { written: files.written + 1, bytes, ..*files });
                tracing::debug!(bytes, "wrote learned state");
            }
            Err(error) => {
                self.core.note_learned(|files| files.failed += 1);
                tracing::warn!(%error, "could not write learned state; the next start may learn from scratch");
            }
        }
    }
}
