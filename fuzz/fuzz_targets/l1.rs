//! Fuzzes L1 with arbitrary operations, compares it with a simple model, and validates its counts after each step.
#![no_main]

use std::{collections::HashMap, time::Duration};

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use terrace::{
    clock::Tick,
    l1::{Change, Epoch, Fill, Filled, L1, Leased, PolicyKind, Settings, Token},
    model::{Key, Value},
};

#[derive(Debug, Arbitrary)]
enum Step {
    Get { key: u8 },
    Lease { key: u8 },
    Fill { key: u8, size: u16, life_ms: u16, age_ms: u16 },
    Release { key: u8 },
    Invalidate { key: u8 },
    Put { key: u8, size: u16, life_ms: u16 },
    Remove { key: u8 },
    Pass { ms: u16 },
    Sweep { budget: u8 },
    EndEpoch { suspended: bool },
    Scan { page: u8 },
    Clear,
}

#[derive(Debug, Arbitrary)]
struct Run {
    lru: bool,
    shards: u8,
    capacity_kib: u8,
    entries_max: Option<u8>,
    steps: Vec<Step>,
}

struct Known {
    value: Vec<u8>,
    deadline: Tick,
}

struct Pair {
    l1: L1,
    epoch: Epoch,
    now: Tick,
    written: u64,
    known: HashMap<u8, Known>,
    /// Token of the lease, and true while the lease is not voided.
    leases: HashMap<u8, (Token, bool)>,
}

fn key(number: u8) -> Key {
    // Keys also differ in length.
    Key::copied(&vec![number; 1 + usize::from(number) % 40]).expect("a valid key")
}

impl Pair {
    fn value(&mut self, size: u16) -> Vec<u8> {
        self.written += 1;
        let mut value = self.written.to_le_bytes().to_vec();
        value.resize(8 + usize::from(size), b'v');
        value
    }

    fn after(&self, ms: u16) -> Tick {
        if ms == 0 { Tick::FAR } else { self.now.plus(Duration::from_millis(ms.into())) }
    }

    fn void(&mut self, number: u8) {
        self.known.remove(&number);
        if let Some((_, live)) = self.leases.get_mut(&number) {
            *live = false;
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Get { key: n } => {
                if let Some(hit) = self.l1.get(&key(n), self.now, true) {
                    let known = &self.known[&n];
                    assert_eq!(*hit.value, known.value[..]);
                    assert!(self.now < known.deadline);
                }
            }
            Step::Lease { key: n } => {
                self.written += 1;
                let token = Token(self.written);
                match self.l1.lease(&key(n), token, self.now, Some(self.epoch), true) {
                    Leased::Lead => drop(self.leases.insert(n, (token, true))),
                    Leased::Join(holder) => assert_eq!(self.leases[&n].0, holder),
                    Leased::Hit(hit) => assert_eq!(*hit.value, self.known[&n].value[..]),
                }
            }
            Step::Fill { key: n, size, life_ms, age_ms } => {
                let Some((token, live)) = self.leases.remove(&n) else { return };
                let value = self.value(size);
                let expires_at = self.after(life_ms);
                let deadline = expires_at.min(self.after(age_ms));
                let fill = Fill { value: Value::from(Bytes::from(value.clone())), expires_at, deadline };
                match self.l1.fill(&key(n), token, fill, self.now) {
                    Filled::Inserted => {
                        assert!(live);
                        self.known.insert(n, Known { value, deadline });
                    }
                    Filled::Voided => assert!(!live),
                    Filled::TooLarge | Filled::Expired => assert!(live),
                    Filled::Closed => panic!("each lease has an epoch"),
                }
            }
            Step::Release { key: n } => {
                if let Some((token, _)) = self.leases.remove(&n) {
                    self.l1.release(&key(n), token);
                }
            }
            Step::Invalidate { key: n } => {
                self.l1.invalidate(&key(n));
                self.void(n);
                assert!(self.l1.peek(&key(n), self.now).is_none());
            }
            Step::Put { key: n, size, life_ms } => {
                let (value, deadline) = (self.value(size), self.after(life_ms));
                let put = Change::Put(Bytes::from(value.clone()), deadline);
                let stored = self.l1.update(&key(n), self.now, self.epoch, |_| Ok((put, ())));
                if stored.is_ok() {
                    self.void(n);
                    self.known.insert(n, Known { value, deadline });
                } else if let Some((_, live)) = self.leases.get_mut(&n) {
                    // Earlier entries may stay; earlier leases fill nothing.
                    *live = false;
                }
            }
            Step::Remove { key: n } => {
                self.l1.update(&key(n), self.now, self.epoch, |_| Ok((Change::Remove, ()))).expect("no value");
                self.known.remove(&n);
            }
            Step::Pass { ms } => self.now = self.now.plus(Duration::from_millis(ms.into())),
            Step::Sweep { budget } => {
                self.l1.sweep(self.now, 1 + usize::from(budget));
            }
            Step::EndEpoch { suspended } => {
                if suspended {
                    self.l1.suspend(self.epoch);
                }
                self.l1.end(self.epoch);
                self.epoch = self.l1.begin(Tick::FAR).expect("a number is free");
                self.known.clear();
                self.leases.values_mut().for_each(|(_, live)| *live = false);
            }
            Step::Scan { page } => {
                let (mut cursor, mut seen) = (0, 0);
                loop {
                    cursor = self.l1.scan(cursor, 1 + usize::from(page), self.now, |_, _| seen += 1);
                    if cursor == 0 {
                        break;
                    }
                }
                let there = (0..=u8::MAX).filter(|n| self.l1.peek(&key(*n), self.now).is_some()).count();
                assert_eq!(seen, there);
            }
            Step::Clear => {
                self.l1.clear();
                self.known.clear();
                self.leases.clear();
            }
        }
    }
}

fuzz_target!(|run: Run| {
    let policy = if run.lru { PolicyKind::Lru } else { PolicyKind::Learned };
    let capacity_bytes = (1 + u64::from(run.capacity_kib)) << 10;
    let max_entries = run.entries_max.map(|max| 1 + u64::from(max));
    let l1 = L1::with_shards(Settings { capacity_bytes, max_entries, policy }, 1 + usize::from(run.shards) % 8, Some(7));
    let epoch = l1.begin(Tick::FAR).expect("the first epoch");
    let mut pair = Pair { l1, epoch, now: Tick(1), written: 0, known: HashMap::new(), leases: HashMap::new() };
    for step in run.steps {
        pair.step(step);
        pair.l1.validate().expect("all parts agree");
        let usage = pair.l1.usage();
        assert!(usage.bytes <= capacity_bytes && max_entries.is_none_or(|max| usage.entries <= max), "{usage:?}");
    }
});
