//! Inspection that changes and counts nothing: descriptions, scans, sizes. Also clears both tiers.

use bytes::Bytes;

use super::{
    Cache,
    invalidate::tags::{is_own, names_in, tags_of},
};
use crate::{
    error::Result,
    glob::Glob,
    l1::{Resident, Usage},
    l2::{Described, Flavor, ScanPage, ScanRequest},
    model::Key,
};

/// The state of a key in both tiers.
#[derive(Debug, Clone)]
pub struct KeyInfo {
    /// The entry in L2; an error if L2 was unavailable.
    pub l2: Result<Option<Described>>,
    /// The copy in L1.
    pub resident: Option<Resident>,
}

impl KeyInfo {
    /// Returns the tags of the entry.
    #[must_use]
    pub fn tags(&self) -> Vec<Bytes> {
        match (&self.l2, &self.resident) {
            (Ok(Some(described)), _) => names_in(&described.head),
            (Err(_), Some(resident)) => tags_of(&resident.hit.value),
            (Ok(None), _) | (Err(_), None) => Vec::new(),
        }
    }
}

/// Maximum number of draws of a random key. A key with invalidated tags is drawn again.
const RANDOM_TRIES: usize = 32;

impl Cache {
    /// Describes keys, in order. Without an L2, `l2` describes the entry of L1.
    pub async fn describe(&self, keys: &[Key]) -> Vec<KeyInfo> {
        let mut l2 = self.l2.describe(keys).await;
        let head = |l2: &Result<Option<Described>>| match l2 {
            Ok(Some(described)) => described.head.clone(),
            Ok(None) | Err(_) => Bytes::new(),
        };
        let heads: Vec<Bytes> = l2.iter().map(head).collect();
        for (l2, dead) in l2.iter_mut().zip(self.are_dead(&heads).await) {
            match dead {
                Ok(false) => {}
                Ok(true) => *l2 = Ok(None),
                Err(error) => *l2 = Err(error),
            }
        }
        let infos = keys.iter().zip(l2);
        infos.map(|(key, l2)| KeyInfo { l2, resident: self.resident(key) }).collect()
    }

    /// Returns the copy in L1 that would answer a read.
    #[must_use]
    pub fn resident(&self, key: &[u8]) -> Option<Resident> {
        if is_own(key) {
            return None;
        }
        let now = self.now();
        self.core.resident_with_valid_tags(self.core.l1.peek(key, now)?, now)
    }

    /// Returns one page of the keys of L2, or of L1 without an L2.
    ///
    /// # Errors
    /// Errors of L2.
    pub async fn scan(&self, request: ScanRequest) -> Result<ScanPage> {
        let mut page = self.l2.scan(request).await?;
        page.keys = self.living(page.keys).await?;
        Ok(page)
    }

    /// Returns one page of the keys in L1 of this node.
    #[must_use]
    pub fn scan_resident(&self, cursor: u64, pattern: Option<&Glob>, count: usize) -> ScanPage {
        let mut keys = Vec::new();
        let now = self.now();
        let visit = |key: &[u8], resident: &Resident| {
            let is_wanted = pattern.is_none_or(|pattern| pattern.matches(key));
            if is_wanted && self.core.resident_with_valid_tags(resident.clone(), now).is_some() {
                keys.extend(Key::copied(key));
            }
        };
        let cursor = self.core.l1.scan(cursor, count, now, visit);
        ScanPage { cursor, keys }
    }

    /// Returns the number of keys in L2, or in L1 without an L2.
    ///
    /// # Errors
    /// Errors of L2.
    pub async fn count(&self) -> Result<u64> {
        self.l2.count().await
    }

    /// Returns a random key.
    ///
    /// # Errors
    /// Errors of L2.
    pub async fn random_key(&self) -> Result<Option<Key>> {
        for _ in 0..RANDOM_TRIES {
            let Some(key) = self.l2.random_key().await? else { return Ok(None) };
            if let Some(key) = self.living(vec![key]).await?.pop() {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Returns a random key of L1.
    #[must_use]
    pub fn random_resident(&self) -> Option<Key> {
        self.core.l1.random_key(fastrand::u64(..), self.now())
    }

    /// Returns the current size of L1.
    #[must_use]
    pub fn l1_usage(&self) -> Usage {
        self.core.l1.usage()
    }

    /// Drops one copy from L1 of this node only. Returns whether there was one. If L1 is the store, nothing is dropped.
    #[must_use]
    pub fn drop_resident(&self, key: &[u8]) -> bool {
        self.core.flavor != Flavor::None && self.core.l1.invalidate(key)
    }

    /// Empties L1 of this node only. If L1 is the store, nothing is dropped.
    pub fn clear_resident(&self) {
        if self.core.flavor != Flavor::None {
            self.core.l1.clear();
        }
    }

    /// Removes every key from both tiers.
    ///
    /// # Errors
    /// Errors of L2. L1 is empty even if L2 fails.
    pub async fn clear(&self) -> Result<()> {
        self.clear_resident();
        let cleared = self.l2.clear().await;
        // Clears L1 again, because reads may have filled copies of the previous values in the meantime.
        self.clear_resident();
        cleared
    }

    /// Returns whether L1 may answer now, and the reason if Redis is refused although it answers.
    #[must_use]
    pub fn l1_availability(&self) -> (bool, Option<String>) {
        (self.core.fence.is_valid(self.now()), self.core.fence.refused())
    }

    /// Returns whether L2 has been reached since start. Until then, no read can be answered.
    #[must_use]
    pub fn l2_reached(&self) -> bool {
        self.l2.reached()
    }
}
