//! Reads of L2 within the byte budget.
//!
//! The size of a value is not known before it is read. A few values at a time are read as a whole; their maximum size is
//! charged before. Further reads transfer values up to a limit, so that all of them together have at most
//! [`PARTS_MAX_BYTES`], and then read the larger values a few at a time. Values that were read are charged until they are
//! dropped. L1 keeps its own copy.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::timeout;

use super::{Cache, Core, flight::Answer};
use crate::{budget::WholeRead, error::Result, l2::PARTS_MAX_BYTES, model::Key};

/// Size up to which values are transferred by a read that does not know their sizes, by the charged eighths of the byte
/// budget. Thousands of concurrent reads of small values fit into half of the budget.
const PART_BYTES: [usize; 3] = [64 * 1024, 16 * 1024, 4 * 1024];
/// Copies of a value of unknown size that exist during its read: the receive buffer of L2 and the value.
const READ_COPIES: u64 = 2;
/// Size from which a value is charged separately. Smaller values have at most 1 MiB per call.
const CHARGED_MIN_BYTES: usize = 1024;
/// Maximum time that a read waits for room in the byte budget. The deadline of its call may be earlier.
const ROOM_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of L2 reads that are completed although their callers have left.
const ABANDONED_MAX: u64 = 1_024;

impl Cache {
    /// Reads keys from L2, in order, until their values have about `bytes_max`; `None` for the other keys.
    pub(super) async fn read_l2(&self, keys: &[Key], bytes_max: usize) -> Vec<Option<Answer>> {
        let value_max = self.core.rules.load().value_max;
        let wanted = value_max.saturating_mul(keys.len() as u64);
        if (keys.len() == 1 || wanted <= PARTS_MAX_BYTES as u64 * 2)
            && self.account.may_hold(wanted * READ_COPIES)
            && let Some(_permit) = self.core.budget.try_read_whole(wanted)
        {
            let _held = self.account.hold(wanted * READ_COPIES);
            let answers = self.l2.get(keys, true).await;
            return answers.into_iter().map(|answer| Some(self.charged(answer))).collect();
        }
        self.read_l2_in_parts(keys, value_max, bytes_max).await
    }

    async fn read_l2_in_parts(&self, keys: &[Key], value_max: u64, bytes_max: usize) -> Vec<Option<Answer>> {
        let eighths = usize::try_from(self.core.budget.eighths()).unwrap_or(usize::MAX);
        let part_max = PART_BYTES[eighths.min(PART_BYTES.len() - 1)].min(PARTS_MAX_BYTES / keys.len().max(1));
        let wanted = (part_max * keys.len()) as u64;
        if let Err(error) = self.account.room_within(wanted, ROOM_TIMEOUT).await {
            return keys.iter().map(|_| Some(Err(error.clone()))).collect();
        }
        let mut answers: Vec<Option<Answer>> = {
            let _held = self.account.hold(wanted);
            let parts = self.l2.get_within(keys, part_max).await;
            parts.into_iter().map(|part| Some(self.charged(part?))).collect()
        };
        let mut bytes: usize = answers.iter().flatten().map(len).sum();
        let large: Vec<usize> = (0..answers.len()).filter(|&at| answers[at].is_none()).collect();
        // A multiple of the largest value, so that the reads of one call do not wait for one another.
        let at_once = usize::try_from(PARTS_MAX_BYTES as u64 / value_max.max(1)).unwrap_or(1).max(1);
        for places in large.chunks(at_once) {
            if bytes > 0 && bytes >= bytes_max {
                break;
            }
            let keys: Vec<Key> = places.iter().map(|&at| keys[at].clone()).collect();
            for (&at, answer) in places.iter().zip(self.read_large(&keys, value_max).await) {
                bytes += len(&answer);
                answers[at] = Some(answer);
            }
        }
        answers
    }

    /// Reads a few values as a whole.
    async fn read_large(&self, keys: &[Key], value_max: u64) -> Vec<Answer> {
        let wanted = value_max.saturating_mul(keys.len() as u64);
        let _held = match self.room_for_large(wanted).await {
            Ok(permit) => (permit, self.account.hold(wanted * READ_COPIES)),
            Err(error) => return keys.iter().map(|_| Err(error.clone())).collect(),
        };
        self.l2.get(keys, true).await.into_iter().map(|answer| self.charged(answer)).collect()
    }

    async fn room_for_large(&self, wanted: u64) -> Result<WholeRead> {
        let budget = &self.core.budget;
        let permit = timeout(ROOM_TIMEOUT, budget.read_whole(wanted)).await.map_err(|_elapsed| budget.shed())?;
        self.account.room_within(wanted * READ_COPIES, ROOM_TIMEOUT).await?;
        Ok(permit)
    }

    /// Charges the value of an answer until it is dropped.
    fn charged(&self, answer: Answer) -> Answer {
        let mut answer = answer?;
        if let Some(stored) = answer.as_mut().filter(|stored| stored.value.len() >= CHARGED_MIN_BYTES) {
            let value = std::mem::take(&mut stored.value);
            stored.value = value.map_loose(|bytes| self.account.held_bytes(bytes));
        }
        Ok(answer)
    }
}

fn len(answer: &Answer) -> usize {
    answer.as_ref().ok().and_then(Option::as_ref).map_or(0, |stored| stored.value.len())
}

/// A read of one key that continues in the background when its caller is dropped: the value fills L1 and answers the
/// waiters of the flight, instead of being read again by the next caller.
pub(super) struct CompleteOnDrop<T: Send + 'static> {
    core: Arc<Core>,
    read: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
}

impl<T: Send + 'static> CompleteOnDrop<T> {
    pub(super) fn new(core: &Arc<Core>, read: impl Future<Output = T> + Send + 'static) -> Self {
        Self { core: Arc::clone(core), read: Some(Box::pin(read)) }
    }
}

impl<T: Send + 'static> Future for CompleteOnDrop<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(read) = &mut self.read else { return Poll::Pending };
        let polled = read.as_mut().poll(context);
        if polled.is_ready() {
            self.read = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for CompleteOnDrop<T> {
    fn drop(&mut self) {
        // A read that panicked cannot continue.
        let Some(read) = self.read.take().filter(|_| !std::thread::panicking()) else { return };
        // Outside of a runtime, nothing can continue.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let counted = Abandoned::new(&self.core);
        if counted.core.abandoned_reads.load(Relaxed) <= ABANDONED_MAX {
            runtime.spawn(async move {
                let _counted = counted;
                // The deadlines of L2 limit the time.
                let _completed = read.await;
            });
        }
    }
}

/// Counts a read that continues without its caller.
struct Abandoned {
    core: Arc<Core>,
}

impl Abandoned {
    fn new(core: &Arc<Core>) -> Self {
        core.abandoned_reads.fetch_add(1, Relaxed);
        Self { core: Arc::clone(core) }
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.core.abandoned_reads.fetch_sub(1, Relaxed);
    }
}
