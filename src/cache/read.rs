//! Reading: L1, else the key's flight, else L2, with promotion on the way back.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{
    Cache, Core,
    ahead::Fetch,
    check,
    flight::{Answer, Leader},
    tags::is_own,
};
use crate::{
    clock::{Tick, stopwatch_ns},
    error::{CacheError, Kind, Result},
    l1::{Epoch, Fill, Filled, Hit, Leased, Token},
    l2::{Flavor, Stored},
    learn::recorder::Happened,
    model::{Key, Life, Outcome, Tier, Value},
};

/// Which tiers may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TierChoice {
    /// L1, else L2.
    #[default]
    Any,
    /// Only this node's memory; inspection.
    L1Only,
    /// Only below; inspection.
    L2Only,
}

/// How to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// Which tiers may answer.
    pub tier: TierChoice,
    /// Inspection: recency, statistics and learning stay as they are, nothing is promoted.
    pub no_touch: bool,
    /// The key's remaining life is wanted although nothing is promoted.
    pub want_meta: bool,
    /// Where L2 cannot be asked, a copy past the coherence bound will do, within `l2.serve_stale_for`.
    pub stale_ok: bool,
}

impl ReadOptions {
    /// A user read: counted, promoted, learned from.
    #[must_use]
    pub fn is_user(&self) -> bool {
        self.tier == TierChoice::Any && !self.no_touch
    }
}

/// A value and what is known of it.
#[derive(Debug, Clone)]
pub struct Found {
    /// The payload.
    pub value: Value,
    /// Who answered.
    pub tier: Tier,
    /// Past the coherence bound, because L2 is away.
    pub stale: bool,
    /// The key's own remaining life; over L2 only meaningful if it was wanted.
    pub life: Life,
    /// How old the copy is; zero when L2 answered.
    pub age: Duration,
    /// Reads L1 answered with the copy.
    pub l1_hits: u32,
}

/// The result of a read.
#[derive(Debug, Clone)]
pub enum Read {
    /// The key is there.
    Found(Found),
    /// No tier that was asked has it.
    Missing,
}

/// How often a reader looks again after a flight it wanted to join had ended or was given up, before it asks on its
/// own: each round means that somebody else made progress, so this is far beyond what is seen.
const JOIN_ROUNDS_MAX: usize = 8;

impl Cache {
    /// Answers a user read from L1, if it can: the hot path, without waiting. Counts a hit; a miss is not counted.
    #[inline]
    #[must_use]
    pub fn get_resident(&self, key: &[u8], now: Tick) -> Option<Hit> {
        if self.core.turns.are_taken() && !self.alone {
            return None;
        }
        if is_own(key) {
            return None;
        }
        let mut hit = self.core.l1.get(key, now, true)?;
        if !self.core.open(&mut hit, now) {
            return None;
        }
        let before = self.counters.hit_l1(hit.group);
        if before.is_multiple_of(check::SAMPLE_EVERY) && check::is_sampled(self.core.flavor) {
            self.core.samples.note(key, hit.filled_at, now);
        }
        self.counters.tops.hit(key, hit.value.len(), before, now);
        if self.core.what_if.wants(hit.hash) {
            self.core.note_for_ghosts(key, hit.hash, Some((hit.value.len(), hit.expires_at)), now);
        }
        self.tap.hit(key, self.caller, now);
        if hit.is_first_use {
            self.first_use(key, now);
        }
        if self.slides_in_l1() {
            self.slide_resident(key, &hit, now);
        }
        Some(hit)
    }

    /// Reads one key.
    ///
    /// # Errors
    /// As [`Backend::get`](crate::l2::Backend::get); `Unsupported` for `L2Only` where there is no L2.
    pub async fn get(&self, key: Key, options: ReadOptions) -> Result<Read> {
        let now = self.now();
        if options.is_user()
            && let Some(hit) = self.get_resident(&key, now)
        {
            return Ok(Read::Found(hit.found(now)));
        }
        let mut results = self.get_many(vec![key], options).await;
        results.pop().unwrap_or_else(|| Err(CacheError::new(Kind::Internal, "a read without a result")))
    }

    /// Reads keys; one result per key, in order. What L1 lacks is one pipelined read below.
    pub async fn get_many(&self, keys: Vec<Key>, options: ReadOptions) -> Vec<Result<Read>> {
        let _turn = self.turn().await;
        match options.tier {
            TierChoice::L1Only => keys.iter().map(|key| Ok(self.peek(key))).collect(),
            TierChoice::L2Only => self.get_below(&keys).await,
            TierChoice::Any if options.no_touch => self.look_many(keys).await,
            TierChoice::Any => self.read_many(keys, options.stale_ok).await,
        }
    }

