//! The descriptors of all open connections, for processes that fork.
//!
//! A child has copies of the descriptors of its parent. While it has them, a connection that the parent closes stays open. The
//! child cannot use the connections, nor the memory that they belong to, so it closes the descriptors by number.

use std::{
    os::fd::RawFd,
    sync::atomic::{AtomicI32, Ordering::SeqCst},
};

/// Maximum number of descriptors in the list. A child keeps further descriptors until its end.
const LISTED_MAX: usize = 1_024;
const FREE: RawFd = -1;

/// Without a lock, which another thread could hold during a fork.
static LISTED: [AtomicI32; LISTED_MAX] = [const { AtomicI32::new(FREE) }; LISTED_MAX];

/// A descriptor in the list, until the drop.
#[derive(Debug)]
pub(super) struct Listed {
    place: Option<&'static AtomicI32>,
}

impl Listed {
    pub(super) fn new(descriptor: RawFd) -> Self {
        let take = |place: &&AtomicI32| place.compare_exchange(FREE, descriptor, SeqCst, SeqCst).is_ok();
        Self { place: LISTED.iter().find(take) }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            place.store(FREE, SeqCst);
        }
    }
}

/// Removes all descriptors from the list and returns them.
pub(crate) fn take_all() -> Vec<RawFd> {
    LISTED.iter().map(|place| place.swap(FREE, SeqCst)).filter(|descriptor| *descriptor != FREE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_listed_until_it_is_dropped() {
        // Numbers that no test has as a descriptor.
        let (first, second) = (Listed::new(1_000_001), Listed::new(1_000_002));
        drop(first);
        let third = Listed::new(1_000_003);
        let listed = take_all();
        assert!(
            !listed.contains(&1_000_001) && listed.contains(&1_000_002) && listed.contains(&1_000_003),
            "{listed:?}"
        );
        drop((second, third));
        assert!(!take_all().iter().any(|descriptor| *descriptor > 1_000_000));
    }
}
