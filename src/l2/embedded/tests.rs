//! Compares random operations with a model and recounts the whole store after each group.

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{future::join_all, poll};

use super::{
    Embedded, EmbeddedSettings, OpenError,
    disk::{
        rows::{EXPIRIES, ORDER, RECORDS, Record, TALLY_ROW, Tally, expiry_row, order_row},
        table::Table,
    },
};
use crate::{
    clock::{Clock, ManualClock, UnixMs},
    l2::{
        Applied, Backend, Ban, Batch, ChangeSink, Deadlines, Op, Source, Tunables,
        op::{self, Condition, EntryChange, ExpireOnly, NewExpiry, Present, SetExpiry},
    },
    model::Key,
};

struct Deaf;

impl ChangeSink for Deaf {
    fn invalidated(&self, _key: &[u8]) {}
    fn flushed(&self, _source: Source) {}
    fn banned(&self, _ban: &Arc<Ban>) {}
}

/// Checks that every record has one order row, that it has an expiry row only if it expires, and that the tally is
/// correct.
fn validate(table: &Table) -> Tally {
    let view = table.view();
    let mut expected = std::collections::BTreeSet::new();
    let (mut entries, mut bytes) = (0, 0);
    for row in view.range(Bound::Included(RECORDS.0), RECORDS.1) {
        let (row, value) = row.expect("a row");
        let record = Record::decode(&row, &value).expect("a record");
        entries += 1;
        bytes += record.weight();
        assert_eq!(view.get(&order_row(record.written)).expect("read").as_ref(), Some(&record.key));
        expected.insert(order_row(record.written));
        expected.extend(record.expires_at.map(|at| expiry_row(at, record.written)));
    }
    let found = [(ORDER.0, ORDER.1), (EXPIRIES, &b"y"[..])]
        .into_iter()
        .flat_map(|(from, to)| {
            view.range(Bound::Included(from), to).map(|row| row.expect("a row").0).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(expected, found);
    let tally = view.get(TALLY_ROW).expect("read").map_or(Tally::EMPTY, |row| Tally::decode(&row).expect("a tally"));
    assert_eq!((tally.entries, tally.bytes), (entries, bytes));
    tally
}

type Model = BTreeMap<Key, (Bytes, Option<UnixMs>)>;

fn apply_to_model(model: &mut Model, key: &Key, op: &Op, now: UnixMs) -> crate::error::Result<Applied> {
    let entry = model.get(key).cloned().filter(|(_, at)| at.is_none_or(|at| at > now));
    let present = entry.as_ref().map(|(value, at)| Present { value, expires_at: *at });
    let (change, applied) = op::apply(op, present, now)?;
    match change {
        EntryChange::Keep => {}
        EntryChange::Put(value, at) => drop(model.insert(key.clone(), (value, at))),
        EntryChange::Reexpire(at) => drop(model.insert(key.clone(), (entry.expect("it is there").0, at))),
        EntryChange::Remove => drop(model.remove(key)),
    }
    Ok(applied)
}

fn random_key(random: &mut fastrand::Rng) -> Key {
    // Some keys are long and share a prefix, so that the test covers rows with hashes, too.
    let name = format!("{}{}", "k".repeat([0, 1_020, 3_000][random.usize(..3)]), random.u8(..12));
    Key::copied(name.as_bytes()).expect("a key")
}

fn random_op(random: &mut fastrand::Rng, now: UnixMs) -> Op {
    let life = Duration::from_millis(random.u64(1..300));
    let life_if_new = random.bool().then_some(life);
    let at = UnixMs((now.0 + random.u64(..300)).saturating_sub(100));
    let value = Bytes::from(random.u16(..500).to_string().repeat(random.usize(..20)));
    match random.u8(..8) {
        0..=2 => Op::Set {
            expiry: [SetExpiry::Never, SetExpiry::In(life), SetExpiry::At(at), SetExpiry::Keep { life_if_new }]
                [random.usize(..4)],
            condition: [
                Condition::Always,
                Condition::IfAbsent,
                Condition::IfPresent,
                Condition::IfEqual(Bytes::from("7")),
            ][random.usize(..4)]
            .clone(),
            value,
            want_old: random.bool(),
        },
        3 => Op::Delete { want_old: random.bool() },
        4 => Op::Expire {
            expiry: [NewExpiry::Never, NewExpiry::In(life), NewExpiry::At(at), NewExpiry::Keep][random.usize(..4)],
            only: [ExpireOnly::ALWAYS, ExpireOnly::IF_LONGER, ExpireOnly::IF_SHORTER][random.usize(..3)],
            want_value: random.bool(),
        },
        5 => Op::Increment { delta: random.i64(-9..9), life_if_new },
        6 => Op::IncrementFloat { delta: Bytes::from("0.25"), life_if_new },
        _ => Op::Append { suffix: value, life_if_new, length_max: 60 },
    }
}

fn open(dir: &std::path::Path, clock: &Clock) -> Result<Arc<Embedded>, OpenError> {
    let patience = Duration::from_secs(20);
    let tunables = Tunables::new(Deadlines { read: patience, write: patience }, 1 << 20);
    Embedded::open(EmbeddedSettings::new(dir), clock.clone(), tunables, Arc::new(Deaf))
}

fn recount(store: &Embedded) -> Tally {
    validate(store.shared.table.load().as_ref().expect("an open table"))
}

async fn compare(store: &Embedded, model: &Model, now: UnixMs) {
    let keys: Vec<Key> = model.keys().cloned().collect();
    for (key, found) in keys.iter().zip(store.describe(&keys).await) {
        let (value, at) = &model[key];
        let live = at.is_none_or(|at| at > now);
        let found = found.expect("a read").map(|found| (found.size_bytes, found.expires_at_ms));
        assert_eq!(found, live.then_some((value.len() as u64, at.map(|at| at.0))), "{key:?}");
    }
}

async fn walk(seed: u64, manual: &ManualClock, clock: &Clock) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut store = open(dir.path(), clock).expect("a store");
    let mut model = Model::new();
    for step in 0..300 {
        let now = clock.unix();
        let ops: Vec<_> =
            (0..random.usize(1..20)).map(|_| (random_key(&mut random), random_op(&mut random, now))).collect();
        let expected: Vec<_> = ops.iter().map(|(key, op)| apply_to_model(&mut model, key, op, now)).collect();
        assert_eq!(store.apply(ops, Batch::Atomic).await, expected, "seed {seed}, step {step}");
        manual.advance(Duration::from_millis(random.u64(..40)));
        match random.u8(..60) {
            0 => {
                drop(store);
                store = open(dir.path(), clock).expect("a store");
            }
            1 => {
                store.clear().await.expect("a clear");
                model.clear();
            }
            _ => {}
        }
        recount(&store);
        compare(&store, &model, clock.unix()).await;
    }
    assert!(recount(&store).entries >= model.values().filter(|(_, at)| at.is_none()).count() as u64);
}

#[tokio::test]
async fn random_operations_equal_the_model() {
    for _ in 0..3 {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let (clock, manual) = Clock::manual();
        walk(seed, &manual, &clock).await;
    }
}

/// Writes that wait for the writer happen after a clear that is requested later.
#[tokio::test]
async fn a_clear_does_not_wait_for_queued_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path(), &Clock::real()).expect("a store");
    let set = |number: usize| {
        let value = Bytes::from_static(b"v");
        let set = Op::Set { value, expiry: SetExpiry::Never, condition: Condition::Always, want_old: false };
        (Key::copied(format!("key:{number}").as_bytes()).expect("a key"), set)
    };
    let batch = |number: usize| (50 * number..50 * (number + 1)).map(set).collect();
    let mut writes = join_all((0..500).map(|number| store.apply(batch(number), Batch::Independent)));
    // The first poll queues all of them, which takes the writer about a second.
    assert!(poll!(&mut writes).is_pending());
    store.clear().await.expect("a clear");
    let written = writes.await.concat();
    assert!(written.iter().all(Result::is_ok));
    let entries = recount(&store).entries;
    assert!(entries > 0, "the clear waited for all writes");
    println!("{entries} of {} writes after the clear", written.len());
}