    /// Inspection of L1 alone.
    fn peek(&self, key: &Key) -> Read {
        let now = self.now();
        self.resident(key).map_or(Read::Missing, |resident| Read::Found(resident.hit.found(now)))
    }

    /// Inspection of L2 alone.
    async fn get_below(&self, keys: &[Key]) -> Vec<Result<Read>> {
        if self.core.flavor == Flavor::None {
            let error = CacheError::new(Kind::InvalidArgument, "tier L2_ONLY: this server has no L2 (l2 = \"none\")");
            return keys.iter().map(|_| Err(error.clone())).collect();
        }
        let (answers, _) = self.ask(keys).await;
        answers.into_iter().map(|answer| answer.map(Read::from_below)).collect()
    }

    /// Inspection of L1, then L2.
    async fn look_many(&self, keys: Vec<Key>) -> Vec<Result<Read>> {
        let mut results: Vec<Result<Read>> = keys.iter().map(|key| Ok(self.peek(key))).collect();
        let absent: Vec<usize> =
            (0..keys.len()).filter(|&at| matches!(results.get(at), Some(Ok(Read::Missing)))).collect();
        if absent.is_empty() || self.core.flavor == Flavor::None {
            return results;
        }
        let below: Vec<Key> = absent.iter().map(|&at| keys[at].clone()).collect();
        for (at, answer) in absent.into_iter().zip(self.get_below(&below).await) {
            results[at] = answer;
        }
        results
    }

    /// User reads.
    async fn read_many(&self, keys: Vec<Key>, stale_ok: bool) -> Vec<Result<Read>> {
        let stale_for = if stale_ok { self.core.rules.load().serve_stale_for } else { Duration::ZERO };
        let mut reads = Reads { stale_for, ..Reads::new(keys.len()) };
        let mut pending: Vec<(usize, Key)> = Vec::new();
        let now = self.now();
        for (at, key) in keys.into_iter().enumerate() {
            match self.get_resident(&key, now) {
                Some(hit) => reads.answer(at, Ok(Read::Found(hit.found(now)))),
                None => pending.push((at, key)),
            }
        }
        self.read_pending(pending, reads).await
    }

    /// Terrace's own records, kept in L1 like values: not counted.
    pub(super) async fn records(&self, keys: Vec<Key>) -> Vec<Result<Read>> {
        let mut reads = Reads { is_counted: false, ..Reads::new(keys.len()) };
        let mut pending = Vec::new();
        let now = self.now();
        for (at, key) in keys.into_iter().enumerate() {
            match self.core.l1.get(&key, now, true) {
                Some(hit) => reads.answer(at, Ok(Read::Found(hit.found(now)))),
                None => pending.push((at, key)),
            }
        }
        self.read_pending(pending, reads).await
    }

    /// What L1 lacks.
    async fn read_pending(&self, mut pending: Vec<(usize, Key)>, mut reads: Reads) -> Vec<Result<Read>> {
        for _ in 0..JOIN_ROUNDS_MAX {
            if pending.is_empty() {
                return reads.results();
            }
            pending = self.fly(pending, &mut reads).await;
        }
        self.ask_alone(pending, &mut reads).await;
        reads.results()
    }

    /// One round: leads or joins the flight of each key. Returns the keys whose flight was given up by its leader.
    async fn fly(&self, pending: Vec<(usize, Key)>, reads: &mut Reads) -> Vec<(usize, Key)> {
        let mut round = Round::new(self.now());
        for (at, key) in pending {
            self.board(at, key, &mut round, reads);
        }
        self.lead(&mut round, reads).await;
        self.wait(round, reads).await
    }

    /// Decides what one key does in this round.
    fn board(&self, at: usize, key: Key, round: &mut Round, reads: &mut Reads) {
        let token = self.core.next_token();
        self.core.flights.register(token);
        let epoch = self.core.gate.epoch(self.l2.source(&key));
        let epoch = epoch.filter(|&epoch| self.core.l1.is_open(epoch, round.sent_at));
        if epoch.is_none() {
            self.counters.bypassed(1);
        }
        match self.lease(&key, token, round.sent_at, epoch) {
            Leased::Lead => round.led.push((at, Leader::new(&self.core, key, token))),
            Leased::Hit(hit) => {
                self.core.flights.end(token);
                if hit.is_first_use {
                    self.first_use(&key, round.sent_at);
                }
                if reads.is_counted {
                    self.counters.outcome(hit.group, Outcome::HitL1, false);
                }
                reads.answer(at, Ok(Read::Found(hit.found(round.sent_at))));
            }
            Leased::Join(other) => {
                self.core.flights.end(token);
                if reads.is_counted && self.core.flights.take_ahead(other) {
                    self.was_late(&key, round.sent_at);
                }
                match self.core.flights.join(other) {
                    Some(receiver) => round.joined.push((at, key, receiver)),
                    None => round.again.push((at, key)),
                }
            }
        }
    }

