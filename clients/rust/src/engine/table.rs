//! The operations of a node that have no result yet, and the results that their callers have not taken.

use std::task::Waker;

use bytes::Bytes;
use terrace_proto::operation_result::Result as Answer;

use super::wheel::{Links, Slots, Wheel};

/// Number of bits of an id that select the slot.
const INDEX_BITS: u32 = 20;
/// Maximum number of operations of a node at a time, including those that wait for room in the queue.
pub(super) const OPERATIONS_MAX: usize = 1 << INDEX_BITS;
/// Bit of an id that marks an operation that takes leases, above the index.
const LEASING: u64 = 1 << INDEX_BITS;
/// Number of free slots above which an empty table returns its memory.
const KEPT_SLOTS: usize = 4_096;
const NONE: u32 = u32::MAX;

/// Id of an operation. Ids are never used twice on a connection, so that a late result cannot reach another operation:
/// a sequence number, a flag, and the index of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id(pub(super) u64);

impl Id {
    fn index(self) -> u32 {
        // At most INDEX_BITS bits.
        (self.0 & (OPERATIONS_MAX as u64 - 1)) as u32
    }

    /// Returns whether the operation takes leases and may wait for the loads of other clients.
    pub(super) fn is_leasing(self) -> bool {
        self.0 & LEASING != 0
    }
}

/// Reason why an operation has no answer.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// The operation was not begun: it may be sent to another node.
    NotBegun(crate::Error),
    /// The connection broke after the operation was sent.
    Broken(crate::Error),
    /// The deadline has passed.
    Expired {
        /// The operation was sent.
        is_sent: bool,
    },
}

pub(crate) type Outcome = Result<Answer, Failure>;

/// Progress of an operation.
#[derive(Debug)]
pub(super) enum Stage {
    Free {
        next: u32,
    },
    /// Waits for room in the queue.
    Waiting,
    /// Has room in the queue; its caller has not put it there.
    Admitted,
    /// In the queue.
    Queued,
    /// Sent on the stream of this number.
    Sent {
        stream: u32,
        /// Tick at which it was sent.
        at: u64,
    },
    Done(Outcome),
}

#[derive(Debug)]
pub(super) struct Slot {
    id: u64,
    links: Links,
    pub(super) stage: Stage,
    pub(super) waker: Option<Waker>,
    /// Room that the operation takes in the queue.
    pub(super) units: u32,
    /// Keys of an operation that takes leases, to release what arrives after its caller has left.
    pub(super) keys: Vec<Bytes>,
}

/// Slots of the table.
#[derive(Debug, Default)]
struct SlotList(Vec<Slot>);

impl Slots for SlotList {
    fn links(&mut self, index: u32) -> &mut Links {
        &mut self.0[index as usize].links
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    slots: SlotList,
    free: u32,
    wheel: Wheel,
    sequence: u64,
    len: usize,
}

impl Table {
    pub(super) fn new(now: u64) -> Self {
        Self { slots: SlotList::default(), free: NONE, wheel: Wheel::new(now), sequence: 0, len: 0 }
    }

    /// Returns the number of operations whose callers have not left.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds an operation that expires at tick `due`; `None` if the table is full.
    pub(super) fn add(&mut self, due: u64, units: u32, keys: Vec<Bytes>, is_leasing: bool) -> Option<Id> {
        let index = match self.free {
            NONE => {
                if self.slots.0.len() == OPERATIONS_MAX {
                    return None;
                }
                // Less than OPERATIONS_MAX.
                let index = self.slots.0.len() as u32;
                let stage = Stage::Free { next: NONE };
                self.slots.0.push(Slot {
                    id: 0,
                    links: Links::default(),
                    stage,
                    waker: None,
                    units: 0,
                    keys: Vec::new(),
                });
                index
            }
            index => index,
        };
        self.sequence += 1;
        let flag = if is_leasing { LEASING } else { 0 };
        let id = self.sequence << (INDEX_BITS + 1) | flag | u64::from(index);
        let slot = &mut self.slots.0[index as usize];
        if let Stage::Free { next } = slot.stage {
            self.free = next;
        }
        (slot.id, slot.stage, slot.units, slot.keys) = (id, Stage::Waiting, units, keys);
        self.wheel.add(&mut self.slots, index, due);
        self.len += 1;
        Some(Id(id))
    }

