//! Random operations, each compared with the definition of the operation.

use std::time::Duration;

use bytes::Bytes;
use terrace::{
    clock::{Clock, UnixMs},
    l2::{
        Applied, Backend, Batch, Op,
        op::{self, Condition, EntryChange, ExpireOnly, NewExpiry, Present, SetExpiry},
    },
};

use super::{PATIENT, connected};
use crate::support::{backend::key, redis::RedisServer};

/// An entry of the model, as [`op::apply`] returns it.
type Entry = Option<(Bytes, Option<UnixMs>)>;

/// The model of one key, by the definition of the operations.
fn model(entry: &mut Entry, op: &Op, now: UnixMs) -> terrace::error::Result<Applied> {
    let present = entry.as_ref().map(|(value, expires_at)| Present { value, expires_at: *expires_at });
    let (change, applied) = op::apply(op, present, now)?;
    match change {
        EntryChange::Keep => {}
        EntryChange::Put(value, expires_at) => *entry = Some((value, expires_at)),
        EntryChange::Reexpire(expires_at) => {
            if let Some((_, at)) = entry {
                *at = expires_at;
            }
        }
        EntryChange::Remove => *entry = None,
    }
    // A value that is stored with a past expiration time is absent at once.
    if entry.as_ref().is_some_and(|(_, at)| at.is_some_and(|at| at <= now)) {
        *entry = None;
    }
    Ok(applied)
}

fn pick<T: Clone>(rng: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())].clone()
}

/// TTLs that differ by more than the duration of a test.
/// They are whole hours and rarely equal: GT and LT between equal TTLs depend on the millisecond
/// in which Redis runs the command.
fn random_life(rng: &mut fastrand::Rng) -> Duration {
    Duration::from_secs(3600 * rng.u64(1..1_000_000))
}

fn random_at(rng: &mut fastrand::Rng, now: UnixMs) -> UnixMs {
    let hours = if rng.u8(..4) == 0 { -2 } else { rng.i64(1..1_000_000) };
    UnixMs(now.0.saturating_add_signed(3_600_000 * hours))
}

