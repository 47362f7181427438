//! Tags: an entry is valid while each of its tags has the id that the entry was written under.
//!
//! The id of a tag is an internal record, `__terrace:tag:<name>`: a random number that the first Set with the tag
//! stores. The record has a TTL that later Sets renew. An entry keeps the ids in its header. A reader compares them
//! with the current ids, which are cached in L1 like any value, with the same coherence. An absent or different id is a
//! miss. [`Cache::invalidate_tags`] deletes the records, so ten thousand invalidations leave nothing behind. No clock
//! is involved. A record that expires, is evicted or is deleted manually only causes misses: a deleted id never
//! returns, because the next id is another random number.
//!
//! A Set that races an invalidation may store its entry under the deleted id. The entry is then a miss from the start.
//! The opposite cannot happen, because an entry is stored after its ids were read.
//!
//! **Reads** check tags wherever an entry is returned: answers of L2 in `Cache::ask`, copies in L1 at each hit
//! (`Core::has_valid_tags`). A copy is a hit only if all its tags are in L1 with matching ids; otherwise L2 decides.
//!
//! **Writes** other than a plain Set depend on the present entry, so entries with invalid tags are removed first
//! ([`Cache::bury_dead`]). That requires a lookup, which only deployments with tags pay for. A record,
//! `__terrace:tagged`, stores that tags are in use. Every node reads it once its invalidation link is up, and is
//! notified when it is created.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use smallvec::SmallVec;

use super::events::ChangeEvent;
use crate::{
    access::Verbs,
    cache::{
        Batch, Cache, Core, Read,
        flight::Answer,
        op::{Condition, ExpireOnly, NewExpiry, SetExpiry},
        store_id,
    },
    clock::{Tick, millis},
    error::{CacheError, Kind, Result},
    l1::{Hit, Resident},
    l2::{
        Applied, FENCE_SPAN, Flavor, Op,
        codec::{self, Tag},
    },
    model::{Key, Life, RESERVED_PREFIX, Value},
};

/// Maximum number of tags of an entry.
pub const TAGS_MAX: usize = 16;
/// Maximum size of a tag name in bytes.
pub const TAG_MAX_BYTES: usize = 128;
/// TTL of a tag id in L2. Each `Set` with the tag renews the TTL.
const ID_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// Prefix of the records of tag ids, after the reserved prefix.
const ID_PREFIX: &[u8] = b"tag:";
/// Name of the record that marks tags as in use, after the reserved prefix.
const USED: &[u8] = b"tagged";
/// Full key of that record.
const USED_KEY: &[u8] = b"__terrace:tagged";

/// Tags of an entry to be written: validated, sorted, without duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagNames(Vec<Bytes>);

impl TagNames {
    /// Validates, sorts and deduplicates tag names.
    ///
    /// # Errors
    /// `InvalidArgument` for too many tags, and for an empty or too long name.
    pub fn new(mut names: Vec<Bytes>) -> Result<Self> {
        names.sort_unstable();
        names.dedup();
        if names.len() > TAGS_MAX {
            let message = format!("the request has {} tags; an entry has at most {TAGS_MAX}", names.len());
            return Err(CacheError::new(Kind::InvalidArgument, message));
        }
        names.iter().try_for_each(|name| check_tag(name))?;
        Ok(Self(names))
    }

    /// Returns the names, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.0.iter()
    }

    /// Returns whether there are no tags.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Validates the name of a tag.
///
/// # Errors
/// `InvalidArgument`.
pub fn check_tag(name: &[u8]) -> Result<()> {
    if (1..=TAG_MAX_BYTES).contains(&name.len()) {
        return Ok(());
    }
    let message = format!("a tag name has {} bytes; a tag name has 1 to {TAG_MAX_BYTES} bytes", name.len());
    Err(CacheError::new(Kind::InvalidArgument, message))
}

/// Returns whether a key is an internal record. L1 may hold such records, but clients must not see them.
#[inline]
pub(in crate::cache) fn is_own(key: &[u8]) -> bool {
    // The comparison has a constant length, so it compiles to no function call. Every read runs it.
    key.first_chunk() == Some(RESERVED_PREFIX)
}

/// Returns whether bytes look like a header. Commands passed through to Redis must not store such values.
#[must_use]
pub fn is_marked(bytes: &[u8]) -> bool {
    codec::is_marked(bytes)
}

