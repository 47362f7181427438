//! Messages for a client whose patterns may take long to compare.
//!
//! Such a client has its own queue. A message is compared on the thread of its sender if this takes little time and the
//! queue is empty. Otherwise it waits in the queue, and so do all later messages for the client, so that their order is
//! preserved. A task on the client's worker compares them. Senders and other receivers do not wait for it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::oneshot};

use super::pattern_set::{Comparison, PatternSet};
use crate::budget::Account;

/// Maximum size of the messages that wait for the comparison with the patterns of one client. The client is closed above
/// this value, as one that does not read.
const WAITING_MAX_BYTES: usize = 32 << 20;
/// Maximum size of the encoded forms of one message that receivers of the same pattern share.
const SHARED_MAX_BYTES: usize = 32 << 20;
/// Size of a queue entry without its message.
const ENTRY_BYTES: usize = size_of::<Item>();

/// The patterns of one client that are not literal prefixes, and the messages that wait for them.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) patterns: PatternSet,
    /// The worker of the client.
    pub(super) worker: Handle,
    /// The account of the client.
    account: Arc<Account>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// A task takes the items; it may be processing one that is no longer in the queue.
    is_busy: bool,
}

/// An entry of the queue.
#[derive(Debug)]
pub(super) enum Item {
    /// A message that the client receives.
    Ready(Bytes),
    /// A message that has to be compared with the remaining patterns.
    Compare(Arc<Published>, Comparison),
}

/// Result of adding an entry to the queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// A task will process the entry.
    Waits,
    /// The caller must start the task.
    First,
    /// The queue is full.
    Full,
}

impl Lane {
    /// Creates the queue of a client whose worker runs the current task.
    pub(super) fn new(account: Arc<Account>) -> Self {
        Self { patterns: PatternSet::default(), worker: Handle::current(), account, queue: Mutex::default() }
    }

    /// Returns `true` if messages wait or one is being compared.
    pub(super) fn is_busy(&self) -> bool {
        self.queue.lock().is_busy
    }

    /// Adds an entry.
    pub(super) fn add(&self, item: Item) -> Added {
        let mut queue = self.queue.lock();
        let bytes = item.bytes();
        if queue.bytes + bytes > WAITING_MAX_BYTES {
            return Added::Full;
        }
        queue.bytes += bytes;
        queue.items.push_back(item);
        self.account.pin(bytes as u64);
        if std::mem::replace(&mut queue.is_busy, true) { Added::Waits } else { Added::First }
    }

    /// Returns the next entry. The task that takes the entries ends when there is none.
    pub(super) fn take(&self) -> Option<Item> {
        let mut queue = self.queue.lock();
        let item = queue.items.pop_front();
        match &item {
            Some(item) => {
                queue.bytes -= item.bytes();
                self.account.unpin(item.bytes() as u64);
            }
            None => *queue = Queue::default(),
        }
        item
    }
}

impl Item {
    fn bytes(&self) -> usize {
        ENTRY_BYTES
            + match self {
                Self::Ready(message) => message.len(),
                Self::Compare(published, _) => published.channel.len() + published.message.len(),
            }
    }
}

/// A message on a channel, shared by all queues in which it waits.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) channel: Bytes,
    pub(super) message: Bytes,
    tally: Option<Tally>,
    shared: Mutex<Shared>,
}

/// Counts the receivers of a message for its sender.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) receivers: Arc<AtomicU64>,
    /// Dropped when the message waits in no queue.
    pub(super) _done: oneshot::Sender<()>,
}

/// Encoded forms of a message, by pattern and by whether the receiver uses RESP3.
#[derive(Debug, Default)]
struct Shared {
    encoded: BTreeMap<(Bytes, bool), Bytes>,
    bytes: usize,
}

impl Published {
    pub(super) fn new(channel: Bytes, message: Bytes, tally: Option<Tally>) -> Self {
        Self { channel, message, tally, shared: Mutex::default() }
    }

    /// Counts a receiver.
    pub(super) fn count(&self) {
        if let Some(tally) = &self.tally {
            tally.receivers.fetch_add(1, Relaxed);
        }
    }

    /// Returns the message in the form for receivers of this pattern, which `encode` creates once.
    pub(super) fn encoded(&self, pattern: &Bytes, resp3: bool, encode: impl FnOnce() -> Bytes) -> Bytes {
        let form = (pattern.clone(), resp3);
        let known = self.shared.lock().encoded.get(&form).cloned();
        if let Some(encoded) = known {
            return encoded;
        }
        let encoded = encode();
        let mut shared = self.shared.lock();
        if shared.bytes + encoded.len() <= SHARED_MAX_BYTES {
            shared.bytes += encoded.len();
            shared.encoded.insert(form, encoded.clone());
        }
        encoded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    #[tokio::test]
    async fn entries_wait_until_the_previous_one_is_processed() {
        let lane = Lane::new(Budget::default().account());
        assert!(!lane.is_busy());
        assert_eq!(lane.add(Item::Ready("a".into())), Added::First);
        assert!(lane.take().is_some());
        // The first entry is being processed.
        assert!(lane.is_busy());
        assert_eq!(lane.add(Item::Ready("b".into())), Added::Waits);
        assert!(lane.take().is_some() && lane.take().is_none());
        assert!(!lane.is_busy());
        assert_eq!(lane.account.bytes(), 0);
    }

    #[tokio::test]
    async fn the_queue_is_limited() {
        let lane = Lane::new(Budget::default().account());
        let part = Bytes::from(vec![0; WAITING_MAX_BYTES / 2 - ENTRY_BYTES]);
        assert_eq!(lane.add(Item::Ready(part.clone())), Added::First);
        assert_eq!(lane.add(Item::Ready(part)), Added::Waits);
        assert_eq!(lane.add(Item::Ready("x".into())), Added::Full);
        // A processed entry makes space for one of the same size.
        assert!(lane.take().is_some());
        let part = |bytes: usize| Bytes::from(vec![0; bytes / 2]);
        let compare = |bytes| {
            let published = Published::new(part(bytes), part(bytes), None);
            lane.add(Item::Compare(Arc::new(published), Comparison::default()))
        };
        let most = WAITING_MAX_BYTES / 2 - ENTRY_BYTES;
        assert_eq!(compare(most + 2), Added::Full);
        assert_eq!(compare(most), Added::Waits);
        assert_eq!(compare(0), Added::Full);
    }

    #[test]
    fn receivers_of_a_pattern_share_a_message() {
        let published = Published::new("c".into(), "m".into(), None);
        let encode = || Bytes::from(vec![0; SHARED_MAX_BYTES / 2]);
        let first = published.encoded(&"a".into(), false, encode);
        assert_eq!(published.encoded(&"a".into(), false, encode).as_ptr(), first.as_ptr());
        let other = published.encoded(&"a".into(), true, encode);
        assert_ne!(other.as_ptr(), first.as_ptr());
        // Both have exactly the maximum size.
        assert_eq!(published.encoded(&"a".into(), true, encode).as_ptr(), other.as_ptr());
        // Over the limit, each receiver has its own.
        let third = published.encoded(&"b".into(), true, encode);
        assert_ne!(published.encoded(&"b".into(), true, encode).as_ptr(), third.as_ptr());
    }
}
