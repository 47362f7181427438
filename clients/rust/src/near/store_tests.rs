//! Tests of the copies: limits, validity, and races between reads and events.

use std::{sync::atomic::AtomicBool, thread};

use super::*;

const STALENESS: Duration = Duration::from_secs(3);
const START: Moment = Moment(1_000_000_000_000);
const CONNECTION: u32 = 7;

fn after(ms: u64) -> Moment {
    START.plus(Duration::from_millis(ms))
}

/// A store with one feed that was confirmed at [`START`].
struct World {
    store: Store,
    feed: Arc<Feed>,
}

impl World {
    fn new() -> Self {
        let (store, feed) = (Store::new(1 << 20, STALENESS), Feed::new());
        feed.set_connected(CONNECTION);
        store.confirm(&feed, CONNECTION, START);
        Self { store, feed }
    }

    fn keep(&self, reading: &Reading, answer: Answer<'_>) -> bool {
        self.store.keep(reading, &self.feed, answer)
    }

    /// Reads and keeps a key.
    fn read(&self, key: &'static str, answer: Answer<'_>) -> bool {
        let reading = self.store.begin(&Bytes::from_static(key.as_bytes()), START);
        self.keep(&reading, answer)
    }

    fn value(&self, key: &str, now: Moment) -> Option<Bytes> {
        self.store.get(key.as_bytes(), now).map(|copy| copy.value().clone())
    }
}

const VALUE: Bytes = Bytes::from_static(b"value");

fn answer() -> Answer<'static> {
    static KEPT: Bytes = VALUE;
    Answer { value: &KEPT, is_stale: false, fresh_for: None, expires_in: None, tags: &[] }
}

#[test]
fn an_answer_is_kept_and_returned() {
    let world = World::new();
    assert_eq!(world.value("key", START), None);
    assert!(world.read("key", answer()));
    assert_eq!(world.value("key", START), Some(VALUE));
    assert_eq!(world.store.size().0, 1);
}

#[test]
fn every_event_during_a_read_prevents_its_copy() {
    let tags = [Bytes::from_static(b"team")];
    type Event = fn(&World);
    let events: [(&str, Event); 6] = [
        ("key", |world| {
            world.store.key_changed(b"user:1");
        }),
        ("tag", |world| world.store.tag_changed(b"team")),
        ("pattern", |world| world.store.pattern_changed(&Bytes::from_static(b"user:*"))),
        ("exact pattern", |world| world.store.pattern_changed(&Bytes::from_static(b"user:1"))),
        ("everything", |world| world.store.prefix_changed(b"")),
        ("discontinuity", |world| {
            world.store.lost(&world.feed);
            world.store.confirm(&world.feed, CONNECTION, START);
        }),
    ];
    for (name, event) in events {
        let world = World::new();
        let reading = world.store.begin(&Bytes::from_static(b"user:1"), START);
        event(&world);
        world.keep(&reading, Answer { tags: &tags, ..answer() });
        assert_eq!(world.value("user:1", START), None, "{name}");
        // A read after the event is kept.
        assert!(world.read("user:1", Answer { tags: &tags, ..answer() }), "{name}");
        assert_eq!(world.value("user:1", START), Some(VALUE), "{name}");
        event(&world);
        assert_eq!(world.value("user:1", START), None, "{name}");
        assert!(name == "discontinuity" || world.store.unconfirmed(b"user:1", START).is_none(), "{name}");
    }
}

#[test]
fn a_copy_is_not_used_before_its_versions_were_compared_again() {
    let world = World::new();
    let reading = world.store.begin(&Bytes::from_static(b"key"), START);
    let (copy, epoch) = world.store.insert(&reading, &world.feed, answer()).unwrap();
    assert_eq!(world.value("key", START), None);
    assert!(world.store.unconfirmed(b"key", START).is_none());
    // An event of a key in the same stripe, for example, that was applied between comparison and insertion.
    world.store.versions[reading.stripe].fetch_add(1, AcqRel);
    assert!(!world.store.complete(&reading, &copy, epoch));
    assert_eq!((world.value("key", START), world.store.size().0), (None, 0));
}

#[test]
fn a_confirmation_during_a_lookup_proves_nothing_about_the_copy() {
    let world = World::new();
    world.read("key", answer());
    let confirmations = world.store.confirmations.load(Acquire);
    let copy = world.store.copies.get(&b"key"[..]).unwrap();
    // The reader sleeps. Meanwhile the key changes, and a later heartbeat confirms the feed.
    world.store.key_changed(b"key");
    world.store.confirm(&world.feed, CONNECTION, after(10_000));
    assert_eq!(world.store.judge(b"key", &copy, after(10_000), confirmations), None);
}

