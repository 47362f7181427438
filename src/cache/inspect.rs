//! Inspection that changes and counts nothing: descriptions, scans, sizes. Also clears both tiers.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Cache, Core,
    invalidate::tags::{is_own, names_in, tags_of},
};
use crate::{
    access::Verbs,
    clock::stopwatch_ns,
    error::{CacheError, Kind, Result},
    glob::Glob,
    l1::{Resident, Usage},
    l2::{Described, Flavor, ScanPage, ScanRequest, scan::PAGE_TIME_MAX},
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
/// Number of keys per page of the scan for a random key.
const RANDOM_PAGE: usize = 2_000;
/// Maximum time of the scan for a random key: enough for several million records.
const RANDOM_SCAN_MAX: Duration = Duration::from_secs(5);

/// Number of slots of L1 that a scan visits between two readings of the clock.
const SCAN_STEP: usize = 64;

impl Core {
    /// Visits about `count` entries of L1 and returns the cursor of the next page. Stops early after [`PAGE_TIME_MAX`],
    /// because a page never waits and its callers compare each key with a pattern.
    pub(super) fn scan_l1(&self, mut cursor: u64, count: usize, mut visit: impl FnMut(&[u8], &Resident)) -> u64 {
        let (begun, now) = (stopwatch_ns(), self.clock.now());
        let mut left = count.max(1);
        loop {
            let step = left.min(SCAN_STEP);
            cursor = self.l1.scan(cursor, step, now, &mut visit);
            left -= step;
            if cursor == 0 || left == 0 || stopwatch_ns() - begun > PAGE_TIME_MAX.as_nanos() as u64 {
                return cursor;
            }
        }
    }
}

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
        let describe = |(key, l2): (&Key, _)| match self.principal.sees(key) {
            true => KeyInfo { l2, resident: self.resident(key) },
            false => KeyInfo { l2: Err(self.principal.denied(Verbs::READ)), resident: None },
        };
        infos.map(describe).collect()
    }

    /// Returns the copy in L1 that would answer a read.
    #[must_use]
    pub fn resident(&self, key: &[u8]) -> Option<Resident> {
        if is_own(key) || !self.principal.sees(key) {
            return None;
        }
        let now = self.now();
        self.core.resident_with_valid_tags(self.core.l1.peek(key, now)?, now)
    }

    /// Returns one page of the keys of L2, or of L1 without an L2, that the client may know about.
    ///
    /// # Errors
    /// Errors of L2.
    pub async fn scan(&self, request: ScanRequest) -> Result<ScanPage> {
        let mut page = self.l2.scan(request).await?;
        page.keys.retain(|key| self.principal.sees(key));
        page.keys = self.living(page.keys).await?;
        Ok(page)
    }

    /// Returns one page of the keys in L1 of this node.
    #[must_use]
    pub fn scan_resident(&self, cursor: u64, pattern: Option<&Glob>, count: usize) -> ScanPage {
        let mut keys = Vec::new();
        let now = self.now();
        let visit = |key: &[u8], resident: &Resident| {
            let is_wanted = self.principal.sees(key) && pattern.is_none_or(|pattern| pattern.matches(key));
            if is_wanted && self.core.resident_with_valid_tags(resident.clone(), now).is_some() {
                keys.extend(Key::copied(key));
            }
        };
        let cursor = self.core.scan_l1(cursor, count, visit);
        ScanPage { cursor, keys }
    }

    /// Returns the number of keys in L1 of this node; 0 for a client that may not know about all keys.
    #[must_use]
    pub fn count_resident(&self) -> u64 {
        if !self.principal.sees_all() {
            return 0;
        }
        self.core.l1.shown_entries()
    }

    /// Returns the number of keys in L1 of this node that expire; 0 for a client that may not know about all keys.
    #[must_use]
    pub fn count_expiring(&self) -> u64 {
        if self.principal.sees_all() { self.core.l1.expiring_entries() } else { 0 }
    }

    /// Returns the number of keys in L2, or in L1 without an L2, without Terrace's own records; 0 for a client that
    /// may not know about all keys.
    ///
    /// # Errors
    /// Errors of L2.
    pub async fn count(&self) -> Result<u64> {
        if !self.principal.sees_all() {
            return Ok(0);
        }
        self.l2.count().await
    }

    /// Returns a random key that the client may know about. There is one whenever a key exists: if the draws find only Terrace's own records and entries
    /// with invalid tags, a scan follows, and its first page with a key determines the result.
    ///
    /// # Errors
    /// Errors of L2; `DeadlineExceeded` if the scan takes longer than [`RANDOM_SCAN_MAX`].
    pub async fn random_key(&self) -> Result<Option<Key>> {
        let tries = if self.principal.sees_all() { RANDOM_TRIES } else { 0 };
        for _ in 0..tries {
            let Some(key) = self.l2.random_key().await? else { break };
            if let Some(key) = self.living(vec![key]).await?.pop() {
                return Ok(Some(key));
            }
        }
        let begun = stopwatch_ns();
        let mut request = ScanRequest { cursor: 0, pattern: None, count: RANDOM_PAGE, type_name: None };
        loop {
            let mut page = self.scan(request.clone()).await?;
            if !page.keys.is_empty() {
                let at = fastrand::usize(..page.keys.len());
                return Ok(Some(page.keys.swap_remove(at)));
            }
            request.cursor = page.cursor;
            if page.cursor == 0 {
                return Ok(None);
            }
            if stopwatch_ns() - begun > RANDOM_SCAN_MAX.as_nanos() as u64 {
                let message = format!("found no key among the first records within {RANDOM_SCAN_MAX:?}");
                return Err(CacheError::new(Kind::DeadlineExceeded, message));
            }
            // A scan of L1 never waits.
            tokio::task::yield_now().await;
        }
    }

    /// Returns a random key of L1 that the client may know about. A client that may not know about all keys receives one of
    /// the first keys.
    #[must_use]
    pub fn random_resident(&self) -> Option<Key> {
        if !self.principal.sees_all() {
            return self.scan_resident(0, None, RANDOM_PAGE).keys.pop();
        }
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
        self.core.flavor != Flavor::None && self.principal.may(Verbs::DELETE, key) && self.core.l1.invalidate(key)
    }

    /// Empties L1 of this node only. If L1 is the store, nothing is dropped. The caller checks the permission.
    pub fn clear_resident(&self) {
        if self.core.flavor != Flavor::None {
            self.core.l1.clear();
        }
    }

    /// Removes every key from both tiers.
    ///
    /// # Errors
    /// `Denied` without the permission to administrate; errors of L2. L1 is empty even if L2 fails.
    pub async fn clear(&self) -> Result<()> {
        self.principal.check_everywhere(Verbs::ADMIN)?;
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