/// Returns the tags that an entry was written under.
#[must_use]
pub fn tags_of(value: &Value) -> Vec<Bytes> {
    names_in(value.head())
}

pub(in crate::cache) fn names_in(head: &[u8]) -> Vec<Bytes> {
    codec::tags(head).unwrap_or_default().into_iter().map(|tag| tag.name).collect()
}

fn record_of(name: &[u8]) -> Key {
    Key::own(&[ID_PREFIX, name])
}

/// Returns an id as its record stores it: text, so that it is readable in Redis.
fn text_of(id: u64) -> Bytes {
    codec::hex_of(id).into()
}

fn id_in(text: &[u8]) -> Option<u64> {
    codec::number_in_hex(text)
}

/// Ids by tag name; `None` for a tag without a record.
type Ids = BTreeMap<Bytes, Option<u64>>;

/// Returns whether an entry with this header is valid. A header without tags is valid; a header with unknown fields is
/// not.
fn is_valid(head: &[u8], ids: &Ids) -> bool {
    codec::tags(head).is_some_and(|tags| tags.iter().all(|tag| ids.get(&tag.name) == Some(&Some(tag.id))))
}

/// Knowledge about whether the store has entries with tags.
#[derive(Debug)]
pub(crate) struct TagsInUse {
    /// From the low end: the state [`UNKNOWN`], [`NO`] or [`YES`], then a count of missed changes.
    word: AtomicU64,
    /// True if this node knows that the record in the store marks tags as in use.
    record_is_stored: AtomicBool,
    /// Time at which the record was last read, if changes are not announced; 0 for never.
    asked_at: AtomicU64,
}

const UNKNOWN: u64 = 0;
const NO: u64 = 1;
const YES: u64 = 2;
const STATES: u64 = 4;

impl TagsInUse {
    pub(crate) fn new(flavor: Flavor) -> Self {
        let known = match flavor {
            Flavor::Redis | Flavor::Embedded => UNKNOWN,
            // L1 is the store, and it is empty at start.
            Flavor::None => NO,
        };
        Self { word: AtomicU64::new(known), record_is_stored: AtomicBool::new(false), asked_at: AtomicU64::new(0) }
    }

    /// Notes that an entry with tags was found or is about to be written.
    fn met(&self) {
        self.word.fetch_or(YES, Ordering::AcqRel);
    }

    /// Notes that the record changed.
    fn heard(&self) {
        self.met();
        self.record_is_stored.store(false, Ordering::Release);
    }

    /// Notes that all records may be deleted.
    pub(crate) fn lost_records(&self) {
        self.record_is_stored.store(false, Ordering::Release);
    }

    /// Notes that changes may have been missed. The record has to be read again, unless tags are known to be in use.
    pub(crate) fn missed_changes(&self) {
        let step = |word: u64| Some(if word & YES == 0 { (word & !NO) + STATES } else { word });
        let _word = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, step);
    }

    fn is_yes(&self) -> bool {
        self.word.load(Ordering::Acquire) & YES != 0
    }
}

impl Core {
    /// Processes a change of an internal record.
    pub(in crate::cache) fn heard_own(&self, key: &[u8]) {
        let name = key.strip_prefix(RESERVED_PREFIX).unwrap_or_default();
        if name == USED {
            self.tags_in_use.heard();
        } else if name == store_id::RECORD {
            self.store_id.doubt();
        } else if let Some(tag) = name.strip_prefix(ID_PREFIX) {
            self.events.emit(ChangeEvent::Tag(tag));
        } else {
            self.loads.record_changed(name);
        }
    }

    /// Returns the copy, with its header parsed, if its tags are known to be valid.
    pub(in crate::cache) fn with_valid_tags(&self, mut hit: Hit, now: Tick) -> Option<Hit> {
        self.has_valid_tags(&mut hit, now).then_some(hit)
    }

    /// Parses the header of a copy in place. Returns whether the tags of the copy are known to be valid.
    #[inline]
    pub(in crate::cache) fn has_valid_tags(&self, hit: &mut Hit, now: Tick) -> bool {
        !codec::is_marked(&hit.value) || self.check_tags(hit, |key| self.l1.get(key, now, true))
    }

    /// Like [`Core::with_valid_tags`], for a copy past the coherence bound. The ids of its tags may be just as old.
    pub(in crate::cache) fn stale_with_valid_tags(&self, mut hit: Hit, now: Tick, grace: Duration) -> Option<Hit> {
        let is_valid =
            !codec::is_marked(&hit.value) || self.check_tags(&mut hit, |key| self.l1.get_stale(key, now, grace));
        is_valid.then_some(hit)
    }

