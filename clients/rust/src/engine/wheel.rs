//! Deadlines of operations: a hashed timer wheel.
//!
//! A timer of the runtime per operation would cost more than the rest of the operation. The wheel links the slots of the
//! table into buckets by their deadline; adding and removing cost a few writes. Deadlines are accurate to about two ticks.
//!
//! Source: G. Varghese, T. Lauck, "Hashed and hierarchical timing wheels", SOSP 1987, scheme 6.

/// Duration of a tick in milliseconds.
pub(super) const TICK_MS: u64 = 4;
/// Number of buckets: later deadlines share buckets and are passed over once per revolution (1 s).
const BUCKETS: usize = 256;
/// End of a list.
const NONE: u32 = u32::MAX;

/// Links of a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Links {
    previous: u32,
    next: u32,
    /// Tick at which the slot expires; `u64::MAX` while it is not in the wheel.
    due: u64,
}

impl Default for Links {
    fn default() -> Self {
        Self { previous: NONE, next: NONE, due: u64::MAX }
    }
}

/// Slots that have links.
pub(super) trait Slots {
    fn links(&mut self, index: u32) -> &mut Links;
}

/// The wheel.
#[derive(Debug)]
pub(super) struct Wheel {
    buckets: Box<[u32; BUCKETS]>,
    /// Last tick whose deadlines were checked.
    checked: u64,
}

impl Wheel {
    pub(super) fn new(now: u64) -> Self {
        Self { buckets: Box::new([NONE; BUCKETS]), checked: now }
    }

    fn bucket(&mut self, due: u64) -> &mut u32 {
        // The remainder is less than the number of buckets.
        &mut self.buckets[(due % BUCKETS as u64) as usize]
    }

    /// Adds a slot, which expires at tick `due` or at the next check.
    pub(super) fn add(&mut self, slots: &mut impl Slots, index: u32, due: u64) {
        let due = due.max(self.checked + 1);
        let head = std::mem::replace(self.bucket(due), index);
        if head != NONE {
            slots.links(head).previous = index;
        }
        *slots.links(index) = Links { previous: NONE, next: head, due };
    }

    /// Removes a slot, if it is in the wheel.
    pub(super) fn remove(&mut self, slots: &mut impl Slots, index: u32) {
        let links = std::mem::take(slots.links(index));
        if links.due == u64::MAX {
            return;
        }
        match links.previous {
            NONE => *self.bucket(links.due) = links.next,
            previous => slots.links(previous).next = links.next,
        }
        if links.next != NONE {
            slots.links(links.next).previous = links.previous;
        }
    }

    /// Removes the slots that have expired and appends them to `expired`.
    pub(super) fn check(&mut self, slots: &mut impl Slots, now: u64, expired: &mut Vec<u32>) {
        let ticks = now.saturating_sub(self.checked).min(BUCKETS as u64);
        self.checked = self.checked.max(now);
        for tick in now + 1 - ticks..=now {
            let mut index = *self.bucket(tick);
            while index != NONE {
                let links = *slots.links(index);
                if links.due <= now {
                    self.remove(slots, index);
                    expired.push(index);
                }
                index = links.next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    impl Slots for Vec<Links> {
        fn links(&mut self, index: u32) -> &mut Links {
            &mut self[index as usize]
        }
    }

    #[test]
    fn random_deadlines_equal_a_sorted_map() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut slots = vec![Links::default(); 200];
        let mut wheel = Wheel::new(1_000);
        let mut model = BTreeMap::new();
        let mut now = 1_000;
        for _ in 0..50_000 {
            let index = random.u32(0..200);
            match random.u8(0..4) {
                0 | 1 if !model.contains_key(&index) => {
                    let due = now + random.u64(0..700);
                    wheel.add(&mut slots, index, due);
                    model.insert(index, due.max(now + 1));
                }
                2 => {
                    wheel.remove(&mut slots, index);
                    model.remove(&index);
                }
                _ => {
                    now += if random.u8(0..50) == 0 { random.u64(0..900) } else { random.u64(0..4) };
                    let mut expired = Vec::new();
                    wheel.check(&mut slots, now, &mut expired);
                    expired.sort_unstable();
                    let expected: Vec<u32> =
                        model.iter().filter(|(_, due)| **due <= now).map(|(index, _)| *index).collect();
                    assert_eq!(expired, expected, "at {now}");
                    model.retain(|_, due| *due > now);
                }
            }
        }
    }
}
