//! The operations of one node, between their callers and the stream.
//!
//! ```text
//!            submit            next_batch                complete
//! callers ──────────► queue ─────────────► stream ─────────────────► callers
//!   wait for room      batches in           awaits results           take results
//!   (first come,       wire form            (at most WINDOW)
//!   first served)
//! ```
//!
//! One lock guards all of it; it is held for the time of a few memory writes, never during input or output.

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    task::{Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use terrace_proto::{
    CancelRequest, Grant, OperationResult, ReleaseRequest, get_or_lease_many_result, get_or_lease_response,
    operation::Operation, operation_result::Result as Answer,
};
use tokio::{sync::Notify, time::Instant};

use super::{
    batch::Batch,
    table::{Failure, Id, OPERATIONS_MAX, Outcome, Stage, Table},
    wheel::TICK_MS,
};
use crate::error::{Error, ErrorKind};

/// Maximum number of operations that are sent and have no result, without those that take leases. With more than 1,000,
/// the server stops reading.
const WINDOW: usize = 1_000;
/// Room of the queue of a node. An operation takes one unit, and one for each [`UNIT_BYTES`]: at most 16,384 operations
/// or about 64 MiB.
const UNITS_MAX: u32 = 16_384;
const UNIT_BYTES: usize = 4_096;
/// Time from the sending of an operation to its expiry without any message from the node, after which the node counts as
/// not responding.
const SILENT_TICKS: u64 = 200 / TICK_MS;
/// Time without operations after which deadlines are no longer checked.
const IDLE_TICKS: u64 = 1_000 / TICK_MS;

/// Bytes that a message has in addition to an operation: ids, the context, lengths.
const OVERHEAD_BYTES: usize = 64;

/// State of a node, as far as the selection of a node is concerned. A higher value is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Readiness {
    /// The node cannot be reached.
    Down = 0,
    /// The node does not answer, or reports that it does not serve.
    Doubtful = 1,
    /// The first connection is being opened.
    Connecting = 2,
    Ready = 3,
}

/// Wakers that are called after the lock is released.
type Wakers = Vec<Waker>;

/// The operations of one node.
#[derive(Debug)]
pub(crate) struct Link {
    state: Mutex<State>,
    begun: Instant,
    readiness: AtomicU8,
    /// Number of operations without a result, for the selection of a node.
    pending: AtomicUsize,
    /// Maximum size of a request in bytes. A larger one would end the stream with the operations of all callers.
    request_max: AtomicUsize,
    /// Wakes the task that checks deadlines.
    pub(super) ticker: Notify,
}

#[derive(Debug)]
enum Phase {
    Connecting,
    Open,
    Down(Error),
}

#[derive(Debug)]
struct State {
    phase: Phase,
    is_serving: bool,
    is_responsive: bool,
    table: Table,
    /// Operations that wait for room in the queue.
    waiting: VecDeque<Id>,
    used_units: u32,
    batches: VecDeque<Batch>,
    /// Number of the stream that takes batches; 0 before the first.
    stream: u32,
    sender: Option<Waker>,
    /// Number of operations that the current stream has sent and that have no result, without those that take leases.
    unanswered: usize,
    /// Keys of lease operations whose callers have left, until their results arrive.
    abandoned: HashMap<Id, (u32, Vec<Bytes>)>,
    /// Tick of the last message from the node.
    received_at: u64,
    /// Tick of the last operation.
    used_at: u64,
    is_ticker_parked: bool,
}

