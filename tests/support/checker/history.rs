//! The history of all writes, and the judge that decides whether it allows the result of a read.
//!
//! Writes of one key follow one another, each with a higher number. An acknowledged write was executed between its
//! sending and its acknowledgement. A write without an answer (error, timeout) is a *doubt*: it may be executed never,
//! or at any later moment, even after its successors, until everything that may still carry it is gone.
//! [`History::barrier`] reports that (all connections of Redis were killed); from the next write on, the doubt no
//! longer counts.
//!
//! There are two kinds of upheaval, each with a beginning and an end:
//! * [`Upheaval::Loss`]: Redis may lose keys (killed, flushed, evicting). Until a key is written again, a missing key
//!   is allowed, an older value is not.
//! * [`Upheaval::Regress`]: acknowledged writes may be undone (a failover to a replica that was behind). Until a key is
//!   written again, nothing is judged.

use std::{
    collections::VecDeque,
    fmt,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Number of tags that keys are written under.
pub const TAGS: usize = 4;

/// Returns the tag of a volatile key; other keys have none.
pub fn tag(key: usize) -> Option<usize> {
    (habit(key) == Habit::Goes).then_some(key / 4 % TAGS)
}

/// Retention of acknowledgements: longer than any read takes, plus Δ.
const KEPT: Duration = Duration::from_secs(40);

/// Events of a key in addition to writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// None.
    Stays,
    /// The key may be absent at any time: it is written with short TTLs, or deleted.
    Goes,
}

/// One key in four is volatile: half of these expire, half are deleted.
pub fn habit(key: usize) -> Habit {
    if key % 4 == 3 { Habit::Goes } else { Habit::Stays }
}

/// Periods in which Redis may undo writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upheaval {
    Loss,
    Regress,
}

/// A read to be judged.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    pub key: usize,
    /// A time before the read was sent.
    pub began: Instant,
    /// `None` = the key is missing.
    pub number: Option<u64>,
    /// Maximum age of the answer.
    pub bound: Duration,
    /// The read went through a node, which must not return entries with invalidated tags.
    pub knows_tags: bool,
}

/// A write in flight. Dropping it without an acknowledgement leaves a doubt.
pub struct Write<'a> {
    history: &'a History,
    pub key: usize,
    pub number: u64,
    sent_at: Instant,
    told: bool,
}

impl Write<'_> {
    /// Redis has acknowledged the write.
    pub fn acknowledged(self) {
        self.end(false);
    }

    /// As [`Write::acknowledged`], for an entry with the tag of its key.
    pub fn acknowledged_under_tag(self) {
        self.end(true);
    }

    fn end(mut self, tagged: bool) {
        self.told = true;
        self.history.acknowledged(self.key, self.number, self.sent_at, Instant::now(), tagged);
        self.history.keys[self.key].busy.store(false, SeqCst);
    }

    /// It is unknown whether and when the write will be executed.
    pub fn doubtful(self) {
        drop(self);
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.history.doubted(self.key, self.number, Instant::now());
            self.history.keys[self.key].busy.store(false, SeqCst);
        }
    }
}

/// The reason why a read is not allowed.
#[derive(Debug)]
pub struct Refuted {
    read: Read,
    least: u64,
    /// Time from the acknowledgement of `least` to the beginning of the read.
    acknowledged: Duration,
    /// Further known state of the key.
    newest: u64,
}

impl fmt::Display for Refuted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { read, least, acknowledged, newest } = self;
        let found = read.number.map_or("missing".to_owned(), |number| number.to_string());
        let age = read.began.elapsed();
        if *least == u64::MAX {
            return write!(
                f,
                "key {} read {found}, begun {age:?} ago; its tag was invalidated {acknowledged:?} before that",
                read.key
            );
        }
        write!(
            f,
            "key {} read {found}, begun {age:?} ago; {least} was acknowledged {acknowledged:?} before that, ",
            read.key
        )?;
        write!(f, "{newest} is the newest")
    }
}

#[derive(Debug, Clone, Copy)]
struct Ack {
    number: u64,
    sent_at: Instant,
    acked_at: Instant,
    /// The entry has the tag of its key.
    tagged: bool,
}

