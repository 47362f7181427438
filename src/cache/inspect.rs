//! Looks that change and count nothing: descriptions, scans, sizes; and the clearing of everything.

use bytes::Bytes;

use super::{
    Cache,
    tags::{is_own, names_in, tags_of},
};
use crate::{
    error::Result,
    glob::Glob,
    l1::{Resident, Usage},
    l2::{Described, Flavor, ScanPage, ScanRequest},
    model::Key,
};

/// What is known of a key in both tiers.
#[derive(Debug, Clone)]
pub struct KeyInfo {
    /// What L2 says; an error when it could not be asked.
    pub below: Result<Option<Described>>,
    /// The copy in L1.
    pub resident: Option<Resident>,
}

impl KeyInfo {
    /// The tags of the entry.
    #[must_use]
    pub fn tags(&self) -> Vec<Bytes> {
        match (&self.below, &self.resident) {
            (Ok(Some(described)), _) => names_in(&described.head),
            (Err(_), Some(resident)) => tags_of(&resident.hit.value),
            (Ok(None), _) | (Err(_), None) => Vec::new(),
        }
    }
}

/// A key drawn at random may be one whose tags were invalidated: then another is drawn, this often at most.
const RANDOM_TRIES: usize = 32;

impl Cache {
    /// Describes keys, in order. Where there is no L2, `below` tells of L1.
    pub async fn describe(&self, keys: &[Key]) -> Vec<KeyInfo> {
        let mut below = self.l2.describe(keys).await;
        let head = |below: &Result<Option<Described>>| match below {
            Ok(Some(described)) => described.head.clone(),
            Ok(None) | Err(_) => Bytes::new(),
        };
        let heads: Vec<Bytes> = below.iter().map(head).collect();
        for (below, dead) in below.iter_mut().zip(self.are_dead(&heads).await) {
            match dead {
                Ok(false) => {}
                Ok(true) => *below = Ok(None),
                Err(error) => *below = Err(error),
            }
        }
        let infos = keys.iter().zip(below);
        infos.map(|(key, below)| KeyInfo { below, resident: self.resident(key) }).collect()
    }

    /// The copy in L1 that a read would be answered with.
    #[must_use]
    pub fn resident(&self, key: &[u8]) -> Option<Resident> {
        if is_own(key) {
            return None;
        }
        let now = self.now();
        self.core.opened_resident(self.core.l1.peek(key, now)?, now)
    }

    /// One page of the logical keys: those of L2, or of L1 where there is no L2.
    ///
    /// # Errors
    /// Those of L2.
    pub async fn scan(&self, request: ScanRequest) -> Result<ScanPage> {
        let mut page = self.l2.scan(request).await?;
        page.keys = self.living(page.keys).await?;
        Ok(page)
    }

    /// One page of the keys that are in this node's L1.
    #[must_use]
    pub fn scan_resident(&self, cursor: u64, pattern: Option<&Glob>, count: usize) -> ScanPage {
        let mut keys = Vec::new();
        let now = self.now();
        let visit = |key: &[u8], resident: &Resident| {
            let is_wanted = pattern.is_none_or(|pattern| pattern.matches(key));
            if is_wanted && self.core.opened_resident(resident.clone(), now).is_some() {
                keys.extend(Key::copied(key));
            }
        };
        let cursor = self.core.l1.scan(cursor, count, now, visit);
        ScanPage { cursor, keys }
    }

    /// How many keys L2 has (L1 where there is no L2).
    ///
    /// # Errors
    /// Those of L2.
    pub async fn count(&self) -> Result<u64> {
        self.l2.count().await
    }

    /// Any key.
    ///
    /// # Errors
    /// Those of L2.
    pub async fn random_key(&self) -> Result<Option<Key>> {
        for _ in 0..RANDOM_TRIES {
            let Some(key) = self.l2.random_key().await? else { return Ok(None) };
            if let Some(key) = self.living(vec![key]).await?.pop() {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Any key that is in L1.
    #[must_use]
    pub fn random_resident(&self) -> Option<Key> {
        self.core.l1.random_key(fastrand::u64(..), self.now())
    }

    /// Size of L1 now.
    #[must_use]
    pub fn l1_usage(&self) -> Usage {
        self.core.l1.usage()
    }

    /// Drops one copy from this node's L1 only; says whether there was one. Where L1 is the store, nothing is dropped.
    #[must_use]
    pub fn drop_resident(&self, key: &[u8]) -> bool {
        self.core.flavor != Flavor::None && self.core.l1.invalidate(key)
    }

    /// Empties this node's L1 only. Where L1 is the store, nothing is dropped.
    pub fn clear_resident(&self) {
        if self.core.flavor != Flavor::None {
            self.core.l1.clear();
        }
    }

    /// Removes every key from both tiers.
    ///
    /// # Errors
    /// Those of L2; L1 is empty all the same.
    pub async fn clear(&self) -> Result<()> {
        self.clear_resident();
        let cleared = self.l2.clear().await;
        // Again, for what was filled meanwhile from what was there before.
        self.clear_resident();
        cleared
    }

    /// Whether L1 may answer now, and if not although Redis answers, why.
    #[must_use]
    pub fn l1_open(&self) -> (bool, Option<String>) {
        (self.core.gate.open(self.now()), self.core.gate.refused())
    }

    /// Whether reads can be answered at all: L2 has been reached once since start.
    #[must_use]
    pub fn l2_reached(&self) -> bool {
        self.l2.reached()
    }
}