impl Link {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                phase: Phase::Connecting,
                is_serving: true,
                is_responsive: true,
                table: Table::new(0),
                waiting: VecDeque::new(),
                used_units: 0,
                batches: VecDeque::new(),
                stream: 0,
                sender: None,
                unanswered: 0,
                abandoned: HashMap::new(),
                received_at: 0,
                used_at: 0,
                is_ticker_parked: false,
            }),
            begun: Instant::now(),
            readiness: AtomicU8::new(Readiness::Connecting as u8),
            pending: AtomicUsize::new(0),
            request_max: AtomicUsize::new(usize::MAX),
            ticker: Notify::new(),
        }
    }

    pub(crate) fn readiness(&self) -> Readiness {
        match self.readiness.load(Relaxed) {
            0 => Readiness::Down,
            1 => Readiness::Doubtful,
            2 => Readiness::Connecting,
            _ => Readiness::Ready,
        }
    }

    /// Returns the number of operations without a result.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Relaxed)
    }

    /// Returns the reason why the node cannot be reached.
    pub(crate) fn fault(&self) -> Option<Error> {
        match &self.state.lock().phase {
            Phase::Down(error) => Some(error.clone()),
            Phase::Connecting | Phase::Open => None,
        }
    }

    /// Sets the maximum size of a request in bytes.
    pub(crate) fn set_request_max(&self, bytes: usize) {
        self.request_max.store(bytes, Relaxed);
    }

    fn tick_of(&self, at: Instant) -> u64 {
        // Durations of a process fit into 64 bits.
        at.saturating_duration_since(self.begun).as_millis() as u64 / TICK_MS
    }

    /// Adds an operation. Its caller is woken by the outcome, and calls [`Self::poll`] then, or [`Self::forget`].
    ///
    /// # Errors
    /// The node is down, or has too many operations.
    pub(crate) fn submit(
        &self,
        operation: &Operation,
        context: u64,
        deadline: Instant,
        waker: &Waker,
    ) -> Result<Id, Failure> {
        let len = operation.encoded_len();
        let most = self.request_max.load(Relaxed);
        if len + OVERHEAD_BYTES > most {
            let text = format!("the request has {len} bytes; grpc.max_message of the server is {most} bytes");
            return Err(Failure::NotBegun(Error::new(ErrorKind::ResourceExhausted, text)));
        }
        let units = u32::try_from(1 + len / UNIT_BYTES).unwrap_or(UNITS_MAX).min(UNITS_MAX);
        let keys = keys_of(operation);
        let (now, due) = (self.tick_of(Instant::now()), self.tick_of(deadline) + 1);
        let (id, sender) = {
            let mut state = self.state.lock();
            if let Phase::Down(error) = &state.phase {
                return Err(Failure::NotBegun(error.clone()));
            }
            if state.is_ticker_parked {
                state.is_ticker_parked = false;
                self.ticker.notify_one();
            }
            state.used_at = now;
            let is_leasing = !keys.is_empty();
            let Some(id) = state.table.add(due, units, keys, is_leasing) else {
                let text = format!("the client has {OPERATIONS_MAX} operations in progress to one node, its maximum");
                return Err(Failure::NotBegun(Error::new(ErrorKind::ResourceExhausted, text)));
            };
            self.pending.store(state.table.len(), Relaxed);
            if let Some(slot) = state.table.get(id) {
                slot.waker = Some(waker.clone());
            }
            if !state.waiting.is_empty() || !state.has_room(units) {
                state.waiting.push_back(id);
                return Ok(id);
            }
            state.used_units += units;
            (id, state.enqueue(id, operation, len, context))
        };
        if let Some(sender) = sender {
            sender.wake();
        }
        Ok(id)
    }

    /// Returns the outcome of an operation, if there is one.
    pub(crate) fn poll(&self, id: Id, operation: &Operation, context: u64, waker: &Waker) -> Poll<Outcome> {
        let mut state = self.state.lock();
        let Some(slot) = state.table.get(id) else {
            let fault = Error::new(ErrorKind::Internal, "an operation was polled after its end");
            return Poll::Ready(Err(Failure::Broken(fault)));
        };
        match &slot.stage {
            Stage::Done(_) => {
                let removed = state.table.remove(id);
                self.pending.store(state.table.len(), Relaxed);
                drop(state);
                match removed {
                    Some((Stage::Done(outcome), _)) => Poll::Ready(outcome),
                    _ => Poll::Pending,
                }
            }
            Stage::Admitted => {
                slot.waker = Some(waker.clone());
                let sender = state.enqueue(id, operation, operation.encoded_len(), context);
                drop(state);
                if let Some(sender) = sender {
                    sender.wake();
                }
                Poll::Pending
            }
            Stage::Free { .. } | Stage::Waiting | Stage::Queued | Stage::Sent { .. } => {
                if !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
                    slot.waker = Some(waker.clone());
                }
                Poll::Pending
            }
        }
    }

    /// Removes an operation whose caller leaves. A lease that was or will be granted to it is released.
    pub(crate) fn forget(&self, id: Id) {
        let mut wakers = Wakers::new();
        {
            let mut state = self.state.lock();
            let Some(slot) = state.table.get(id) else { return };
            let units = slot.units;
            let Some((stage, keys)) = state.table.remove(id) else { return };
            self.pending.store(state.table.len(), Relaxed);
            match stage {
                Stage::Free { .. } | Stage::Waiting => {}
                Stage::Admitted | Stage::Queued => state.free_units(units, &mut wakers),
                Stage::Sent { stream, .. } => {
                    state.free_units(units, &mut wakers);
                    state.abandon(id, stream, keys, &mut wakers);
                }
                Stage::Done(Ok(answer)) => state.release_grants(&keys, answer, &mut wakers),
                Stage::Done(Err(_)) => {}
            }
        }
        wake(wakers);
    }

    /// Returns the next batch for a stream; `Ready(None)` if another stream has replaced it.
    pub(super) fn next_batch(&self, stream: u32, waker: &Waker) -> Poll<Option<Bytes>> {
        let mut state = self.state.lock();
        if state.stream > stream {
            return Poll::Ready(None);
        }
        while state.stream == stream && state.unanswered < WINDOW {
            let Some(batch) = state.batches.pop_front() else { break };
            let at = self.tick_of(Instant::now());
            let mut counted = 0;
            let State { table, .. } = &mut *state;
            let message = batch.into_message(|id| {
                if id == NO_RESULT {
                    return true;
                }
                let Some(slot) = table.get(id) else { return false };
                if !matches!(slot.stage, Stage::Queued) {
                    return false;
                }
                slot.stage = Stage::Sent { stream, at };
                counted += usize::from(!id.is_leasing());
                true
            });
            state.unanswered += counted;
            if let Some(message) = message {
                return Poll::Ready(Some(message));
            }
        }
        if !state.sender.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.sender = Some(waker.clone());
        }
        Poll::Pending
    }

    /// Stores the results of a message and wakes their callers.
    pub(super) fn complete(&self, stream: u32, results: Vec<OperationResult>) {
        let mut wakers = Wakers::with_capacity(results.len());
        let now = self.tick_of(Instant::now());
        {
            let mut state = self.state.lock();
            state.received_at = now;
            if !state.is_responsive {
                state.is_responsive = true;
                self.publish(&state);
            }
            for result in results {
                state.complete_one(stream, result, &mut wakers);
            }
        }
        wake(wakers);
    }

    /// Makes a stream the one that takes batches.
    pub(super) fn activate(&self, stream: u32) {
        let sender = {
            let mut state = self.state.lock();
            (state.phase, state.stream, state.unanswered) = (Phase::Open, stream, 0);
            (state.is_responsive, state.is_serving) = (true, true);
            self.publish(&state);
            state.sender.take()
        };
        if let Some(sender) = sender {
            sender.wake();
        }
    }

    /// Ends the operations that were sent on a stream and have no result.
    pub(super) fn stream_ended(&self, stream: u32, failure: &Failure) {
        let mut wakers = Wakers::new();
        {
            let mut state = self.state.lock();
            for id in state.table.at(|stage| matches!(stage, Stage::Sent { stream: sent, .. } if *sent == stream)) {
                state.finish(id, Err(failure.clone()), &mut wakers);
            }
            state.abandoned.retain(|_, (sent, _)| *sent != stream);
            if state.stream == stream {
                state.phase = Phase::Connecting;
                state.unanswered = 0;
                self.publish(&state);
            }
        }
        wake(wakers);
    }

    /// Notes that the node cannot be reached, and ends the operations that were not sent.
    pub(crate) fn down(&self, error: &Error) {
        let mut wakers = Wakers::new();
        {
            let mut state = self.state.lock();
            state.phase = Phase::Down(error.clone());
            self.publish(&state);
            state.batches.clear();
            state.waiting.clear();
            for id in state.table.at(|stage| matches!(stage, Stage::Waiting | Stage::Admitted | Stage::Queued)) {
                state.finish(id, Err(Failure::NotBegun(error.clone())), &mut wakers);
            }
        }
        wake(wakers);
    }

    /// Notes that the node drains, unless a newer stream is in use.
    pub(super) fn drained(&self, stream: u32, error: &Error) {
        let is_current = self.state.lock().stream == stream;
        if is_current {
            self.down(error);
        }
    }

    /// Ends the current stream after its operations, and refuses further operations.
    pub(crate) fn retire(&self, error: &Error) {
        self.down(error);
        let sender = {
            let mut state = self.state.lock();
            state.stream += 1;
            state.sender.take()
        };
        if let Some(sender) = sender {
            sender.wake();
        }
    }

    /// Notes the answer to a health check, and whether the node reports that it serves. The answer proves that the node
    /// responds, also if operations were not answered before.
    pub(super) fn checked(&self, is_serving: bool) {
        let mut state = self.state.lock();
        (state.is_serving, state.is_responsive) = (is_serving, true);
        self.publish(&state);
    }

    fn publish(&self, state: &State) {
        let readiness = match state.phase {
            Phase::Connecting => Readiness::Connecting,
            Phase::Down(_) => Readiness::Down,
            Phase::Open if state.is_serving && state.is_responsive => Readiness::Ready,
            Phase::Open => Readiness::Doubtful,
        };
        self.readiness.store(readiness as u8, Relaxed);
    }

    /// Ends the operations whose deadlines have passed. Returns whether the caller may stop checking until
    /// `ticker` is notified.
    pub(super) fn check_deadlines(&self) -> bool {
        let now = self.tick_of(Instant::now());
        let mut wakers = Wakers::new();
        let is_idle = {
            let mut state = self.state.lock();
            for id in state.table.expired(now) {
                state.expire(id, now, &mut wakers);
            }
            self.publish(&state);
            let is_idle = state.table.len() == 0 && now > state.used_at + IDLE_TICKS;
            state.is_ticker_parked = is_idle;
            is_idle
        };
        wake(wakers);
        is_idle
    }

    /// Returns whether a message arrived within this time.
    pub(super) fn heard_within(&self, span: Duration) -> bool {
        let now = self.tick_of(Instant::now());
        let ticks = span.as_millis() as u64 / TICK_MS;
        self.state.lock().received_at + ticks >= now
    }
}