    /// A copy that came in since; else who leads. A copy whose tags are not known to be valid is to be read again.
    fn lease(&self, key: &Key, token: Token, now: Tick, epoch: Option<Epoch>) -> Leased {
        match self.core.l1.lease(key, token, now, epoch, true) {
            Leased::Hit(hit) => match self.core.opened(hit, now) {
                Some(hit) => Leased::Hit(hit),
                None => self.core.l1.lease(key, token, now, epoch, false),
            },
            leased @ (Leased::Lead | Leased::Join(_)) => leased,
        }
    }

    /// Asks L2 for the keys this round leads, promotes, answers, and wakes those who joined.
    async fn lead(&self, round: &mut Round, reads: &mut Reads) {
        if round.led.is_empty() {
            return;
        }
        let led = std::mem::take(&mut round.led);
        if self.core.flavor == Flavor::None {
            for (at, leader) in led {
                self.core.l1.release(&leader.key, leader.token);
                let below = Below::new(&self.core, &leader.key, round.sent_at);
                self.answer_below(at, &leader.key, Ok(None), below, reads);
                leader.land(&Ok(None));
            }
            return;
        }
        let mut keys: Vec<Key> = led.iter().map(|(_, leader)| leader.key.clone()).collect();
        let riders = if reads.is_counted { self.riders(&keys, round.sent_at) } else { Vec::new() };
        keys.extend(riders.iter().filter_map(Fetch::key).cloned());
        let (mut answers, waited_us) = self.ask(&keys).await;
        for (rider, answer) in riders.into_iter().zip(answers.split_off(led.len().min(answers.len()))) {
            self.stage(rider, round.sent_at, &answer);
        }
        let now = self.now();
        for (((at, leader), key), answer) in led.into_iter().zip(keys).zip(answers) {
            let below = Below { waited_us: Some(waited_us), ..Below::new(&self.core, &key, now) };
            self.promote(&leader, round.sent_at, &answer, below.group);
            leader.land(&answer);
            self.answer_below(at, &key, answer, below, reads);
        }
    }