/// An acknowledged invalidation of a tag.
#[derive(Debug, Clone, Copy)]
struct Invalidation {
    sent_at: Instant,
    acked_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Doubt {
    number: u64,
    told_at: Instant,
    /// The acknowledgement of a write that this one cannot overtake.
    over_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Key {
    busy: AtomicBool,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    newest: u64,
    acks: VecDeque<Ack>,
    doubts: Vec<Doubt>,
}

/// Beginning and end of an upheaval.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    open: u32,
    ended_at: Option<Instant>,
}

impl Span {
    /// Returns whether a write that was sent at `sent_at` may have been undone since.
    fn reaches(&self, sent_at: Instant) -> bool {
        self.open > 0 || self.ended_at.is_some_and(|ended_at| ended_at >= sent_at)
    }
}

#[derive(Debug, Default)]
struct Sea {
    loss: Span,
    regress: Span,
    /// Upheavals that have ended.
    ended: u64,
    /// Beginning and end of the last barrier.
    barrier: Option<(Instant, Instant)>,
}

impl Sea {
    fn span(&mut self, upheaval: Upheaval) -> &mut Span {
        match upheaval {
            Upheaval::Loss => &mut self.loss,
            Upheaval::Regress => &mut self.regress,
        }
    }
}

/// All keys.
#[derive(Debug)]
pub struct History {
    keys: Vec<Key>,
    tags: [Mutex<VecDeque<Invalidation>>; TAGS],
    sea: Mutex<Sea>,
}

impl History {
    /// Creates a history without writes.
    pub fn new(keys: usize) -> Self {
        Self { keys: (0..keys).map(|_| Key::default()).collect(), tags: Default::default(), sea: Mutex::default() }
    }

    /// Number of keys.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Begins a write, unless another write of this key is in flight.
    pub fn write(&self, key: usize) -> Option<Write<'_>> {
        if self.keys[key].busy.swap(true, SeqCst) {
            return None;
        }
        let number = {
            let mut log = self.keys[key].log.lock();
            log.newest += 1;
            log.newest
        };
        Some(Write { history: self, key, number, sent_at: Instant::now(), told: false })
    }

    /// Begins an upheaval.
    pub fn begins(&self, upheaval: Upheaval) {
        self.sea.lock().span(upheaval).open += 1;
    }

    /// Ends an upheaval.
    pub fn ends(&self, upheaval: Upheaval) {
        let mut sea = self.sea.lock();
        let span = sea.span(upheaval);
        span.open -= 1;
        span.ended_at = Some(Instant::now());
        sea.ended += 1;
    }

    /// Number of upheavals that have ended.
    pub fn upheavals(&self) -> u64 {
        self.sea.lock().ended
    }

    /// Everything that carried the doubts known at `began` is gone: none of them will be executed any more.
    pub fn barrier(&self, began: Instant) {
        self.sea.lock().barrier = Some((began, Instant::now()));
    }

    /// Records an acknowledged invalidation of a tag.
    pub fn invalidated(&self, tag: usize, sent_at: Instant, acked_at: Instant) {
        let mut known = self.tags[tag].lock();
        known.push_back(Invalidation { sent_at, acked_at });
        while known.front().is_some_and(|old| acked_at.saturating_duration_since(old.acked_at) > KEPT) {
            known.pop_front();
        }
    }

    /// Time from the invalidation of the entry that was read to the read, if it exceeds the bound.
    fn dead_for(&self, read: &Read, ack: &Ack) -> Option<Duration> {
        let known = self.tags[tag(read.key)?].lock();
        // During an upheaval the invalidation itself may have been undone.
        let is_undone = |known: &Invalidation| self.sea.lock().regress.reaches(known.sent_at);
        let kills = |known: &&Invalidation| {
            ack.acked_at < known.sent_at && known.acked_at + read.bound < read.began && !is_undone(known)
        };
        known.iter().find(kills).map(|known| read.began.saturating_duration_since(known.acked_at))
    }

    fn acknowledged(&self, key: usize, number: u64, sent_at: Instant, acked_at: Instant, tagged: bool) {
        let barrier = self.sea.lock().barrier;
        let mut log = self.keys[key].log.lock();
        log.acks.push_back(Ack { number, sent_at, acked_at, tagged });
        // The last one that is older than all reads stays: it is the least that they must return.
        while log.acks.len() > 1 && acked_at.saturating_duration_since(log.acks[1].acked_at) > KEPT {
            log.acks.pop_front();
        }
        if let Some((began, ended)) = barrier
            && ended <= sent_at
        {
            for doubt in log.doubts.iter_mut().filter(|doubt| doubt.told_at <= began) {
                doubt.over_at.get_or_insert(acked_at);
            }
        }
        log.doubts.retain(|doubt| doubt.over_at.is_none_or(|over_at| acked_at - over_at < KEPT));
    }

