//! Reads: L1, then the single flight of the key, then L2. The answer of L2 fills L1.
//!
//! A user read looks up L1 at most twice per flight: in [`Cache::get_from_l1`] before the flight, without waiting, and
//! under the lock of L1's shard, where a reader joins or leads the flight ([`Cache::read_missed`]).

use std::time::Duration;

use tokio::sync::oneshot;

use super::{
    Cache, Core,
    flight::{Answer, Leader},
    invalidate::tags::is_own,
    l2_reads::CompleteOnDrop,
    prefetch::Fetch,
    read_types::{Found, Read, ReadOptions, TierChoice},
    stats::recording::Recorded,
};
use crate::{
    access::Verbs,
    clock::{Tick, stopwatch_ns},
    error::{CacheError, Kind, Result},
    l1::{Epoch, Fill, Filled, Hit, Leased, Token},
    l2::{Flavor, Stored},
    learn::recorder::{Caller, Happened},
    model::{Key, Outcome, Tier},
};

/// Maximum number of times that a reader joins the L2 read of another reader. Afterwards the reader sends its own L2
/// read. Each round means that another reader made progress, so readers rarely reach this value.
const JOIN_ROUNDS_MAX: usize = 8;
/// Maximum size of the values of a batch, unless the caller has a lower limit.
const RESULTS_MAX_BYTES: usize = 64 << 20;

impl Cache {
    /// Answers a user read from L1 if L1 has the key and the client may read it. This is the hot path and never waits. Counts a hit, but not a
    /// miss.
    #[inline]
    #[must_use]
    pub fn get_from_l1(&self, key: &[u8], now: Tick) -> Option<Hit> {
        self.get_from_l1_as(self.caller, key, now)
    }

    /// Like [`Cache::get_from_l1`], for a request of another caller. A copy of this handle for the caller would cost more
    /// than the lookup.
    #[inline]
    #[must_use]
    pub fn get_from_l1_as(&self, caller: Caller, key: &[u8], now: Tick) -> Option<Hit> {
        if !self.principal.may(Verbs::READ, key) {
            return None;
        }
        let hit = self.lookup(key, now)?;
        self.observe_hit(caller, key, &hit, now);
        Some(hit)
    }

    /// Looks a client's key up in L1.
    #[inline]
    fn lookup(&self, key: &[u8], now: Tick) -> Option<Hit> {
        if self.core.exclusive_lock.is_held() && !self.is_exclusive {
            return None;
        }
        if is_own(key) {
            return None;
        }
        let mut hit = self.core.l1.get(key, now, true)?;
        self.core.has_valid_tags(&mut hit, now).then_some(hit)
    }

    /// Passes a hit of a user read to the counters, samplers and learners.
    #[inline]
    fn observe_hit(&self, caller: Caller, key: &[u8], hit: &Hit, now: Tick) {
        let before = self.counters.hit_l1(hit.group);
        self.core.sample_hit(before, key, hit.filled_at, now);
        self.counters.tops.hit(key, hit.value.len(), before, now);
        if self.core.read_gate.admits(hit.hash) {
            self.core.note_sampled(key, hit.hash, Some((hit.value.len(), hit.expires_at)), caller, now);
        }
        self.tap.record_hit(key, caller, now);
        if hit.is_first_use {
            self.on_first_use(caller, key, now);
        }
        if self.touches_in_l1() {
            self.touch_in_l1(key, hit, now);
        }
    }

    /// Reads one key.
    ///
    /// # Errors
    /// As [`Backend::get`](crate::l2::Backend::get); `InvalidArgument` for `L2Only` without an L2.
    pub async fn get(&self, key: Key, options: ReadOptions) -> Result<Read> {
        if options.is_user() {
            let now = self.now();
            if let Some(hit) = self.get_from_l1(&key, now) {
                return Ok(Read::Found(Found::in_l1(hit, now)));
            }
        }
        self.read_missed(key, options).await
    }