fn random_text(rng: &mut fastrand::Rng) -> Bytes {
    let texts: [&'static [u8]; 7] = [b"", b"0", b"17", b"-5", b"abc", b"9223372036854775807", b"\x00\xff 1"];
    Bytes::from_static(pick(rng, &texts))
}

fn random_delta(rng: &mut fastrand::Rng) -> Bytes {
    let texts: [&'static [u8]; 5] = [b"0.1", b"-17", b"1e3", b"3.0e-5", b"-0.30000000000000004"];
    Bytes::from_static(pick(rng, &texts))
}

fn maybe<T>(rng: &mut fastrand::Rng, make: impl FnOnce(&mut fastrand::Rng) -> T) -> Option<T> {
    rng.bool().then(|| make(rng))
}

fn random_set(rng: &mut fastrand::Rng, now: UnixMs) -> Op {
    let expiry = match rng.u8(..4) {
        0 => SetExpiry::Never,
        1 => SetExpiry::In(random_life(rng)),
        2 => SetExpiry::At(random_at(rng, now)),
        _ => SetExpiry::Keep { life_if_new: maybe(rng, random_life) },
    };
    let condition = match rng.u8(..4) {
        0 => Condition::Always,
        1 => Condition::IfAbsent,
        2 => Condition::IfPresent,
        _ => Condition::IfEqual(random_text(rng)),
    };
    Op::Set { value: random_text(rng), expiry, condition, want_old: rng.bool() }
}

fn random_expire(rng: &mut fastrand::Rng, now: UnixMs) -> Op {
    let expiry = match rng.u8(..5) {
        0 => NewExpiry::Never,
        1 => NewExpiry::In(random_life(rng)),
        2 => NewExpiry::In(Duration::ZERO),
        3 => NewExpiry::At(random_at(rng, now)),
        _ => NewExpiry::Keep,
    };
    let conditional = rng.bool();
    let mut flag = || conditional && rng.u8(..3) == 0;
    let only = ExpireOnly { if_none: flag(), if_some: flag(), if_longer: flag(), if_shorter: flag() };
    Op::Expire { expiry, only, want_value: rng.bool() }
}

fn random_op(rng: &mut fastrand::Rng, now: UnixMs) -> Op {
    match rng.u8(..11) {
        0..4 => random_set(rng, now),
        4 => Op::Delete { want_old: rng.bool() },
        5..8 => random_expire(rng, now),
        8 => Op::Increment { delta: pick(rng, &[1, -3, i64::MAX, i64::MIN]), life_if_new: maybe(rng, random_life) },
        9 => Op::IncrementFloat { delta: random_delta(rng), life_if_new: maybe(rng, random_life) },
        _ => Op::Append { suffix: random_text(rng), life_if_new: maybe(rng, random_life), length_max: 24 },
    }
}

/// The entry in Redis in terms of the model, with its TTL in whole hours from `now`.
fn held(server: &RedisServer, name: &[u8]) -> Entry {
    let value: Option<Vec<u8>> = server.ask(&[b"GET", name]);
    let at: i64 = server.ask(&[b"PEXPIRETIME", name]);
    value.map(|value| (Bytes::from(value), u64::try_from(at).ok().map(UnixMs)))
}

fn same(ours: &Entry, theirs: &Entry) -> bool {
    // Redis counts a relative TTL from the execution of the command, slightly later than the model.
    let near = |a: Option<UnixMs>, b: Option<UnixMs>| match (a, b) {
        (Some(a), Some(b)) => a.0.abs_diff(b.0) < 600_000,
        (a, b) => a == b,
    };
    match (ours, theirs) {
        (Some((a, at)), Some((b, bt))) => a == b && near(*at, *bt),
        (a, b) => a == b,
    }
}

async fn walk(batch_max: usize, batch: Batch, seed: u64) {
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let server = RedisServer::start();
    let backend = connected(&server, PATIENT).await;
    let names = ["a", "b", "c"];
    let mut entries: [Entry; 3] = [None, None, None];
    for step in 0..600 / batch_max {
        let now = Clock::real().unix();
        let picks: Vec<_> = (0..rng.usize(1..=batch_max)).map(|_| (rng.usize(..3), random_op(&mut rng, now))).collect();
        let expected: Vec<_> = picks.iter().map(|(at, op)| model(&mut entries[*at], op, now)).collect();
        let ops = picks.iter().map(|(at, op)| (key(names[*at]), op.clone())).collect();
        let results = backend.apply(ops, batch).await;
        for ((expected, result), (at, op)) in expected.iter().zip(&results).zip(&picks) {
            let kinds = |result: &terrace::error::Result<Applied>| result.clone().map_err(|error| error.kind());
            assert_eq!(kinds(result), kinds(expected), "seed {seed}, step {step}: {} {op:?}", names[*at]);
        }
        assert_eq!(results.len(), picks.len());
        for (name, entry) in names.iter().zip(&entries) {
            let found = held(&server, name.as_bytes());
            assert!(same(entry, &found), "seed {seed}, step {step}: {name} is {found:?}, not {entry:?}; {picks:?}");
        }
        if rng.u8(..20) == 0 {
            server.run("SCRIPT FLUSH");
        }
    }
}

#[tokio::test]
async fn every_operation_means_what_its_definition_says() {
    walk(1, Batch::Independent, fastrand::u64(..)).await;
}

#[tokio::test]
async fn batches_mean_the_same_as_one_by_one() {
    walk(6, Batch::Independent, fastrand::u64(..)).await;
}

#[tokio::test]
async fn atomic_batches_mean_the_same_as_one_by_one() {
    walk(6, Batch::Atomic, fastrand::u64(..)).await;
}