#[test]
fn other_events_end_no_copy() {
    let world = World::new();
    let tags = [Bytes::from_static(b"team")];
    assert!(world.read("user:1", Answer { tags: &tags, ..answer() }));
    world.store.key_changed(b"user:2");
    world.store.tag_changed(b"other");
    world.store.pattern_changed(&Bytes::from_static(b"cart:*"));
    world.store.prefix_changed(b"user:10");
    world.store.lost(&Feed::new());
    assert_eq!(world.value("user:1", START), Some(VALUE));
}

#[test]
fn many_bans_end_copies_that_were_compared_with_none_of_them() {
    let world = World::new();
    for key in ["old", "read"] {
        assert!(world.read(key, answer()));
    }
    for number in 0..BANS_MAX {
        world.store.prefix_changed(format!("ban:{number}").as_bytes());
    }
    assert_eq!(world.value("read", START), Some(VALUE), "compared with all bans");
    world.store.prefix_changed(b"ban:last");
    assert_eq!(world.value("read", START), Some(VALUE));
    assert_eq!(world.value("old", START), None, "the first ban is forgotten");
}

#[test]
fn a_pattern_ends_the_keys_with_its_literal_prefix() {
    for (pattern, prefix) in
        [("user:*", "user:"), ("user:1", "user:1"), ("u?er", "u"), ("a[bc]", "a"), ("a\\*b", "a"), ("*", ""), ("", "")]
    {
        assert_eq!(literal_prefix(&Bytes::from_static(pattern.as_bytes())), prefix, "{pattern}");
    }
}

#[test]
fn a_copy_ends_when_the_value_needs_a_refresh_or_expires() {
    let world = World::new();
    let (fresh_for, expires_in) = (Some(Duration::from_millis(100)), Some(Duration::from_millis(200)));
    world.read("fresh", Answer { fresh_for, expires_in, ..answer() });
    world.read("expires", Answer { expires_in, ..answer() });
    world.read("stays", answer());
    assert_eq!(world.value("fresh", after(99)), Some(VALUE));
    assert_eq!(world.value("fresh", after(100)), None);
    assert!(world.store.unconfirmed(b"fresh", after(199)).is_some());
    assert!(world.store.unconfirmed(b"fresh", after(200)).is_none());
    assert_eq!(world.value("expires", after(199)), Some(VALUE));
    assert_eq!(world.value("expires", after(200)), None);
    assert_eq!(world.value("stays", after(200)), Some(VALUE));
}

#[test]
fn a_hit_needs_a_recent_heartbeat() {
    let world = World::new();
    world.read("key", answer());
    // The last heartbeat proves the changes up to 1 s before it.
    assert_eq!(world.value("key", after(2_000)), Some(VALUE));
    assert_eq!(world.value("key", after(2_001)), None);
    assert!(world.store.unconfirmed(b"key", after(60_000)).is_some(), "for a cache that cannot be reached");
    world.store.confirm(&world.feed, CONNECTION, after(500));
    assert_eq!(world.value("key", after(2_500)), Some(VALUE));
    world.store.confirm(&world.feed, CONNECTION, START);
    assert_eq!(world.value("key", after(2_500)), Some(VALUE), "an older proof takes nothing away");
}

#[test]
fn a_discontinuity_ends_the_copies_of_its_node_at_once() {
    let world = World::new();
    let other = Feed::new();
    other.set_connected(1);
    world.store.confirm(&other, 1, START);
    world.read("key", answer());
    let reading = world.store.begin(&Bytes::from_static(b"other"), START);
    assert!(world.store.keep(&reading, &other, answer()));
    world.store.lost(&world.feed);
    assert!(!world.feed.is_keeping());
    assert!(!world.read("late", answer()), "nothing is kept before a heartbeat");
    world.store.confirm(&world.feed, CONNECTION, after(1));
    assert_eq!(world.value("key", after(1)), None);
    assert!(world.store.unconfirmed(b"key", after(1)).is_some());
    assert_eq!(world.value("other", after(1)), Some(VALUE));
    assert!(world.read("late", answer()));
}

#[test]
fn answers_of_another_connection_than_the_feeds_are_not_kept() {
    let world = World::new();
    world.feed.set_connected(CONNECTION + 1);
    assert!(!world.read("key", answer()));
    world.store.confirm(&world.feed, CONNECTION + 1, START);
    assert!(world.read("key", answer()));
    world.feed.pause();
    assert!(!world.read("paused", answer()));
    assert_eq!(world.value("key", START), Some(VALUE), "a pause ends no copy");
}

