//! Keeps what was learned for prefetch in the data directory, so that the next life predicts from its first request on.
//!
//! Written every `learn.snapshot_every` and beside the drain, block by block: the learner goes on meanwhile, and the file is
//! never in memory as a whole. Read before the first request is taken. A file that cannot be used is set aside, one that
//! cannot be written is told of; the server serves all the same.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    cache::{
        Core, Flavor,
        ahead::{FORM, Files},
    },
    clock::stopwatch_ns,
    kept::{self, Loaded},
};

/// Its name in the data directory.
const NAME: &str = "learned";
/// The last file may take so long: it holds up the end of the process.
const LAST_SAVE_MAX: Duration = Duration::from_secs(5);

/// Keeps what one server has learned.
pub struct Learned {
    core: Arc<Core>,
    folder: PathBuf,
    /// Zero: never.
    every: Duration,
}

impl Learned {
    /// Of this server, in this folder, written every so often; zero: never, nor read.
    #[must_use]
    pub fn new(core: Arc<Core>, folder: PathBuf, every: Duration) -> Self {
        Self { core, folder, every }
    }

    /// Without an L2 nothing is fetched, and nothing is learned.
    fn is_off(&self) -> bool {
        self.every.is_zero() || self.core.flavor() == Flavor::None
    }

    /// Takes back what the former life has learned. Reads a file: for use before the work begins.
    pub fn restore(&self) {
        if self.is_off() {
            return;
        }
        let begun_ns = stopwatch_ns();
        let (mut learner, mut bytes) = (self.core.new_learner(), 0);
        let loaded = kept::load(&self.folder, NAME, |file| {
            FORM.read(file, self.core.learned_max_bytes(), |block| {
                bytes += block.len() as u64;
                learner.take(block)
            })
        });
        match loaded {
            Ok(Loaded::None) => {}
            Ok(Loaded::Kept(())) => {
                let (keys, took_ms) = (learner.keys(), (stopwatch_ns() - begun_ns) / 1_000_000);
                self.core.set_learner(learner);
                self.core.note_learned(|files| *files = Files { loaded: files.loaded + 1, bytes, ..*files });
                tracing::info!(keys, bytes, took_ms, "what was learned is taken back");
            }
            Ok(Loaded::Damaged(why, aside)) => {
                self.core.note_learned(|files| files.set_aside += 1);
                tracing::warn!(why, aside = %aside.display(), "what was learned cannot be used and is set aside; learning begins anew");
            }
            Err(error) => {
                self.core.note_learned(|files| files.failed += 1);
                tracing::warn!(%error, "what was learned cannot be read; learning begins anew");
            }
        }
    }

    /// Writes now and then, until it is dropped.
    pub async fn run(&self) {
        if self.is_off() {
            return;
        }
        let mut ticks = super::ticks(self.every);
        // At once: nothing is to be written yet.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.save().await;
        }
    }

    /// The last file of this life.
    pub async fn finish(&self) {
        if !self.is_off() && timeout(LAST_SAVE_MAX, self.save()).await.is_err() {
            tracing::warn!("what was learned is not written: it takes too long");
        }
    }

    async fn save(&self) {
        // Who has seen nothing does not replace what another life knew.
        if self.core.prefetch().keys == 0 {
            return;
        }
        let (core, folder) = (Arc::clone(&self.core), self.folder.clone());
        let saved = spawn_blocking(move || {
            let mut cursor = Default::default();
            kept::save(&folder, NAME, |file| FORM.write(file, || core.keep_learned(&mut cursor)))
        });
        match saved.await.map_err(io::Error::other).flatten() {
            Ok(bytes) => {
                self.core.note_learned(|files| *files = Files { written: files.written + 1, bytes, ..*files });
                tracing::debug!(bytes, "what was learned is written");
            }
            Err(error) => {
                self.core.note_learned(|files| files.failed += 1);
                tracing::warn!(%error, "what was learned cannot be written; the next start may begin anew");
            }
        }
    }
}