    /// Like [`Core::with_valid_tags`], for inspection.
    pub(in crate::cache) fn resident_with_valid_tags(&self, resident: Resident, now: Tick) -> Option<Resident> {
        let hit = self.with_valid_tags(resident.hit, now)?;
        Some(Resident { hit, ..resident })
    }

    /// Compares the ids of a copy's tags with the current ids. `look` counts as a use of the record, so that L1 does
    /// not evict it.
    #[cold]
    fn check_tags(&self, hit: &mut Hit, look: impl Fn(&[u8]) -> Option<Hit>) -> bool {
        hit.value = codec::opened(std::mem::take(&mut hit.value));
        self.is_known_head(hit.value.head(), look)
    }

    /// Returns whether the tags in a header are known to be valid.
    pub(in crate::cache) fn has_valid_head(&self, head: &[u8], now: Tick) -> bool {
        self.is_known_head(head, |key| self.l1.get(key, now, true))
    }

    fn is_known_head(&self, head: &[u8], look: impl Fn(&[u8]) -> Option<Hit>) -> bool {
        self.tags_in_use.met();
        let mut key: SmallVec<[u8; RECORD_BYTES]> = SmallVec::from_slice(RESERVED_PREFIX);
        key.extend_from_slice(ID_PREFIX);
        let prefix_bytes = key.len();
        let mut is_known = |tag: &Tag| {
            key.truncate(prefix_bytes);
            key.extend_from_slice(&tag.name);
            look(&key).and_then(|record| id_in(&record.value)) == Some(tag.id)
        };
        codec::tags(head).is_some_and(|tags| tags.iter().all(&mut is_known))
    }
}

/// Maximum length of the key of a tag's record.
const RECORD_BYTES: usize = 10 + 4 + TAG_MAX_BYTES;

impl Cache {
    /// Replaces entries with invalid tags in L2's answers with misses.
    pub(in crate::cache) async fn without_dead(
        &self,
        keys: &[Key],
        mut answers: Vec<Option<Answer>>,
    ) -> Vec<Option<Answer>> {
        let head = |answer: &Option<Answer>| match answer {
            Some(Ok(Some(stored))) => Bytes::copy_from_slice(stored.value.head()),
            Some(Ok(None) | Err(_)) | None => Bytes::new(),
        };
        if answers.iter().flatten().flatten().flatten().all(|stored| stored.value.head().is_empty()) {
            return answers;
        }
        let heads: Vec<Bytes> = answers.iter().map(head).collect();
        let valid = self.are_valid_boxed(&heads).await;
        for (((answer, key), head), valid) in answers.iter_mut().zip(keys).zip(heads).zip(valid) {
            match valid {
                _ if head.is_empty() => {}
                Ok(true) => {}
                Ok(false) => {
                    self.core.key_history.tag_gone(key, self.now());
                    *answer = Some(Ok(None));
                }
                // A failed read is never a miss.
                Err(error) => *answer = Some(Err(error)),
            }
        }
        answers
    }

    /// Boxed to break the recursion: the callers of [`Cache::without_dead`] also read the ids.
    fn are_valid_boxed<'a>(&'a self, heads: &'a [Bytes]) -> BoxFuture<'a, Vec<Result<bool>>> {
        Box::pin(self.are_valid(heads))
    }

    /// Returns the tags in a header, and whether each tag still has the id that the entry was written under.
    pub(in crate::cache) async fn tags_now(&self, head: &[u8]) -> Result<Vec<(Bytes, bool)>> {
        let tags = codec::tags(head).unwrap_or_default();
        if tags.is_empty() {
            return Ok(Vec::new());
        }
        let ids = self.ids(tags.iter().map(|tag| tag.name.clone()).collect(), tags.clone()).await?;
        let with_state = tags.into_iter().map(|tag| {
            let is_valid = ids.get(&tag.name) == Some(&Some(tag.id));
            (tag.name, is_valid)
        });
        Ok(with_state.collect())
    }