#[test]
fn a_value_that_may_be_old_is_not_kept() {
    let world = World::new();
    assert!(!world.read("key", Answer { is_stale: true, ..answer() }));
    assert_eq!(world.value("key", START), None);
}

#[test]
fn a_copy_holds_no_other_memory_and_is_bounded() {
    let world = World::new();
    let message = Bytes::from(vec![b'x'; 1 << 16]);
    let value = message.slice(..10);
    world.read("key", Answer { value: &value, ..answer() });
    assert!(!message.as_ptr_range().contains(&world.value("key", START).unwrap().as_ptr()), "the message can be freed");
    let large = Bytes::from(vec![b'x'; 100_000]);
    for number in 0..100 {
        let reading = world.store.begin(&Bytes::from(format!("key:{number}")), START);
        world.keep(&reading, Answer { value: &large, ..answer() });
    }
    let (entries, weight) = world.store.size();
    assert!(entries >= 5 && weight <= 1 << 20, "{entries} copies of {weight} bytes");
    let huge = Bytes::from(vec![b'x'; 2 << 20]);
    world.read("huge", Answer { value: &huge, ..answer() });
    assert_eq!(world.value("huge", START), None);
}

#[test]
fn a_value_is_decoded_once() {
    let world = World::new();
    world.read("key", answer());
    let copy = world.store.get(b"key", START).unwrap();
    let text = |value: &Bytes| Ok(String::from_utf8_lossy(value).into_owned());
    let first = copy.decoded(text).unwrap();
    let second = copy.decoded::<String>(|_| panic!("decoded twice")).unwrap();
    assert!(Arc::ptr_eq(&first, &second) && *first == "value");
    assert_eq!(*copy.decoded(|value| Ok(value.len())).unwrap(), 5, "another type");
    world.read("key", answer());
    let copy = world.store.get(b"key", START).unwrap();
    let failed = copy.decoded::<String>(|_| Err(crate::Error::invalid("no"))).unwrap_err();
    assert_eq!(failed.message(), "no");
    assert_eq!(*copy.decoded(text).unwrap(), "value", "a failure is not stored");
}

/// Threads read, write and confirm. `current` is the value of the source; an event follows each change. A hit must not be
/// older than the value at the time of the last confirmation, which readers see as `proven`.
#[test]
fn no_thread_sees_a_copy_from_before_the_last_confirmation() {
    const KEYS: [&str; 3] = ["a", "b", "c"];
    const ROUNDS: u64 = 30_000;
    let world = World::new();
    let sources: [AtomicU64; 3] = Default::default();
    let proven: [AtomicU64; 3] = Default::default();
    let done = AtomicBool::new(false);
    let hits = AtomicU64::new(0);
    thread::scope(|scope| {
        let readers = [(); 2].map(|()| {
            scope.spawn(|| {
                while !done.load(Acquire) {
                    for (number, key) in KEYS.into_iter().enumerate() {
                        let at_least = proven[number].load(Acquire);
                        if let Some(copy) = world.store.get(key.as_bytes(), START) {
                            let seen = u64::from_le_bytes(copy.value()[..].try_into().unwrap());
                            assert!(seen >= at_least, "{key}: {seen} after {at_least}");
                            hits.fetch_add(1, AcqRel);
                            continue;
                        }
                        let reading = world.store.begin(&Bytes::from_static(key.as_bytes()), START);
                        let value = Bytes::copy_from_slice(&sources[number].load(Acquire).to_le_bytes());
                        thread::yield_now();
                        world.keep(&reading, Answer { value: &value, ..answer() });
                    }
                }
            })
        });
        // A busy machine may run the readers late.
        let mut round = 0;
        while round < ROUNDS || hits.load(Acquire) < 100 {
            assert!(!readers.iter().any(thread::ScopedJoinHandle::is_finished), "a reader has failed");
            round += 1;
            let number = (round % 3) as usize;
            sources[number].store(round, Release);
            match round % 7 {
                0 => world.store.prefix_changed(KEYS[number].as_bytes()),
                1 => world.store.lost(&world.feed),
                _ => {
                    world.store.key_changed(KEYS[number].as_bytes());
                }
            }
            world.store.confirm(&world.feed, CONNECTION, START);
            proven[number].store(round, Release);
            if round % 16 == 0 {
                thread::yield_now();
            }
        }
        done.store(true, Release);
    });
}