/// Id of operations without a caller: a cancel, and the release of a lease whose caller has left.
const NO_RESULT: Id = Id(0);

impl State {
    fn has_room(&self, units: u32) -> bool {
        self.used_units == 0 || self.used_units + units <= UNITS_MAX
    }

    /// Puts an operation into the queue; returns the waker of the stream.
    fn enqueue(&mut self, id: Id, operation: &Operation, len: usize, context: u64) -> Option<Waker> {
        self.push(id, id.0, operation, len, context);
        if let Some(slot) = self.table.get(id) {
            slot.stage = Stage::Queued;
        }
        self.sender.take()
    }

    fn push(&mut self, id: Id, wire_id: u64, operation: &Operation, len: usize, context: u64) {
        if !self.batches.back().is_some_and(|batch| batch.has_room(len)) {
            self.batches.push_back(Batch::new());
        }
        if let Some(batch) = self.batches.back_mut() {
            batch.push(id, wire_id, operation, len, context);
        }
    }

    /// Queues an operation without a caller.
    fn push_unattended(&mut self, operation: &Operation, wakers: &mut Wakers) {
        self.push(NO_RESULT, 0, operation, operation.encoded_len(), 0);
        wakers.extend(self.sender.take());
    }

    fn complete_one(&mut self, stream: u32, result: OperationResult, wakers: &mut Wakers) {
        let id = Id(result.id);
        if id == NO_RESULT {
            return;
        }
        if stream == self.stream && !id.is_leasing() {
            self.unanswered = self.unanswered.saturating_sub(1);
            if self.unanswered < WINDOW && !self.batches.is_empty() {
                wakers.extend(self.sender.take());
            }
        }
        let Some(answer) = result.result else {
            let fault = Error::new(ErrorKind::Internal, "the server sent a result that this version does not know");
            return self.finish(id, Err(Failure::Broken(fault)), wakers);
        };
        let is_awaited = self.table.get(id).is_some_and(|slot| matches!(slot.stage, Stage::Sent { .. }));
        if is_awaited {
            self.finish(id, Ok(answer), wakers);
        } else if let Some((_, keys)) = self.abandoned.remove(&id) {
            self.release_grants(&keys, answer, wakers);
        }
    }