    fn doubted(&self, key: usize, number: u64, told_at: Instant) {
        self.keys[key].log.lock().doubts.push(Doubt { number, told_at, over_at: None });
    }

    /// Returns how long the value had been replaced when the read began, if the read is allowed.
    ///
    /// # Errors
    /// The newest write that the read had to return, if it returned an older one.
    pub fn judge(&self, read: &Read) -> Result<Duration, Refuted> {
        let log = self.keys[read.key].log.lock();
        if let Some(ack) = read.number.and_then(|number| log.ack(number)).filter(|ack| ack.tagged && read.knows_tags)
            && let Some(acknowledged) = self.dead_for(read, &ack)
        {
            return Err(Refuted { read: *read, least: u64::MAX, acknowledged, newest: log.newest });
        }
        let Some(least) = log.least(read) else { return Ok(Duration::ZERO) };
        let (lost, regressed) = {
            let sea = self.sea.lock();
            (sea.loss.reaches(least.sent_at), sea.regress.reaches(least.sent_at))
        };
        let fine = match read.number {
            _ if regressed => true,
            None => lost || habit(read.key) == Habit::Goes,
            Some(number) => number >= least.number || log.doubts.iter().any(|doubt| doubt.explains(read, number)),
        };
        if fine {
            return Ok(if regressed { Duration::ZERO } else { log.age(read) });
        }
        let acknowledged = read.began.saturating_duration_since(least.acked_at);
        Err(Refuted { read: *read, least: least.number, acknowledged, newest: log.newest })
    }
}

impl Doubt {
    /// Returns whether the read may have returned this write because it was executed late.
    fn explains(&self, read: &Read, number: u64) -> bool {
        self.number == number && self.over_at.is_none_or(|over_at| over_at + read.bound >= read.began)
    }
}

impl Log {
    fn ack(&self, number: u64) -> Option<Ack> {
        let at = self.acks.partition_point(|ack| ack.number < number);
        self.acks.get(at).filter(|ack| ack.number == number).copied()
    }

    /// The newest write that the read had to return.
    fn least(&self, read: &Read) -> Option<Ack> {
        let before = self.acks.partition_point(|ack| ack.acked_at + read.bound < read.began);
        before.checked_sub(1).map(|at| self.acks[at])
    }