    /// Returns whether entries with these headers are valid.
    pub(in crate::cache) async fn are_valid(&self, heads: &[Bytes]) -> Vec<Result<bool>> {
        self.core.tags_in_use.met();
        let tags = || heads.iter().filter_map(|head| codec::tags(head)).flatten();
        let ids = match self.ids(tags().map(|tag| tag.name).collect(), tags().collect()).await {
            Ok(ids) => ids,
            Err(error) => return heads.iter().map(|_| Err(error.clone())).collect(),
        };
        heads.iter().map(|head| Ok(is_valid(head, &ids))).collect()
    }

    /// Returns the current ids of these tags. Ids in L1 that match `expected` come from L1, the others from L2. A copy
    /// that differs may be about to be invalidated, and would then cause a needless miss.
    async fn ids(&self, mut names: Vec<Bytes>, expected: Vec<Tag>) -> Result<Ids> {
        names.sort_unstable();
        names.dedup();
        let mut ids = Ids::new();
        let reads = self.records(names.iter().map(|name| record_of(name)).collect()).await;
        for (name, read) in names.into_iter().zip(reads) {
            let id = match read? {
                Read::Found(found) => id_in(&found.value),
                Read::Missing => None,
            };
            ids.insert(name, id);
        }
        let differs = |tag: &&Tag| ids.get(&tag.name).is_some_and(|id| id.is_some_and(|id| id != tag.id));
        let mut doubtful: Vec<Bytes> = expected.iter().filter(differs).map(|tag| tag.name.clone()).collect();
        doubtful.sort_unstable();
        doubtful.dedup();
        if doubtful.is_empty() || self.core.flavor == Flavor::None {
            return Ok(ids);
        }
        let keys: Vec<Key> = doubtful.iter().map(|name| record_of(name)).collect();
        for (name, stored) in doubtful.into_iter().zip(self.l2.get(&keys, false).await) {
            ids.insert(name, stored?.and_then(|stored| id_in(&stored.value)));
        }
        Ok(ids)
    }

    /// Creates an id for each tag that has none.
    async fn ids_for_writing(&self, names: &[Bytes]) -> Result<BTreeMap<Bytes, u64>> {
        self.mark_in_use().await?;
        let keys: Vec<Key> = names.iter().map(|name| record_of(name)).collect();
        let (mut ids, mut ops, mut new) = (BTreeMap::new(), Vec::new(), Vec::new());
        for ((name, key), read) in names.iter().zip(keys.iter().cloned()).zip(self.records(keys.clone()).await) {
            let found = match read? {
                Read::Found(found) => Some((id_in(&found.value), found.life)),
                Read::Missing => None,
            };
            match found {
                Some((Some(id), life)) => {
                    ids.insert(name.clone(), id);
                    if matches!(life, Life::For(left) if left < ID_LIFE / 2) {
                        ops.push((key, renewal()));
                    }
                }
                // Another writer overwrote the record with a value that is not an id.
                Some((None, _)) => new.push((name.clone(), key, Condition::Always)),
                None => new.push((name.clone(), key, Condition::IfAbsent)),
            }
        }
        let created = ops.len();
        let mut chosen = Vec::with_capacity(new.len());
        for (name, key, condition) in new {
            // The id need not be secret. With 64 bits, two ids of one tag never collide in practice.
            let id = fastrand::u64(..);
            chosen.push((name, id));
            ops.push((key, creation(id, condition)));
        }
        let applied = self.apply(ops, Batch::Independent).await;
        for ((name, chosen), applied) in chosen.into_iter().zip(applied.into_iter().skip(created)) {
            let Applied::Set { stored, old } = applied? else { return Err(unexpected()) };
            // Either this id was stored, or another writer stored an id first.
            let id = if stored { Some(chosen) } else { old.and_then(|old| id_in(&old)) };
            ids.insert(name, id.ok_or_else(unexpected)?);
        }
        Ok(ids)
    }

    /// Returns the tags with their ids, in the order of the names. Creates an id for each tag that has none.
    pub(in crate::cache) async fn tags_for_writing(&self, tags: &TagNames) -> Result<Vec<Tag>> {
        let ids = self.ids_for_writing(&tags.0).await?;
        let tag = |name: &Bytes| Some(Tag { name: name.clone(), id: *ids.get(name)? });
        tags.0.iter().map(tag).collect::<Option<_>>().ok_or_else(unexpected)
    }