    /// Stores the outcome of an operation and frees its room.
    fn finish(&mut self, id: Id, outcome: Outcome, wakers: &mut Wakers) {
        let Some(slot) = self.table.get(id) else { return };
        let held = match slot.stage {
            Stage::Admitted | Stage::Queued | Stage::Sent { .. } => slot.units,
            Stage::Free { .. } | Stage::Waiting | Stage::Done(_) => 0,
        };
        wakers.extend(self.table.finish(id, outcome));
        self.free_units(held, wakers);
    }

    /// Frees room, and admits the operations that have waited for it the longest.
    fn free_units(&mut self, units: u32, wakers: &mut Wakers) {
        self.used_units -= units.min(self.used_units);
        while let Some(id) = self.waiting.front().copied() {
            // Its caller may have left.
            let Some(slot) = self.table.get(id).filter(|slot| matches!(slot.stage, Stage::Waiting)) else {
                self.waiting.pop_front();
                continue;
            };
            let units = slot.units;
            if self.used_units > 0 && self.used_units + units > UNITS_MAX {
                break;
            }
            slot.stage = Stage::Admitted;
            wakers.extend(slot.waker.take());
            self.used_units += units;
            self.waiting.pop_front();
        }
    }

    fn expire(&mut self, id: Id, now: u64, wakers: &mut Wakers) {
        let Some(slot) = self.table.get(id) else { return };
        let sent = match slot.stage {
            Stage::Sent { stream, at } => Some((stream, at, std::mem::take(&mut slot.keys))),
            Stage::Free { .. } | Stage::Waiting | Stage::Admitted | Stage::Queued => None,
            Stage::Done(_) => return,
        };
        self.finish(id, Err(Failure::Expired { is_sent: sent.is_some() }), wakers);
        let Some((stream, at, keys)) = sent else { return };
        if self.received_at <= at && now >= at + SILENT_TICKS {
            self.is_responsive = false;
        }
        self.abandon(id, stream, keys, wakers);
    }