    /// Reads below, and counts the call; also how long it took for each key, microseconds.
    pub(super) async fn ask(&self, keys: &[Key]) -> (Vec<Answer>, u64) {
        let begun = stopwatch_ns();
        #[cfg(feature = "otel")]
        let answers = {
            use tracing::Instrument;
            // Part of a call's span, where the call is traced.
            let traced = !tracing::Span::current().is_none();
            let span = if traced {
                tracing::info_span!(target: "terrace::trace", "read L2", otel.kind = "client", keys = keys.len())
            } else {
                tracing::Span::none()
            };
            self.l2.get(keys, true).instrument(span).await
        };
        #[cfg(not(feature = "otel"))]
        let answers = self.l2.get(keys, true).await;
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        let us = (stopwatch_ns() - begun) / 1000;
        self.counters.read_below(keys.len(), failed, us);
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

    /// The copy of an entry that was asked for at `sent_at`: lives are counted from there, so that the copy never
    /// outlives the key.
    pub(super) fn copy_of(&self, key: &[u8], stored: &Stored, sent_at: Tick, group: u8) -> Fill {
        let expires_at = stored.life.until(sent_at);
        let deadline = self.core.deadline_of(key, expires_at, sent_at);
        Fill { value: stored.value.clone(), expires_at, deadline, group }
    }

    /// Waits for the flights of others. Returns the keys that have to try again.
    async fn wait(&self, round: Round, reads: &mut Reads) -> Vec<(usize, Key)> {
        let (mut again, mut landed) = (round.again, Vec::with_capacity(round.joined.len()));
        for (at, key, receiver) in round.joined {
            match receiver.await {
                Ok(answer) => landed.push((at, key, answer)),
                Err(_given_up) => again.push((at, key)),
            }
        }
        if !landed.is_empty() {
            let now = self.now();
            for (at, key, answer) in landed {
                let below = Below { coalesced: true, ..Below::new(&self.core, &key, now) };
                self.answer_below(at, &key, answer, below, reads);
            }
        }
        again
    }

    /// Last resort after many flights given up by others: asks L2 without a lease, promotes nothing.
    async fn ask_alone(&self, pending: Vec<(usize, Key)>, reads: &mut Reads) {
        let keys: Vec<Key> = pending.iter().map(|(_, key)| key.clone()).collect();
        let (answers, waited_us) = self.ask(&keys).await;
        let now = self.now();
        for ((at, key), answer) in pending.into_iter().zip(answers) {
            let below = Below { waited_us: Some(waited_us), ..Below::new(&self.core, &key, now) };
            self.answer_below(at, &key, answer, below, reads);
        }
    }

    /// Counts and records what L2 said of one key. Where it could not be asked, a stale copy may do.
    fn answer_below(&self, at: usize, key: &[u8], answer: Answer, below: Below, reads: &mut Reads) {
        if let Err(error) = &answer
            && error.says_away()
            && let Some((found, group)) = self.stale_copy(key, reads.stale_for)
        {
            if reads.is_counted {
                self.counters.outcome(group, Outcome::Stale, false);
            }
            return reads.answer(at, Ok(Read::Found(found)));
        }
        let outcome = match &answer {
            Ok(Some(_)) => Outcome::HitL2,
            Ok(None) => Outcome::Miss,
            Err(_) => Outcome::Error,
        };
        if reads.is_counted {
            let Below { now, .. } = below;
            self.counters.outcome(below.group, outcome, below.coalesced);
            self.note_below(key, &answer, &below);
            if let Ok(Some(stored)) = &answer
                && !below.coalesced
            {
                self.slide(key, stored.life);
            }
            match outcome {
                Outcome::HitL2 => self.tap.tell(key, Happened::HitL2, self.caller, now),
                Outcome::Miss => self.tap.tell(key, Happened::Miss, self.caller, now),
                Outcome::Error => self.tap.tell(key, Happened::Failed, self.caller, now),
                Outcome::HitL1 | Outcome::Stale => {}
            }
        }
        reads.answer(at, answer.map(Read::from_below));
    }

    /// Tells the rankings and the ghosts of a read that L1 did not answer.
    fn note_below(&self, key: &[u8], answer: &Answer, below: &Below) {
        let now = below.now;
        let bytes = |found: &Option<Stored>| found.as_ref().map(|found| found.value.len());
        self.counters.tops.read_below(key, answer.as_ref().ok().map(bytes), below.waited_us, now);
        if let Ok(found) = answer {
            let found = found.as_ref().map(|found| (found.value.len(), found.life.until(now)));
            self.core.note_for_ghosts(key, self.core.l1.hash_of(key), found, now);
        }
    }

    /// A copy past the coherence bound, flagged so, and its group.
    fn stale_copy(&self, key: &[u8], stale_for: Duration) -> Option<(Found, u8)> {
        if stale_for.is_zero() {
            return None;
        }
        let now = self.now();
        let hit = self.core.opened_stale(self.core.l1.get_stale(key, now, stale_for)?, now, stale_for)?;
        let group = hit.group;
        Some((Found { stale: true, ..hit.found(now) }, group))
    }
}

/// One round of flights.
struct Round {
    sent_at: Tick,
    led: Vec<(usize, Leader)>,
    joined: Vec<(usize, Key, oneshot::Receiver<Answer>)>,
    again: Vec<(usize, Key)>,
}

impl Round {
    fn new(sent_at: Tick) -> Self {
        Self { sent_at, led: Vec::new(), joined: Vec::new(), again: Vec::new() }
    }
}

/// What is known of a read that L1 did not answer, beside the answer.
#[derive(Clone, Copy)]
struct Below {
    /// Of its key.
    group: u8,
    /// It joined another's flight.
    coalesced: bool,
    /// How long L2 took for it, if it was asked for this read.
    waited_us: Option<u64>,
    /// When the answer came.
    now: Tick,
}

impl Below {
    fn new(core: &Core, key: &[u8], now: Tick) -> Self {
        Self { group: core.group_of(key), coalesced: false, waited_us: None, now }
    }
}

/// Results by position.
struct Reads {
    results: Vec<Option<Result<Read>>>,
    /// They are reads of a user.
    is_counted: bool,
    /// How long after its fence a copy may be answered where L2 cannot be asked.
    stale_for: Duration,
}

impl Reads {
    fn new(len: usize) -> Self {
        Self { results: (0..len).map(|_| None).collect(), is_counted: true, stale_for: Duration::ZERO }
    }

    fn answer(&mut self, at: usize, result: Result<Read>) {
        self.results[at] = Some(result);
    }

    fn results(self) -> Vec<Result<Read>> {
        let unanswered = || Err(CacheError::new(Kind::Internal, "a read without a result"));
        self.results.into_iter().map(|result| result.unwrap_or_else(unanswered)).collect()
    }
}

impl Read {
    pub(crate) fn from_below(stored: Option<Stored>) -> Self {
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

impl Hit {
    /// As the answer to a read at `now`.
    #[must_use]
    pub fn found(self, now: Tick) -> Found {
        let life = if self.expires_at == Tick::FAR { Life::Forever } else { Life::For(self.expires_at.since(now)) };
        Found {
            value: self.value,
            tier: Tier::L1,
            stale: false,
            life,
            age: now.since(self.filled_at),
            l1_hits: self.hits,
        }
    }
}