    /// Returns how long the value had been replaced when the read began; zero for a late write, whose time is unknown.
    fn age(&self, read: &Read) -> Duration {
        let Some(number) = read.number else { return Duration::ZERO };
        if self.doubts.iter().any(|doubt| doubt.number == number) {
            return Duration::ZERO;
        }
        let next = self.acks.partition_point(|ack| ack.number <= number);
        self.acks.get(next).map_or(Duration::ZERO, |ack| read.began.saturating_duration_since(ack.acked_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const BOUND: Duration = Duration::from_secs(1);

    /// A key that stays, with writes 1 and 2 acknowledged 5 s and 3 s after `zero`.
    fn two_writes(zero: Instant) -> History {
        let history = History::new(4);
        for key in [0, 3] {
            for (number, at) in [(1, 5000), (2, 3000 + 5000)] {
                history.keys[key].log.lock().newest = number;
                history.acknowledged(key, number, zero + MS * (at - 10), zero + MS * at, key == 3);
            }
        }
        history
    }

    fn read(history: &History, began: Instant, number: Option<u64>) -> Result<Duration, Refuted> {
        history.judge(&Read { key: 0, began, number, bound: BOUND, knows_tags: true })
    }

    #[test]
    fn an_older_value_is_refuted_from_the_bound_on() {
        let zero = Instant::now();
        let history = two_writes(zero);
        for (at, number, fine) in [
            (4999, None, true),
            (6001, None, false),
            (6001, Some(1), true),
            (8999, Some(1), true),
            (9001, Some(1), false),
            (9001, None, false),
            (9001, Some(2), true),
            (9001, Some(3), true),
        ] {
            let judged = read(&history, zero + MS * at, number);
            assert_eq!(judged.is_ok(), fine, "{at} {number:?} {judged:?}");
        }
        assert_eq!(read(&history, zero + MS * 8400, Some(1)).expect("within the bound"), MS * 400);
        let refuted = read(&history, zero + MS * 9500, Some(1)).expect_err("too old").to_string();
        assert!(refuted.contains("read 1") && refuted.contains("2 was acknowledged 1.5s before"), "{refuted}");
        // A volatile key may be missing, but its old values are refuted.
        let goes =
            |number| history.judge(&Read { key: 3, began: zero + MS * 9001, number, bound: BOUND, knows_tags: true });
        assert!(goes(None).is_ok() && goes(Some(1)).is_err());
    }

    #[test]
    fn what_was_written_under_a_tag_is_not_read_after_its_invalidation() {
        let zero = Instant::now();
        let history = two_writes(zero);
        // 1 was acknowledged at 5000, 2 at 8000.
        history.invalidated(tag(3).expect("it has one"), zero + MS * 7000, zero + MS * 7100);
        let read = |at: u32, number, knows_tags| {
            history.judge(&Read { key: 3, began: zero + MS * at, number, bound: BOUND, knows_tags })
        };
        for (at, number, knows_tags, fine) in [
            (8100, Some(1), true, true),
            (8101, Some(1), true, false),
            (8101, Some(1), false, true),
            (8101, None, true, true),
            (8101, Some(2), true, true),
            (20_000, Some(2), true, true),
        ] {
            let judged = read(at, number, knows_tags);
            assert_eq!(judged.is_ok(), fine, "{at} {number:?} {judged:?}");
        }
        let refuted = read(8101, Some(1), true).expect_err("it is dead").to_string();
        assert!(refuted.contains("its tag was invalidated 1.001s before"), "{refuted}");
        history.begins(Upheaval::Regress);
        assert!(read(8101, Some(1), true).is_ok(), "the invalidation may be undone");
    }

    #[test]
    fn a_doubt_explains_its_value_until_what_carried_it_is_gone() {
        let zero = Instant::now();
        let history = two_writes(zero);
        history.doubted(0, 3, zero + MS * 9000);
        history.acknowledged(0, 4, zero + MS * 9100, zero + MS * 9110, false);
        // 4 was acknowledged, then 3 was executed, late.
        assert!(read(&history, zero + MS * 60_000, Some(3)).is_ok());
        assert!(read(&history, zero + MS * 60_000, Some(2)).is_err());
        history.sea.lock().barrier = Some((zero + MS * 9500, zero + MS * 9600));
        // Sent before the barrier had ended: the doubt may be executed between the write and the barrier.
        history.acknowledged(0, 5, zero + MS * 9550, zero + MS * 9700, false);
        assert!(read(&history, zero + MS * 11_000, Some(3)).is_ok());
        history.acknowledged(0, 6, zero + MS * 9800, zero + MS * 9810, false);
        assert!(read(&history, zero + MS * 10_810, Some(3)).is_ok());
        assert!(read(&history, zero + MS * 10_811, Some(3)).is_err());
        // A barrier does not cover doubts that are recorded after its beginning.
        history.doubted(0, 7, zero + MS * 9900);
        history.acknowledged(0, 8, zero + MS * 9910, zero + MS * 9920, false);
        assert!(read(&history, zero + MS * 20_000, Some(7)).is_ok());
    }

    #[test]
    fn a_loss_excuses_missing_keys_until_they_are_written_again_and_no_old_value() {
        let history = History::new(1);
        history.write(0).expect("free").acknowledged();
        assert!(read(&history, Instant::now() + 2 * BOUND, None).is_err());
        history.begins(Upheaval::Loss);
        assert!(read(&history, Instant::now() + 2 * BOUND, None).is_ok());
        history.write(0).expect("free").acknowledged();
        history.ends(Upheaval::Loss);
        // It was written before the end, so it may be lost as well.
        assert!(read(&history, Instant::now() + 2 * BOUND, None).is_ok());
        assert!(read(&history, Instant::now() + 2 * BOUND, Some(1)).is_err());
        history.write(0).expect("free").acknowledged();
        assert!(read(&history, Instant::now() + 2 * BOUND, None).is_err());
    }

    #[test]
    fn after_a_regress_nothing_is_judged_until_the_next_write() {
        let history = History::new(1);
        for _ in 0..3 {
            history.write(0).expect("free").acknowledged();
        }
        history.begins(Upheaval::Regress);
        history.ends(Upheaval::Regress);
        assert!(read(&history, Instant::now() + 2 * BOUND, Some(1)).is_ok());
        history.write(0).expect("free").acknowledged();
        assert!(read(&history, Instant::now() + 2 * BOUND, Some(3)).is_err());
        assert!(read(&history, Instant::now() + 2 * BOUND, Some(4)).is_ok());
    }

    #[test]
    fn one_write_of_a_key_at_a_time() {
        let history = History::new(1);
        let first = history.write(0).expect("free");
        assert!(history.write(0).is_none());
        first.doubtful();
        let second = history.write(0).expect("free again");
        assert_eq!((second.number, history.keys[0].log.lock().doubts.len()), (2, 1));
    }
}