    /// Cancels a lease operation whose caller does not wait any longer.
    fn abandon(&mut self, id: Id, stream: u32, keys: Vec<Bytes>, wakers: &mut Wakers) {
        if keys.is_empty() {
            return;
        }
        self.abandoned.insert(id, (stream, keys));
        self.push_unattended(&Operation::Cancel(CancelRequest { id: id.0 }), wakers);
    }

    /// Releases the leases that an answer grants.
    fn release_grants(&mut self, keys: &[Bytes], answer: Answer, wakers: &mut Wakers) {
        for (key, grant) in keys.iter().zip(grants_of(answer)) {
            let Some(token) = grant.map(|grant| grant.token).filter(|token| !token.is_empty()) else { continue };
            let release = ReleaseRequest { key: key.clone(), token, failed: None };
            self.push_unattended(&Operation::Release(release), wakers);
        }
    }
}

fn wake(wakers: Wakers) {
    for waker in wakers {
        waker.wake();
    }
}

/// Returns the keys for which an operation may receive leases.
fn keys_of(operation: &Operation) -> Vec<Bytes> {
    match operation {
        Operation::GetOrLease(request) => vec![request.key.clone()],
        Operation::GetOrLeaseMany(request) => request.items.iter().map(|item| item.key.clone()).collect(),
        Operation::Get(_)
        | Operation::Set(_)
        | Operation::Delete(_)
        | Operation::Touch(_)
        | Operation::Increment(_)
        | Operation::GetMeta(_)
        | Operation::Fill(_)
        | Operation::Release(_)
        | Operation::GetMany(_)
        | Operation::SetMany(_)
        | Operation::Cancel(_) => Vec::new(),
    }
}

/// Returns the grants of an answer, in the order of the keys.
pub(crate) fn grants_of(answer: Answer) -> Vec<Option<Grant>> {
    use get_or_lease_many_result::Result as Item;
    use get_or_lease_response::Result as One;
    match answer {
        Answer::GetOrLease(response) => vec![match response.result {
            Some(One::Hit(hit)) => hit.grant,
            Some(One::Load(load)) => load.grant,
            Some(One::Busy(_) | One::Absent(_) | One::Failed(_)) | None => None,
        }],
        Answer::GetOrLeaseMany(response) => {
            let grants = response.results.into_iter().map(|result| match result.result {
                Some(Item::Hit(hit)) => hit.grant,
                Some(Item::Load(load)) => load.grant,
                Some(Item::Busy(_) | Item::Absent(_) | Item::Failed(_) | Item::Error(_)) | None => None,
            });
            grants.collect()
        }
        Answer::Get(_)
        | Answer::Set(_)
        | Answer::Delete(_)
        | Answer::Touch(_)
        | Answer::Increment(_)
        | Answer::GetMeta(_)
        | Answer::Fill(_)
        | Answer::Release(_)
        | Answer::GetMany(_)
        | Answer::SetMany(_)
        | Answer::Error(_) => Vec::new(),
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
