//! Tests L1 under schedules that a scheduler chooses: `cargo test --features shuttle --lib interleavings`.
//!
//! Each test runs under [`ROUNDS`] random schedules, and under as many schedules with few, well-placed thread switches
//! (PCT). The scheduler can switch threads at every lock and at every atomic through which threads interact. A failing
//! schedule is printed, and `shuttle::replay` repeats it.

use std::sync::Arc;

use bytes::Bytes;
use shuttle::{
    Config, Runner,
    scheduler::{PctScheduler, RandomScheduler},
    sync::atomic::{AtomicU64 as Word, Ordering::SeqCst},
    thread,
};

use super::*;
use crate::model::Value;

/// Number of schedules of each kind; `TERRACE_SHUTTLE_ROUNDS` sets another number.
const ROUNDS: usize = 5_000;
/// Number of thread switches in a PCT schedule.
const SWITCHES: usize = 3;
/// Stack size of each thread: an unoptimized build creates large tables on the stack.
const STACK_BYTES: usize = 1 << 20;
const NOW: Tick = Tick(5);

#[expect(clippy::disallowed_methods, reason = "tests have no configuration of their own")]
fn under_many_schedules(test: fn()) {
    let rounds = std::env::var("TERRACE_SHUTTLE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    Runner::new(RandomScheduler::new(rounds), config.clone()).run(test);
    Runner::new(PctScheduler::new(SWITCHES, rounds), config).run(test);
}

fn l1(capacity_bytes: u64, shards: usize) -> Arc<L1> {
    let settings = Settings { capacity_bytes, max_entries: None, policy: PolicyKind::Learned };
    Arc::new(L1::with_shards(settings, shards, Some(7)))
}

fn key(number: u64) -> Key {
    Key::copied(format!("key:{number}").as_bytes()).expect("a valid key")
}

fn value(number: u64) -> Fill {
    let value = Value::from(Bytes::copy_from_slice(&number.to_le_bytes()));
    Fill { value, expires_at: Tick::FAR, deadline: Tick::FAR, group: 0 }
}

fn number(hit: &Hit) -> u64 {
    u64::from_le_bytes((*hit.value)[..8].try_into().expect("eight bytes"))
}

/// Takes a lease, reads L2 and fills, as a reader does.
fn read_through(l1: &L1, stored: &Word, token: u64, epoch: Option<Epoch>) {
    read_through_at(l1, stored, token, epoch, NOW);
}

fn read_through_at(l1: &L1, stored: &Word, token: u64, epoch: Option<Epoch>, now: Tick) {
    if let Leased::Lead = l1.lease(&key(0), Token(token), now, epoch, true) {
        let seen = stored.load(SeqCst);
        let _filled = l1.fill(&key(0), Token(token), value(seen), now);
    }
}

/// Changes the value in L2 and invalidates the key.
fn change(l1: &L1, stored: &Word) -> u64 {
    let next = stored.fetch_add(1, SeqCst) + 1;
    l1.invalidate(&key(0));
    next
}

#[test]
fn no_value_from_before_an_invalidation_stays_behind_it() {
    under_many_schedules(|| {
        let (l1, stored) = (l1(1 << 20, 1), Arc::new(Word::new(1)));
        let epoch = l1.begin(Tick::FAR);
        let readers: Vec<_> = (0..2)
            .map(|token| {
                let (l1, stored) = (Arc::clone(&l1), Arc::clone(&stored));
                thread::spawn(move || read_through(&l1, &stored, token, epoch))
            })
            .collect();
        let writer = {
            let (l1, stored) = (Arc::clone(&l1), Arc::clone(&stored));
            thread::spawn(move || {
                for _ in 0..2 {
                    let acknowledged = change(&l1, &stored);
                    if let Some(hit) = l1.get(&key(0), NOW, true) {
                        assert!(number(&hit) >= acknowledged, "{} after {acknowledged}", number(&hit));
                    }
                }
            })
        };
        readers.into_iter().chain([writer]).for_each(|thread| thread.join().expect("no panic"));
        if let Some(hit) = l1.get(&key(0), NOW, true) {
            assert_eq!(number(&hit), stored.load(SeqCst), "L1 keeps an old value");
        }
        l1.validate().expect("consistent");
    });
}

#[test]
fn nothing_of_an_epoch_that_has_ended_is_answered_or_left_after_a_sweep() {
    under_many_schedules(|| {
        let (l1, stored) = (l1(1 << 20, 1), Arc::new(Word::new(1)));
        let old = l1.begin(Tick::FAR).expect("a number");
        let filler = {
            let (l1, stored) = (Arc::clone(&l1), Arc::clone(&stored));
            thread::spawn(move || read_through(&l1, &stored, 1, Some(old)))
        };
        let flusher = {
            let (l1, stored) = (Arc::clone(&l1), Arc::clone(&stored));
            // Everything changes, and one message announces it.
            thread::spawn(move || {
                stored.fetch_add(1, SeqCst);
                l1.end(old);
                assert!(l1.get(&key(0), NOW, true).is_none(), "copies of the old epoch are void");
                l1.sweep(NOW, usize::MAX);
                let new = l1.begin(Tick::FAR).expect("a number");
                read_through(&l1, &stored, 2, Some(new));
            })
        };
        [filler, flusher].into_iter().for_each(|thread| thread.join().expect("no panic"));
        l1.sweep(NOW, usize::MAX);
        // Its number may be reused now: that must not make an old copy valid again.
        let _again: Vec<_> = (0..3).map(|_| l1.begin(Tick::FAR)).collect();
        if let Some(hit) = l1.get(&key(0), NOW, true) {
            assert_eq!(number(&hit), stored.load(SeqCst), "a copy of an ended epoch");
        }
        l1.validate().expect("consistent");
    });
}

#[test]
fn a_suspended_epoch_is_neither_answered_nor_filled_whatever_its_heartbeat_still_says() {
    under_many_schedules(|| {
        let (l1, stored) = (l1(1 << 20, 1), Arc::new(Word::new(1)));
        let epoch = l1.begin(Tick::FAR).expect("a number");
        read_through(&l1, &stored, 1, Some(epoch));
        let heartbeat = {
            let l1 = Arc::clone(&l1);
            thread::spawn(move || l1.extend(epoch, Tick::FAR))
        };
        let filler = {
            let (l1, stored) = (Arc::clone(&l1), Arc::clone(&stored));
            thread::spawn(move || read_through(&l1, &stored, 2, Some(epoch)))
        };
        let loss = {
            let l1 = Arc::clone(&l1);
            thread::spawn(move || {
                l1.suspend(epoch);
                assert!(l1.get(&key(0), NOW, true).is_none(), "changes are not received");
            })
        };
        [heartbeat, filler, loss].into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert!(l1.get(&key(0), NOW, true).is_none(), "changes are not received");
        assert!(matches!(l1.lease(&key(1), Token(9), NOW, Some(epoch), true), Leased::Lead));
        assert_eq!(l1.fill(&key(1), Token(9), value(1), NOW), Filled::Voided);
        l1.validate().expect("consistent");
    });
}

#[test]
fn no_value_from_before_a_ban_is_answered_after_it_or_left_by_its_walk() {
    under_many_schedules(|| {
        let (l1, stored) = (l1(1 << 20, 2), Arc::new(Word::new(1)));
        let epoch = l1.begin(Tick::FAR);
        let readers: Vec<_> = (2..4)
            .map(|token| {
                let (l1, stored) = (Arc::clone(&l1), Arc::clone(&stored));
                // The clock says that this is later than the ban; only the lease shows that the value is older.
                thread::spawn(move || read_through_at(&l1, &stored, token, epoch, Tick(6)))
            })
            .collect();
        let sweeper = {
            let (l1, stored) = (Arc::clone(&l1), Arc::clone(&stored));
            thread::spawn(move || {
                let acknowledged = stored.fetch_add(1, SeqCst) + 1;
                let glob = Glob::new(b"key:*").expect("a pattern");
                let mut purge = l1.ban(glob, NOW).expect("a place");
                for _ in 0..8 {
                    if let Some(hit) = l1.get(&key(0), Tick(7), true) {
                        assert!(number(&hit) >= acknowledged, "{} after {acknowledged}", number(&hit));
                    }
                    l1.purge(&mut purge, Tick(7), 1);
                }
                assert!(purge.is_done());
            })
        };
        readers.into_iter().chain([sweeper]).for_each(|thread| thread.join().expect("no panic"));
        if let Some(hit) = l1.get(&key(0), Tick(7), true) {
            assert_eq!(number(&hit), stored.load(SeqCst), "L1 keeps an old value");
        }
        l1.validate().expect("consistent");
    });
}

#[test]
fn the_byte_bound_holds_while_shards_take_room_from_each_other() {
    const CAPACITY: u64 = 4_096;
    under_many_schedules(|| {
        let l1 = l1(CAPACITY, 2);
        let epoch = l1.begin(Tick::FAR).expect("a number");
        let fillers: Vec<_> = (0..2)
            .map(|filler| {
                let l1 = Arc::clone(&l1);
                thread::spawn(move || {
                    for step in 0..8 {
                        let (name, token) = (key(filler * 100 + step), Token(filler * 100 + step));
                        if let Leased::Lead = l1.lease(&name, token, NOW, Some(epoch), true) {
                            let bytes = Bytes::from(vec![1; 60 * (1 + step as usize % 7)]);
                            let value = Value::from(bytes);
                            let fill = Fill { value, expires_at: Tick::FAR, deadline: Tick::FAR, group: 0 };
                            l1.fill(&name, token, fill, NOW);
                        }
                        assert!(l1.usage().bytes <= CAPACITY, "{:?}", l1.usage());
                    }
                })
            })
            .collect();
        fillers.into_iter().for_each(|thread| thread.join().expect("no panic"));
        l1.validate().expect("consistent");
    });
}