    /// Continues a read of one key after [`Cache::get_from_l1`] did not answer it, or reads it for inspection.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub async fn read_missed(&self, key: Key, options: ReadOptions) -> Result<Read> {
        let mut results = self.read_many_missed(vec![key], 1, options).await;
        results.pop().unwrap_or_else(|| Err(CacheError::new(Kind::Internal, "bug: a read has no result")))
    }

    /// Reads keys; one result per key, in order. Keys that L1 does not have are read from L2 in one pipeline.
    pub async fn get_many(&self, keys: Vec<Key>, options: ReadOptions) -> Vec<Result<Read>> {
        self.read_many_missed(keys, 0, options).await
    }

    /// Like [`Cache::get_many`], after [`Cache::get_from_l1`] did not answer the first `missed` keys. A user read looks
    /// up these keys again only inside their flights.
    pub async fn read_many_missed(&self, keys: Vec<Key>, missed: usize, options: ReadOptions) -> Vec<Result<Read>> {
        let reads = self.read_some_missed(keys, missed, options, RESULTS_MAX_BYTES).await;
        let too_large = || {
            let message = format!("the values of the batch exceed {RESULTS_MAX_BYTES} bytes; request fewer keys");
            Err(CacheError::new(Kind::TooLarge, message))
        };
        reads.into_iter().map(|read| read.unwrap_or_else(too_large)).collect()
    }

    /// Like [`Cache::read_many_missed`], until the values have about `bytes_max`; `None` for the other keys, but never
    /// for the first one.
    pub async fn read_some_missed(
        &self,
        keys: Vec<Key>,
        missed: usize,
        options: ReadOptions,
        bytes_max: usize,
    ) -> Vec<Option<Result<Read>>> {
        if self.principal.may_everywhere(Verbs::READ) {
            return self.read_permitted(keys, missed, options, bytes_max).await;
        }
        let (permitted, mut results) = self.split_by_permission(keys);
        let missed = permitted.iter().filter(|(at, _)| *at < missed).count();
        let (places, keys): (Vec<usize>, Vec<Key>) = permitted.into_iter().unzip();
        for (at, read) in places.into_iter().zip(self.read_permitted(keys, missed, options, bytes_max).await) {
            results[at] = read;
        }
        results
    }

    /// Returns the keys that the client may read, with their positions, and the errors of the other keys.
    #[expect(clippy::type_complexity, reason = "two lists that are made and taken apart in one place")]
    fn split_by_permission(&self, keys: Vec<Key>) -> (Vec<(usize, Key)>, Vec<Option<Result<Read>>>) {
        let (mut permitted, mut results) = (Vec::new(), Vec::with_capacity(keys.len()));
        for (at, key) in keys.into_iter().enumerate() {
            results.push(self.principal.check(Verbs::READ, &key).err().map(Err));
            if results[at].is_none() {
                permitted.push((at, key));
            }
        }
        (permitted, results)
    }

    async fn read_permitted(
        &self,
        keys: Vec<Key>,
        missed: usize,
        options: ReadOptions,
        bytes_max: usize,
    ) -> Vec<Option<Result<Read>>> {
        let _access = self.shared_access().await;
        match options.tier {
            TierChoice::L1Only => keys.iter().map(|key| Some(Ok(self.inspect_l1(key)))).collect(),
            TierChoice::L2Only => self.inspect_l2(&keys, bytes_max).await,
            TierChoice::Any if options.no_touch => self.inspect_both(keys, bytes_max).await,
            TierChoice::Any => self.read_many(keys, missed, options.stale_ok, bytes_max).await,
        }
    }

    /// Inspects L1 only.
    fn inspect_l1(&self, key: &Key) -> Read {
        let now = self.now();
        self.resident(key).map_or(Read::Missing, |resident| Read::Found(Found::in_l1(resident.hit, now)))
    }

    /// Inspects L2 only.
    async fn inspect_l2(&self, keys: &[Key], bytes_max: usize) -> Vec<Option<Result<Read>>> {
        if self.core.flavor == Flavor::None {
            let error = CacheError::new(
                Kind::InvalidArgument,
                "tier L2_ONLY is not available: this server has no L2 (l2 = \"none\")",
            );
            return keys.iter().map(|_| Some(Err(error.clone()))).collect();
        }
        let (answers, _) = self.ask(keys, bytes_max).await;
        answers.into_iter().map(|answer| Some(answer?.map(Read::in_l2))).collect()
    }

    /// Inspects L1, then L2.
    async fn inspect_both(&self, keys: Vec<Key>, bytes_max: usize) -> Vec<Option<Result<Read>>> {
        let mut results: Vec<Option<Result<Read>>> = keys.iter().map(|key| Some(Ok(self.inspect_l1(key)))).collect();
        let absent: Vec<usize> =
            (0..keys.len()).filter(|&at| matches!(results.get(at), Some(Some(Ok(Read::Missing))))).collect();
        if absent.is_empty() || self.core.flavor == Flavor::None {
            return results;
        }
        let missed: Vec<Key> = absent.iter().map(|&at| keys[at].clone()).collect();
        for (at, answer) in absent.into_iter().zip(self.inspect_l2(&missed, bytes_max).await) {
            results[at] = answer;
        }
        results
    }

    /// Executes user reads. The caller knows that L1 does not have the first `missed` keys.
    async fn read_many(
        &self,
        keys: Vec<Key>,
        missed: usize,
        stale_ok: bool,
        bytes_max: usize,
    ) -> Vec<Option<Result<Read>>> {
        let stale_for = if stale_ok { self.core.rules.load().serve_stale_for } else { Duration::ZERO };
        let mut reads = ReadResults { stale_for, bytes_max, ..ReadResults::new(keys.len()) };
        let mut pending: Vec<(usize, Key)> = Vec::new();
        let now = self.now();
        for (at, key) in keys.into_iter().enumerate() {
            let hit = if at < missed { None } else { self.get_from_l1(&key, now) };
            match hit {
                Some(hit) => reads.answer(at, Ok(Read::Found(Found::in_l1(hit, now)))),
                None => pending.push((at, key)),
            }
        }
        self.read_in_flights(pending, reads).await
    }

    /// Reads internal records, which L1 caches like values. These reads are not counted. Values of users need
    /// [`Self::read_again`], which removes headers and checks tags.
    pub(super) async fn records(&self, keys: Vec<Key>) -> Vec<Result<Read>> {
        let mut reads = ReadResults { is_counted: false, ..ReadResults::new(keys.len()) };
        let mut pending = Vec::new();
        let now = self.now();
        for (at, key) in keys.into_iter().enumerate() {
            match self.core.l1.get(&key, now, true) {
                Some(hit) => reads.answer(at, Ok(Read::Found(Found::in_l1(hit, now)))),
                None => pending.push((at, key)),
            }
        }
        let unread = || Err(CacheError::new(Kind::Internal, "bug: a read has no result"));
        let reads = self.read_in_flights(pending, reads).await;
        reads.into_iter().map(|read| read.unwrap_or_else(unread)).collect()
    }

    /// Reads a client's key again. The read is not counted.
    pub(super) async fn read_again(&self, key: Key) -> Result<Read> {
        let now = self.now();
        if let Some(hit) = self.lookup(&key, now) {
            return Ok(Read::Found(Found::in_l1(hit, now)));
        }
        let reads = ReadResults { is_counted: false, ..ReadResults::new(1) };
        let unread = || Err(CacheError::new(Kind::Internal, "bug: a read has no result"));
        self.read_in_flights(vec![(0, key)], reads).await.pop().flatten().unwrap_or_else(unread)
    }

    /// Reads keys that L1 does not have, each in its flight.
    async fn read_in_flights(
        &self,
        mut pending: Vec<(usize, Key)>,
        mut reads: ReadResults,
    ) -> Vec<Option<Result<Read>>> {
        for _ in 0..JOIN_ROUNDS_MAX {
            if pending.is_empty() {
                return reads.results;
            }
            pending = self.fly_once(pending, &mut reads).await;
        }
        self.read_without_flights(pending, &mut reads).await;
        reads.results
    }

    /// Joins or leads the flight of each key once. Returns the keys whose leader abandoned the flight.
    async fn fly_once(&self, pending: Vec<(usize, Key)>, reads: &mut ReadResults) -> Vec<(usize, Key)> {
        let mut round = FlightRound::new(self.now());
        for (at, key) in pending {
            self.join_or_lead(at, key, &mut round, reads);
        }
        self.lead_flights(&mut round, reads).await;
        self.await_joined(round, reads).await
    }

    /// Looks up L1 again under its lock. If there is no copy, joins the flight of the key or leads a new one.
    fn join_or_lead(&self, at: usize, key: Key, round: &mut FlightRound, reads: &mut ReadResults) {
        let token = self.core.next_token();
        self.core.flights.register(token);
        let epoch = self.fill_epoch(&key, round.sent_at);
        if epoch.is_none() {
            self.counters.bypassed(1);
        }
        match self.lease(&key, token, round.sent_at, epoch) {
            Leased::Lead => round.led.push((at, Leader::new(&self.core, key, token))),
            Leased::Hit(hit) => {
                self.core.flights.end(token);
                if reads.is_counted {
                    self.observe_hit(self.caller, &key, &hit, round.sent_at);
                }
                reads.answer(at, Ok(Read::Found(Found::in_l1(hit, round.sent_at))));
            }
            Leased::Join(other) => {
                self.core.flights.end(token);
                if reads.is_counted && self.core.flights.take_prefetch(other) {
                    self.note_late_prefetch(&key, round.sent_at);
                }
                match self.core.flights.join(other) {
                    Some(receiver) => round.joined.push((at, key, receiver)),
                    None => round.again.push((at, key)),
                }
            }
        }
    }

    /// Returns a copy that was filled in the meantime, or else the leader of the key. A copy whose tags are not known
    /// to be valid is read from L2.
    fn lease(&self, key: &Key, token: Token, now: Tick, epoch: Option<Epoch>) -> Leased {
        match self.core.l1.lease(key, token, now, epoch, true) {
            Leased::Hit(hit) => match self.core.with_valid_tags(hit, now) {
                Some(hit) => Leased::Hit(hit),
                None => self.core.l1.lease(key, token, now, epoch, false),
            },
            leased @ (Leased::Lead | Leased::Join(_)) => leased,
        }
    }

    /// Reads the keys that this round leads from L2, fills L1, records the answers, and wakes the waiters.
    async fn lead_flights(&self, round: &mut FlightRound, reads: &mut ReadResults) {
        if round.led.is_empty() {
            return;
        }
        let led = std::mem::take(&mut round.led);
        if self.core.flavor == Flavor::None {
            for (at, leader) in led {
                self.core.l1.release(&leader.key, leader.token);
                let l2_read = L2Read::new(&self.core, &leader.key, round.sent_at);
                self.answer_from_l2(at, &leader.key, Ok(None), l2_read, reads);
                leader.land(&Ok(None));
            }
            return;
        }
        let mut keys: Vec<Key> = led.iter().map(|(_, leader)| leader.key.clone()).collect();
        let piggybacked = if reads.is_counted { self.piggybacked(&keys, round.sent_at) } else { Vec::new() };
        keys.extend(piggybacked.iter().filter_map(Fetch::key).cloned());
        let is_point_read = led.len() == 1;
        let read = self.clone().read_led(led, piggybacked, keys, round.sent_at, reads.bytes_max);
        // A batch stops when its caller leaves.
        let landed = if is_point_read { CompleteOnDrop::new(&self.core, read).await } else { read.await };
        for Landed { at, key, answer, l2_read } in landed {
            self.answer_from_l2(at, &key, answer, l2_read, reads);
        }
    }

    /// Reads keys from L2, fills L1 and wakes the waiters. `keys` are the keys of `led` and then those of `piggybacked`.
    async fn read_led(
        self,
        led: Vec<(usize, Leader)>,
        piggybacked: Vec<Fetch>,
        keys: Vec<Key>,
        sent_at: Tick,
        bytes_max: usize,
    ) -> Vec<Landed> {
        let (mut answers, waited_us) = self.ask(&keys, bytes_max).await;
        for (fetch, answer) in piggybacked.into_iter().zip(answers.split_off(led.len().min(answers.len()))) {
            // A fetch without an answer is dropped, which ends its flight.
            if let Some(answer) = answer {
                self.stage(fetch, sent_at, &answer);
            }
        }
        let now = self.now();
        let mut landed = Vec::with_capacity(led.len());
        for (((at, leader), key), answer) in led.into_iter().zip(keys).zip(answers) {
            // Dropping the leader ends the flight of a key that was not read; its waiters read it.
            let Some(answer) = answer else { continue };
            let l2_read = L2Read { waited_us: Some(waited_us), ..L2Read::new(&self.core, &key, now) };
            self.promote(&leader, sent_at, &answer, l2_read.group);
            leader.land(&answer);
            landed.push(Landed { at, key, answer, l2_read });
        }
        landed
    }

    /// Reads from L2 as [`Cache::read_l2`] and counts the call. Also returns the duration per key in microseconds.
    pub(super) async fn ask(&self, keys: &[Key], bytes_max: usize) -> (Vec<Option<Answer>>, u64) {
        let begun = stopwatch_ns();
        #[cfg(feature = "otel")]
        let answers = {
            use tracing::Instrument;
            // The span is part of the call's span if the call is traced.
            let traced = !tracing::Span::current().is_none();
            let span = if traced {
                tracing::info_span!(target: "terrace::trace", "read L2", otel.kind = "client", keys = keys.len())
            } else {
                tracing::Span::none()
            };
            self.read_l2(keys, bytes_max).instrument(span).await
        };
        #[cfg(not(feature = "otel"))]
        let answers = self.read_l2(keys, bytes_max).await;
        let failed = answers.iter().flatten().filter(|answer| answer.is_err()).count();
        let us = (stopwatch_ns() - begun) / 1000;
        self.counters.l2_read(keys.len(), failed, us);
        (self.without_dead(keys, answers).await, us / keys.len().max(1) as u64)
    }

    /// Fills L1 under the leader's lease, or releases it.
    pub(super) fn promote(&self, leader: &Leader, sent_at: Tick, answer: &Answer, group: u8) {
        let rules = self.core.rules.load();
        let fill = match answer {
            Ok(Some(stored)) if rules.may_promote(&leader.key, &stored.value) => {
                self.copy_of(&leader.key, stored, sent_at, group)
            }
            Ok(_) | Err(_) => return self.core.l1.release(&leader.key, leader.token),
        };
        let filled = self.core.l1.fill(&leader.key, leader.token, fill, self.now());
        match filled {
            Filled::Inserted => self.counters.promoted(),
            Filled::Voided => self.counters.fill_voided(),
            Filled::TooLarge | Filled::Expired | Filled::Closed => {}
        }
    }

    /// Returns the copy of an entry that was requested at `sent_at`. The TTL is counted from that time, so the copy
    /// never outlives the key.
    pub(super) fn copy_of(&self, key: &[u8], stored: &Stored, sent_at: Tick, group: u8) -> Fill {
        let expires_at = stored.life.until(sent_at);
        let deadline = self.core.deadline_of(key, expires_at, sent_at);
        Fill { value: stored.value.clone(), expires_at, deadline, group }
    }

    /// Waits for the flights that other reads lead. Returns the keys that have to be retried.
    async fn await_joined(&self, round: FlightRound, reads: &mut ReadResults) -> Vec<(usize, Key)> {
        let mut again = round.again;
        let (mut places, mut keys, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for (at, key, receiver) in round.joined {
            match receiver.await {
                Ok(answer) => {
                    places.push(at);
                    keys.push(key);
                    answers.push(Some(answer));
                }
                Err(_given_up) => again.push((at, key)),
            }
        }
        if !places.is_empty() {
            // The leader may have checked the tags before a tag was invalidated and before this read began: an invalidation of
            // a tag does not end the flights of its keys.
            let answers = self.without_dead(&keys, answers).await;
            let now = self.now();
            for ((at, key), answer) in places.into_iter().zip(keys).zip(answers) {
                let Some(answer) = answer else { continue };
                let l2_read = L2Read { coalesced: true, ..L2Read::new(&self.core, &key, now) };
                self.answer_from_l2(at, &key, answer, l2_read, reads);
            }
        }
        again
    }

    /// Reads L2 without leases and fills nothing: the fallback after many abandoned flights.
    async fn read_without_flights(&self, pending: Vec<(usize, Key)>, reads: &mut ReadResults) {
        let keys: Vec<Key> = pending.iter().map(|(_, key)| key.clone()).collect();
        let (answers, waited_us) = self.ask(&keys, reads.bytes_max).await;
        let now = self.now();
        for ((at, key), answer) in pending.into_iter().zip(answers) {
            let Some(answer) = answer else { continue };
            let l2_read = L2Read { waited_us: Some(waited_us), ..L2Read::new(&self.core, &key, now) };
            self.answer_from_l2(at, &key, answer, l2_read, reads);
        }
    }

    /// Counts the answer of L2 for one key. If L2 is unavailable, answers with a stale copy where that is allowed.
    fn answer_from_l2(&self, at: usize, key: &[u8], answer: Answer, l2_read: L2Read, reads: &mut ReadResults) {
        if let Err(error) = &answer
            && error.says_away()
            && let Some((found, group)) = self.stale_copy(key, reads.stale_for)
        {
            if reads.is_counted {
                self.counters.outcome(group, Outcome::Stale, false);
                if self.core.recordings.any() {
                    let recorded = Recorded::Found(found.value.len() as u64, found.life.until(l2_read.now));
                    let hash = self.core.l1.hash_of(key);
                    self.core.recordings.note(key, hash, recorded, self.caller, l2_read.now);
                }
            }
            return reads.answer(at, Ok(Read::Found(found)));
        }
        let outcome = match &answer {
            Ok(Some(_)) => Outcome::HitL2,
            Ok(None) => Outcome::Miss,
            Err(_) => Outcome::Error,
        };
        if reads.is_counted {
            let L2Read { now, .. } = l2_read;
            self.counters.outcome(l2_read.group, outcome, l2_read.coalesced);
            self.note_l2_read(key, &answer, &l2_read);
            if let Ok(Some(stored)) = &answer
                && !l2_read.coalesced
            {
                self.queue_touch(key, stored.life);
            }
            match outcome {
                Outcome::HitL2 => self.tap.record(key, Happened::HitL2, self.caller, now),
                Outcome::Miss => self.tap.record(key, Happened::Miss, self.caller, now),
                Outcome::Error => self.tap.record(key, Happened::Failed, self.caller, now),
                Outcome::HitL1 | Outcome::Stale => {}
            }
        }
        reads.answer(at, answer.map(Read::in_l2));
    }

    /// Passes a read that L1 did not answer to the rankings, the size estimate and the recordings.
    fn note_l2_read(&self, key: &[u8], answer: &Answer, l2_read: &L2Read) {
        let now = l2_read.now;
        let bytes = |found: &Option<Stored>| found.as_ref().map(|found| found.value.len());
        self.counters.tops.read_not_in_l1(key, answer.as_ref().ok().map(bytes), l2_read.waited_us, now);
        if let Ok(found) = answer {
            let found = found.as_ref().map(|found| (found.value.len(), found.life.until(now)));
            self.core.note_sampled(key, self.core.l1.hash_of(key), found, self.caller, now);
        }
    }

    /// Returns a copy past the coherence bound, marked as stale, and its key group.
    fn stale_copy(&self, key: &[u8], stale_for: Duration) -> Option<(Found, u8)> {
        if stale_for.is_zero() {
            return None;
        }
        let now = self.now();
        let hit = self.core.stale_with_valid_tags(self.core.l1.get_stale(key, now, stale_for)?, now, stale_for)?;
        let group = hit.group;
        Some((Found { stale: true, ..Found::in_l1(hit, now) }, group))
    }
}