    /// Returns the slot of an operation; `None` if its caller has left.
    #[inline]
    pub(super) fn get(&mut self, id: Id) -> Option<&mut Slot> {
        self.slots.0.get_mut(id.index() as usize).filter(|slot| slot.id == id.0)
    }

    /// Stores the outcome of an operation that has none, and returns the waker of its caller.
    #[inline]
    pub(super) fn finish(&mut self, id: Id, outcome: Outcome) -> Option<Waker> {
        self.get(id)?;
        self.wheel.remove(&mut self.slots, id.index());
        let slot = self.get(id)?;
        slot.stage = Stage::Done(outcome);
        slot.waker.take()
    }

    /// Removes an operation and returns its stage and keys.
    #[inline]
    pub(super) fn remove(&mut self, id: Id) -> Option<(Stage, Vec<Bytes>)> {
        let index = id.index();
        self.get(id)?;
        self.wheel.remove(&mut self.slots, index);
        let next = self.free;
        let slot = &mut self.slots.0[index as usize];
        slot.id = 0;
        slot.waker = None;
        let keys = std::mem::take(&mut slot.keys);
        let stage = std::mem::replace(&mut slot.stage, Stage::Free { next });
        self.free = index;
        self.len -= 1;
        if self.len == 0 && self.slots.0.len() > KEPT_SLOTS {
            (self.slots, self.free) = (SlotList::default(), NONE);
        }
        Some((stage, keys))
    }

    /// Returns the operations whose deadlines have passed. They are no longer in the wheel.
    pub(super) fn expired(&mut self, now: u64) -> Vec<Id> {
        let mut expired = Vec::new();
        self.wheel.check(&mut self.slots, now, &mut expired);
        expired.into_iter().map(|index| Id(self.slots.0[index as usize].id)).collect()
    }

    /// Returns the operations at a stage.
    pub(super) fn at(&self, is_at: impl Fn(&Stage) -> bool) -> Vec<Id> {
        let used = self.slots.0.iter().filter(|slot| slot.id != 0 && is_at(&slot.stage));
        used.map(|slot| Id(slot.id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_sent(stage: &Stage) -> bool {
        matches!(stage, Stage::Sent { .. })
    }

    #[test]
    fn ids_are_never_used_twice_and_nothing_leaks() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut table = Table::new(0);
        let (mut live, mut seen) = (Vec::new(), std::collections::HashSet::new());
        for step in 0..20_000 {
            if random.bool() || live.is_empty() {
                let is_leasing = random.bool();
                let id = table.add(step + random.u64(1..500), 1, Vec::new(), is_leasing).expect("room");
                assert!(seen.insert(id), "an id was used twice");
                assert_eq!(id.is_leasing(), is_leasing);
                live.push(id);
            } else {
                let id: Id = live.swap_remove(random.usize(..live.len()));
                assert!(table.remove(id).is_some());
                assert!(table.get(id).is_none() && table.finish(id, Err(Failure::Expired { is_sent: true })).is_none());
            }
            for id in table.expired(step) {
                assert!(live.contains(&id));
            }
            assert_eq!(table.len(), live.len());
        }
        for id in live {
            table.remove(id);
        }
        assert_eq!((table.len(), table.at(is_sent).len()), (0, 0));
    }

    #[test]
    fn a_large_empty_table_returns_its_memory_and_late_results_find_nothing() {
        let mut table = Table::new(0);
        let ids: Vec<Id> = (0..=KEPT_SLOTS).filter_map(|_| table.add(10, 1, Vec::new(), false)).collect();
        for id in &ids {
            table.remove(*id);
        }
        assert_eq!(table.slots.0.capacity(), 0);
        assert!(table.expired(1_000).is_empty());
        let later = table.add(2_000, 1, Vec::new(), false).expect("room");
        assert!(!ids.contains(&later));
        assert!(ids.iter().all(|id| table.get(*id).is_none()));
    }
}