    /// Announces to other nodes that tags are in use, before the first header is written.
    async fn mark_in_use(&self) -> Result<()> {
        let tags_in_use = &self.core.tags_in_use;
        tags_in_use.met();
        if tags_in_use.record_is_stored.load(Ordering::Acquire) || self.core.flavor == Flavor::None {
            return Ok(());
        }
        let op = Op::Set {
            value: Bytes::from_static(b"1"),
            expiry: SetExpiry::Never,
            condition: Condition::IfAbsent,
            want_old: false,
        };
        self.apply(vec![(Key::own(&[USED]), op)], Batch::Independent)
            .await
            .into_iter()
            .try_for_each(|r| r.map(drop))?;
        tags_in_use.record_is_stored.store(true, Ordering::Release);
        Ok(())
    }

    /// Returns whether this node would already know about a first use of tags. The proof is the same that L1 needs.
    fn knows_of_use(&self, now: Tick) -> bool {
        self.fill_epoch(USED_KEY, now).is_some() && !self.core.rules.load().untracked
    }

    /// Returns whether the store may have entries with tags.
    ///
    /// # Errors
    /// Errors of L2, which stores the record.
    async fn tags_in_use(&self) -> Result<bool> {
        let tags_in_use = &self.core.tags_in_use;
        let (word, now) = (tags_in_use.word.load(Ordering::Acquire), self.now());
        if word & YES != 0 {
            return Ok(true);
        }
        let is_known_now = self.knows_of_use(now);
        if is_known_now && word & NO != 0 {
            return Ok(false);
        }
        // If changes are not announced, an answer is valid for the maximum age of a copy.
        let asked_at = tags_in_use.asked_at.load(Ordering::Acquire);
        if !is_known_now && asked_at > 0 && now.0 < asked_at + millis(FENCE_SPAN) {
            return Ok(false);
        }
        let found = self.l2.get(&[Key::own(&[USED])], false).await.pop().unwrap_or(Ok(None))?.is_some();
        if found {
            tags_in_use.met();
        } else if is_known_now {
            // Fails if a change was received or missed since.
            let _known = tags_in_use.word.compare_exchange(word, word | NO, Ordering::AcqRel, Ordering::Acquire);
        } else {
            tags_in_use.asked_at.store(now.0.max(1), Ordering::Release);
        }
        Ok(found)
    }

    /// Builds the stored bytes of each Set from its payload and tags. `tags` holds the tags of each operation, or is
    /// empty. Operations that cannot be done get their errors.
    pub(in crate::cache) async fn put_heads(
        &self,
        ops: &mut [(Key, Op)],
        tags: &[&TagNames],
    ) -> Vec<Option<CacheError>> {
        let mut names: Vec<Bytes> = tags.iter().flat_map(|tags| tags.0.iter().cloned()).collect();
        names.sort_unstable();
        names.dedup();
        let ids = if names.is_empty() { Ok(BTreeMap::new()) } else { self.ids_for_writing(&names).await };
        let mut faults = vec![None; ops.len()];
        for (at, (_, op)) in ops.iter_mut().enumerate() {
            let Op::Set { value, .. } = op else { continue };
            let tags = tags.get(at).map_or(&[][..], |tags| &tags.0);
            if tags.is_empty() {
                *value = codec::guarded(std::mem::take(value));
                continue;
            }
            match &ids {
                Ok(ids) => {
                    let tag = |name: &Bytes| Tag { name: name.clone(), id: ids.get(name).copied().unwrap_or_default() };
                    let head = codec::head_of(&tags.iter().map(tag).collect::<Vec<_>>());
                    *value = codec::joined(&head, std::mem::take(value));
                }
                Err(error) => faults[at] = Some(error.clone()),
            }
        }
        faults
    }

    /// Removes entries with invalid tags before a write that depends on whether the entries exist. If tags are not in
    /// use, no request is sent. Returns the keys that have a header and are valid.
    ///
    /// # Errors
    /// Errors of L2.
    pub(in crate::cache) async fn bury_dead(&self, keys: &[Key]) -> Result<Vec<Key>> {
        if keys.is_empty() || !self.tags_in_use().await? {
            return Ok(Vec::new());
        }
        let mut behind = Vec::new();
        for (key, described) in keys.iter().zip(self.l2.describe(keys).await) {
            if let Some(described) = described?.filter(|described| !described.head.is_empty()) {
                behind.push((key.clone(), described.head));
            }
        }
        if behind.is_empty() {
            return Ok(Vec::new());
        }
        let heads: Vec<Bytes> = behind.iter().map(|(_, head)| head.clone()).collect();
        let (mut valid_keys, mut burials) = (Vec::new(), Vec::new());
        for ((key, head), valid) in behind.into_iter().zip(self.are_valid(&heads).await) {
            if valid? {
                valid_keys.push(key);
            } else {
                burials.push((key, Op::Bury { head }));
            }
        }
        for buried in self.apply(burials, Batch::Independent).await {
            buried?;
        }
        Ok(valid_keys)
    }