/// One round of flights.
struct FlightRound {
    sent_at: Tick,
    led: Vec<(usize, Leader)>,
    joined: Vec<(usize, Key, oneshot::Receiver<Answer>)>,
    again: Vec<(usize, Key)>,
}

impl FlightRound {
    fn new(sent_at: Tick) -> Self {
        Self { sent_at, led: Vec::new(), joined: Vec::new(), again: Vec::new() }
    }
}

/// Details of a read that L1 did not answer.
#[derive(Clone, Copy)]
struct L2Read {
    /// Key group of the read.
    group: u8,
    /// True if the read joined the flight of another read.
    coalesced: bool,
    /// Duration of the L2 call, if L2 was called for this read.
    waited_us: Option<u64>,
    /// Time at which the answer arrived.
    now: Tick,
}

impl L2Read {
    fn new(core: &Core, key: &[u8], now: Tick) -> Self {
        Self { group: core.group_of(key), coalesced: false, waited_us: None, now }
    }
}

/// A key that was read from L2.
struct Landed {
    at: usize,
    key: Key,
    answer: Answer,
    l2_read: L2Read,
}

/// Results by position.
struct ReadResults {
    /// Size of the values so far.
    bytes: usize,
    /// Size of the values above which further values are left out.
    bytes_max: usize,
    results: Vec<Option<Result<Read>>>,
    /// True for user reads.
    is_counted: bool,
    /// Time after the end of the fence during which a copy may be returned while L2 is unavailable.
    stale_for: Duration,
}

impl ReadResults {
    fn new(len: usize) -> Self {
        Self {
            results: (0..len).map(|_| None).collect(),
            is_counted: true,
            stale_for: Duration::ZERO,
            bytes: 0,
            bytes_max: usize::MAX,
        }
    }

    /// Records a result. Leaves out a value for which there is no space; the first key always has a result.
    fn answer(&mut self, at: usize, result: Result<Read>) {
        let bytes = match &result {
            Ok(Read::Found(found)) => found.value.len(),
            Ok(Read::Missing) | Err(_) => 0,
        };
        if at > 0 && self.bytes.saturating_add(bytes) > self.bytes_max {
            return;
        }
        self.bytes += bytes;
        self.results[at] = Some(result);
    }
}

impl Found {
    /// Converts an L1 hit into the result of a read at `now`.
    #[inline]
    #[must_use]
    pub fn in_l1(hit: Hit, now: Tick) -> Self {
        let life = hit.life(now);
        Self { value: hit.value, tier: Tier::L1, stale: false, life, age: now.since(hit.filled_at), l1_hits: hit.hits }
    }
}

impl Read {
    /// Converts an answer of L2 into a result.
    fn in_l2(stored: Option<Stored>) -> Self {
        stored.map_or(Self::Missing, |stored| {
            Self::Found(Found {
                value: stored.value,
                tier: Tier::L2,
                stale: false,
                life: stored.life,
                age: Duration::ZERO,
                l1_hits: 0,
            })
        })
    }
}