    /// Prepares a command that is passed through: the command must see neither headers nor invalid entries.
    ///
    /// # Errors
    /// Errors of L2; `Unsupported`, with the key in the message, for an entry with tags.
    pub(in crate::cache) async fn refuse_heads(&self, keys: &[Key]) -> Result<()> {
        match self.bury_dead(keys).await?.first() {
            None => Ok(()),
            Some(key) => {
                let key = String::from_utf8_lossy(key);
                let message =
                    format!("\"{key}\" has tags; this command and transactions work on keys without tags only");
                Err(CacheError::new(Kind::Unsupported, message))
            }
        }
    }

    /// Returns which of these headers belong to invalid entries; an error if L2 was unavailable.
    pub(in crate::cache) async fn are_dead(&self, heads: &[Bytes]) -> Vec<Result<bool>> {
        if heads.iter().all(Bytes::is_empty) {
            return heads.iter().map(|_| Ok(false)).collect();
        }
        self.are_valid(heads).await.into_iter().map(|valid| valid.map(|valid| !valid)).collect()
    }

    /// Returns the keys of a page, without the keys of invalid entries.
    pub(in crate::cache) async fn living(&self, keys: Vec<Key>) -> Result<Vec<Key>> {
        if keys.is_empty() || !self.core.tags_in_use.is_yes() {
            return Ok(keys);
        }
        let described = self.l2.describe(&keys).await.into_iter().collect::<Result<Vec<_>>>()?;
        let heads: Vec<Bytes> =
            described.iter().map(|d| d.as_ref().map_or_else(Bytes::new, |d| d.head.clone())).collect();
        let dead = self.are_dead(&heads).await.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(keys.into_iter().zip(dead).filter_map(|(key, dead)| (!dead).then_some(key)).collect())
    }

    /// Invalidates all entries with these tags, on every node. Returns how many of the tags were in use.
    ///
    /// # Errors
    /// `InvalidArgument` for an invalid name; otherwise as for writes. After `Unknown` some tags may be invalidated; a
    /// retry is safe.
    pub async fn invalidate_tags(&self, mut names: Vec<Bytes>) -> Result<u64> {
        names.iter().try_for_each(|name| check_tag(name))?;
        if !self.principal.may_somewhere(Verbs::INVALIDATE) {
            return Err(self.principal.denied(Verbs::INVALIDATE));
        }
        names.iter().try_for_each(|name| self.principal.check_tag(name))?;
        names.sort_unstable();
        names.dedup();
        let ops = names.iter().map(|name| (record_of(name), Op::Delete { want_old: false })).collect();
        let mut invalidated = 0;
        let mut failure: Option<CacheError> = None;
        for (name, applied) in names.iter().zip(self.apply(ops, Batch::Independent).await) {
            match applied {
                Ok(Applied::Deleted { existed, .. }) => invalidated += u64::from(existed),
                Ok(_) => return Err(unexpected()),
                Err(error) => failure = Some(error),
            }
            // Other stores notify the sink themselves.
            if self.core.flavor == Flavor::None {
                self.core.events.emit(ChangeEvent::Tag(name));
            }
        }
        match failure {
            None => Ok(invalidated),
            Some(error) if invalidated == 0 => Err(error),
            Some(error) => {
                let message =
                    format!("only {invalidated} of {} tags are known to be invalidated: {error}", names.len());
                Err(CacheError::new(Kind::Unknown, message))
            }
        }
    }
}

fn unexpected() -> CacheError {
    CacheError::new(Kind::Internal, "L2 returned an invalid record of a tag id")
}

/// Stores an id. Returns the existing id if there is one.
fn creation(id: u64, condition: Condition) -> Op {
    Op::Set { value: text_of(id), expiry: SetExpiry::In(ID_LIFE), condition, want_old: true }
}

fn renewal() -> Op {
    Op::Expire { expiry: NewExpiry::In(ID_LIFE), only: ExpireOnly::ALWAYS, want_value: false }
}
