//! The byte budget: memory that clients can make grow, charged to the connection that causes it.
//!
//! A [`Budget`] belongs to one node, an [`Account`] to one connection. [`Held`] charges bytes from their allocation
//! until their release. The rules (`docs/concepts/byte-budget.md`):
//!
//! * Up to half of `server.max_in_flight`, each connection may hold what it needs.
//! * Above half, a connection over its share (the larger of 1/8 of the budget and twice `grpc.max_message`) waits until
//!   bytes are released.
//! * The last quarter is left to connections with at most [`RESERVE_BYTES`]. While the budget is full, every connection
//!   waits, except for small amounts ([`ALWAYS_BYTES`]).
//! * While the budget is full, or a connection that holds little waits, the connection that holds the most bytes without
//!   progress is reset.
//! * A connection whose answers make no progress for [`STALL_TIMEOUT`] is reset.
//!
//! Only bytes that wait for the client make a connection the one that is reset, not the work of the server for it.
//!
//! A charge costs two to four atomic additions and never fails: the memory exists. Callers ask [`Account::may_hold`] or
//! [`Account::room`] before they allocate.

use std::{
    sync::{
        Arc, Weak,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
        },
    },
    task::Context,
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    clock::stopwatch_ns,
    error::{CacheError, Kind},
};

/// Number of bytes that a connection may hold at any time, even while the budget is full.
pub const ALWAYS_BYTES: u64 = 16 * 1024;
/// Bytes up to which a connection may use the last quarter of the budget, so that connections that hold much do not
/// take all of it.
pub const RESERVE_BYTES: u64 = 256 * 1024;
/// Bytes from which a connection is listed as a holder and its progress is observed. A smaller answer or message
/// usually waits in the buffers of the operating system.
pub const LISTED_BYTES: u64 = 64 * 1024;
/// Maximum time without progress of the unread answers of a connection, if they have at least [`LISTED_BYTES`].
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without progress after which a connection may be reset to free a full budget. A client that reads makes
/// progress more often.
const IDLE_HOLDER: Duration = Duration::from_millis(100);
/// Minimum interval between two searches for a connection to reset.
const RELIEF_INTERVAL_NS: u64 = 5_000_000;
/// Delay after which a client may retry a shed request: about the time that a full load needs to drain over a slow
/// link.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Values read from L2 without a limit on their size, at the same time, in bytes. Further reads transfer only the
/// beginning of large values, and read these values one after the other.
const WHOLE_READS_BYTES: u64 = 32 << 20;
/// Unit in which [`WHOLE_READS_BYTES`] is counted.
const WHOLE_READS_UNIT: u64 = 64 * 1024;

/// The byte budget of one node.
#[derive(Debug, Clone, Default)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes: AtomicU64,
    max: AtomicU64,
    share: AtomicU64,
    /// Accounts that have held at least [`LISTED_BYTES`].
    listed: Mutex<Vec<Weak<Account>>>,
    /// Number of requests that wait for room.
    waiting: AtomicU64,
    /// Number of these requests whose connections hold little: others take their share.
    urgent: AtomicU64,
    released: Notify,
    /// Time of the last search for a connection to reset.
    relieved_ns: AtomicU64,
    whole_reads: Arc<Semaphore>,
    shed: AtomicU64,
    reset_full: AtomicU64,
    reset_stalled: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            max: AtomicU64::new(u64::MAX),
            share: AtomicU64::new(u64::MAX),
            listed: Mutex::default(),
            waiting: AtomicU64::new(0),
            urgent: AtomicU64::new(0),
            released: Notify::new(),
            relieved_ns: AtomicU64::new(0),
            whole_reads: Arc::new(Semaphore::new((WHOLE_READS_BYTES / WHOLE_READS_UNIT) as usize)),
            shed: AtomicU64::new(0),
            reset_full: AtomicU64::new(0),
            reset_stalled: AtomicU64::new(0),
        }
    }
}

/// Current figures of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Bytes that are charged now.
    pub bytes: u64,
    /// Connections that hold at least [`LISTED_BYTES`].
    pub holders: u64,
    /// Bytes of the connection that holds the most.
    pub largest: u64,
    /// Requests refused since start because no room became free.
    pub shed: u64,
    /// Connections reset since start because the budget was full.
    pub reset_full: u64,
    /// Connections reset since start because their answers made no progress.
    pub reset_stalled: u64,
}

/// The bytes of one connection.
#[derive(Debug)]
pub struct Account {
    budget: Budget,
    bytes: AtomicU64,
    /// The part of `bytes` that waits for the client to read an answer.
    unread: AtomicU64,
    /// The part of `bytes` that waits for the client: to read an answer, or to send the rest of a request. The other part
    /// is work of the server.
    waiting: AtomicU64,
    /// Bytes of shared buffers that wait for this connection. Another account is charged for each buffer once.
    pinned: AtomicU64,
    /// Time of the last progress, or the time since when at least [`LISTED_BYTES`] are held.
    moved_ns: AtomicU64,
    is_listed: AtomicBool,
    is_closed: AtomicBool,
    waker: AtomicWaker,
    /// Number of occupied places, by [`PlaceKind`].
    places: [AtomicU32; 2],
}

/// Bytes that are charged until this guard is dropped.
#[derive(Debug)]
pub struct Held {
    account: Arc<Account>,
    bytes: u64,
    reason: Reason,
}

/// Reason why bytes are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// The server works on a request.
    Work,
    /// The client has to send or to read; for a stream, there is no time limit.
    Client,
    /// The client has to read an answer.
    Unread,
}

/// Kinds of places that the server has a limited number of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceKind {
    /// Watch streams.
    Watch,
    /// Pattern bans whose keys are still being removed.
    Ban,
}

/// A place that a connection occupies until the guard is dropped.
#[derive(Debug)]
pub struct Place {
    account: Arc<Account>,
    kind: PlaceKind,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.account.places[self.kind as usize].fetch_sub(1, Relaxed);
    }
}

/// Permission to read values of any size from L2.
#[derive(Debug)]
pub struct WholeRead(#[expect(dead_code, reason = "released on drop")] Option<OwnedSemaphorePermit>);

impl Budget {
    /// Sets the limits: the size of the budget and the maximum size of a gRPC message, in bytes.
    pub fn set_limits(&self, max: u64, message_max: u64) {
        self.0.max.store(max, Relaxed);
        self.0.share.store((max / 8).max(message_max.saturating_mul(2)), Relaxed);
    }

    /// Opens the account of a connection.
    #[must_use]
    pub fn account(&self) -> Arc<Account> {
        self.open(false)
    }

    /// Opens an account that belongs to no connection and is never reset: of background work, or of buffers that
    /// connections share ([`Account::pin`]).
    #[must_use]
    pub fn system_account(&self) -> Arc<Account> {
        // An account that is already listed is not listed again.
        self.open(true)
    }

    fn open(&self, is_listed: bool) -> Arc<Account> {
        Arc::new(Account {
            budget: self.clone(),
            bytes: AtomicU64::new(0),
            unread: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            pinned: AtomicU64::new(0),
            moved_ns: AtomicU64::new(0),
            is_listed: AtomicBool::new(is_listed),
            is_closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            places: [AtomicU32::new(0), AtomicU32::new(0)],
        })
    }

    /// Returns the charged bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }

    /// Returns the charged part of the budget, in eighths of the whole.
    #[must_use]
    pub fn eighths(&self) -> u64 {
        self.bytes() / (self.0.max.load(Relaxed) / 8).max(1)
    }

    /// Returns whether at least the whole budget is charged.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes() > self.0.max.load(Relaxed)
    }

    /// Returns the error of a request that found no room, and counts it.
    #[must_use]
    pub fn shed(&self) -> CacheError {
        self.0.shed.fetch_add(1, Relaxed);
        let (bytes, max) = (self.bytes(), self.0.max.load(Relaxed));
        let message = format!(
            "too many bytes of requests and responses in flight: {bytes} on all connections; server.max_in_flight is \
             {max} bytes, and a connection over its share waits above half of it"
        );
        CacheError::new(Kind::Overloaded, message).retry_after(RETRY_AFTER)
    }

    /// Permits to read up to `bytes` from L2 in values of unknown size; `None` while too many such reads are in
    /// flight.
    #[must_use]
    pub fn try_read_whole(&self, bytes: u64) -> Option<WholeRead> {
        let permits = Arc::clone(&self.0.whole_reads).try_acquire_many_owned(units(bytes)).ok()?;
        Some(WholeRead(Some(permits)))
    }

    /// Like [`Budget::try_read_whole`], after it has become possible. The caller limits the wait.
    pub async fn read_whole(&self, bytes: u64) -> WholeRead {
        // The semaphore is never closed.
        WholeRead(Arc::clone(&self.0.whole_reads).acquire_many_owned(units(bytes)).await.ok())
    }

    /// Resets connections whose answers have made no progress, and frees a full budget. Call it periodically.
    pub fn inspect(&self) {
        let now_ns = stopwatch_ns();
        let listed = self.listed();
        for account in &listed {
            let unread = account.unread.load(Relaxed) + account.pinned.load(Relaxed);
            let is_stalled = unread >= LISTED_BYTES && account.rest(now_ns) >= STALL_TIMEOUT;
            if is_stalled && account.close() {
                self.0.reset_stalled.fetch_add(1, Relaxed);
                tracing::warn!(
                    bytes = account.bytes(),
                    "reset a connection whose client did not read its answers for {STALL_TIMEOUT:?}"
                );
            }
        }
        if self.is_full() || self.0.urgent.load(Relaxed) > 0 {
            self.reset_holder(&listed, now_ns);
        }
        // Room may also have become free because the limits changed.
        self.wake();
    }

    /// Returns the current figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let listed = self.listed();
        let held = listed.iter().map(|account| account.bytes()).filter(|bytes| *bytes >= LISTED_BYTES);
        let (holders, largest) = held.fold((0, 0), |(count, most), bytes| (count + 1, bytes.max(most)));
        Figures {
            bytes: self.bytes(),
            holders,
            largest,
            shed: self.0.shed.load(Relaxed),
            reset_full: self.0.reset_full.load(Relaxed),
            reset_stalled: self.0.reset_stalled.load(Relaxed),
        }
    }

    fn listed(&self) -> Vec<Arc<Account>> {
        let mut accounts = Vec::new();
        self.0.listed.lock().retain(|account| {
            let account = account.upgrade();
            accounts.extend(account.clone());
            account.is_some()
        });
        accounts
    }

    /// Frees a full budget, at most once in [`RELIEF_INTERVAL_NS`].
    #[cold]
    fn relieve(&self) {
        let now_ns = stopwatch_ns();
        let last_ns = self.0.relieved_ns.load(Relaxed);
        if now_ns.saturating_sub(last_ns) >= RELIEF_INTERVAL_NS
            && self.0.relieved_ns.compare_exchange(last_ns, now_ns, Relaxed, Relaxed).is_ok()
        {
            self.reset_holder(&self.listed(), now_ns);
        }
    }

    /// Resets the connection that holds the most bytes without progress.
    fn reset_holder(&self, listed: &[Arc<Account>], now_ns: u64) {
        let is_idle = |account: &&Arc<Account>| {
            account.waiting_bytes() >= LISTED_BYTES && !account.is_closed() && account.rest(now_ns) >= IDLE_HOLDER
        };
        let Some(holder) = listed.iter().filter(is_idle).max_by_key(|account| account.waiting_bytes()) else { return };
        if holder.close() {
            self.0.reset_full.fetch_add(1, Relaxed);
            tracing::warn!(
                bytes = holder.bytes(),
                "server.max_in_flight is reached; reset the connection that holds the most bytes without progress"
            );
        }
    }

    #[inline]
    fn wake(&self) {
        if self.0.waiting.load(SeqCst) > 0 {
            self.0.released.notify_waiters();
        }
    }
}

fn units(bytes: u64) -> u32 {
    let most = WHOLE_READS_BYTES / WHOLE_READS_UNIT;
    u32::try_from(bytes.div_ceil(WHOLE_READS_UNIT).clamp(1, most)).unwrap_or(1)
}

impl Account {
    /// Returns the budget that the account belongs to.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Returns the charged bytes, and the bytes of shared buffers that wait for this connection.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed) + self.pinned.load(Relaxed)
    }

    /// Records that a shared buffer of this size waits for the connection.
    pub fn pin(self: &Arc<Self>, bytes: u64) {
        let before = self.bytes();
        self.pinned.fetch_add(bytes, Relaxed);
        if before < LISTED_BYTES {
            self.reached();
        }
        list(self);
    }

    /// Records that a shared buffer of this size no longer waits.
    pub fn unpin(&self, bytes: u64) {
        self.pinned.fetch_sub(bytes, Relaxed);
    }

    /// Occupies a place, unless the connection occupies `most` places of this kind.
    #[must_use]
    pub fn place(self: &Arc<Self>, kind: PlaceKind, most: usize) -> Option<Place> {
        let before = self.places[kind as usize].fetch_add(1, Relaxed);
        let place = Place { account: Arc::clone(self), kind };
        ((before as usize) < most).then_some(place)
    }

    /// Charges bytes of work of the server.
    #[inline]
    #[must_use]
    pub fn hold(self: &Arc<Self>, bytes: u64) -> Held {
        self.hold_for(Reason::Work, bytes)
    }

    /// Charges bytes that wait for the client: for the rest of a request, or until it reads a message of a stream.
    #[inline]
    #[must_use]
    pub fn hold_for_client(self: &Arc<Self>, bytes: u64) -> Held {
        self.hold_for(Reason::Client, bytes)
    }

    /// Charges bytes of an answer that waits for the client to read it.
    #[inline]
    #[must_use]
    pub fn hold_unread(self: &Arc<Self>, bytes: u64) -> Held {
        self.hold_for(Reason::Unread, bytes)
    }

    #[inline]
    fn hold_for(self: &Arc<Self>, reason: Reason, bytes: u64) -> Held {
        let mut held = Held { account: Arc::clone(self), bytes: 0, reason };
        held.set(bytes);
        held
    }

    /// Returns `bytes`, charged until the last slice is dropped.
    #[must_use]
    pub fn held_bytes(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.hold(bytes.len() as u64).keep(bytes)
    }

    /// Returns whether the connection may hold this many more bytes now.
    #[inline]
    #[must_use]
    pub fn may_hold(&self, more: u64) -> bool {
        let shared = &*self.budget.0;
        let (bytes, max) = (shared.bytes.load(Relaxed), shared.max.load(Relaxed));
        // One large amount must not wait for ever in a small budget.
        let all = bytes.saturating_add(more.min(max / 4));
        if all <= max / 2 {
            return true;
        }
        let own = self.bytes().saturating_add(more);
        own <= ALWAYS_BYTES
            || all <= max - max / 4 && own <= shared.share.load(Relaxed).max(more)
            || all <= max && own <= RESERVE_BYTES
    }

    /// Waits until the connection may hold this many more bytes. The caller limits the wait.
    pub async fn room(&self, more: u64) {
        if self.may_hold(more) {
            return;
        }
        let _waiting = Waiting::new(self);
        loop {
            let mut released = std::pin::pin!(self.budget.0.released.notified());
            // Registered before the check, so that no release is missed.
            released.as_mut().enable();
            if self.may_hold(more) {
                return;
            }
            if self.budget.is_full() || self.bytes() < LISTED_BYTES {
                self.budget.relieve();
            }
            released.await;
        }
    }

    /// Like [`Account::room`], for at most `within`.
    ///
    /// # Errors
    /// `Overloaded` if no room became free.
    pub async fn room_within(&self, more: u64, within: Duration) -> Result<(), CacheError> {
        if self.may_hold(more) {
            return Ok(());
        }
        timeout(within, self.room(more)).await.map_err(|_elapsed| self.budget.shed())
    }

    /// Frees room for this connection, which waits, if it holds little itself.
    pub fn press(&self) {
        if self.bytes() < LISTED_BYTES {
            self.budget.relieve();
        }
    }

    /// Records that the client has read a part of an answer, or that the server has received a part of a request.
    #[inline]
    pub fn moved(&self) {
        if self.is_listed.load(Relaxed) {
            self.moved_ns.store(stopwatch_ns(), Relaxed);
        }
    }

    /// Registers the task of the connection, which [`Account::close`] wakes.
    #[inline]
    pub fn register(&self, context: &Context<'_>) {
        self.waker.register(context.waker());
    }

    /// Wakes the task of the connection.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Returns whether the connection has been listed as a holder. Only a listed connection is reset.
    #[inline]
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.is_listed.load(Relaxed)
    }

    /// Returns whether the connection has to end.
    #[inline]
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Acquire)
    }

    /// Ends the connection when its task runs next. Returns `false` if that was requested before.
    pub fn close(&self) -> bool {
        let is_first = !self.is_closed.swap(true, Release);
        self.waker.wake();
        is_first
    }

    /// Returns the bytes that wait for the client.
    fn waiting_bytes(&self) -> u64 {
        self.waiting.load(Relaxed) + self.pinned.load(Relaxed)
    }

    /// Changes the counters of bytes that wait for the client.
    #[inline]
    fn waits(&self, reason: Reason, change: impl Fn(&AtomicU64) -> u64) {
        if reason != Reason::Work {
            change(&self.waiting);
        }
        if reason == Reason::Unread {
            change(&self.unread);
        }
    }

    #[inline]
    fn charge(&self, bytes: u64) {
        let own = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        let shared = &*self.budget.0;
        let all = shared.bytes.fetch_add(bytes, Relaxed) + bytes;
        if own >= LISTED_BYTES && own - bytes < LISTED_BYTES {
            self.reached();
        }
        if all > shared.max.load(Relaxed) {
            self.budget.relieve();
        }
    }

    #[inline]
    fn release(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
        self.budget.0.bytes.fetch_sub(bytes, SeqCst);
        self.budget.wake();
    }

    /// Starts the observation of the progress.
    #[cold]
    fn reached(&self) {
        self.moved_ns.store(stopwatch_ns(), Relaxed);
    }

    fn rest(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(now_ns.saturating_sub(self.moved_ns.load(Relaxed)))
    }
}

/// Lists the account as a holder, if it has become one.
#[inline]
fn list(account: &Arc<Account>) {
    if account.bytes() >= LISTED_BYTES && !account.is_listed() {
        list_now(account);
    }
}

#[cold]
fn list_now(account: &Arc<Account>) {
    if !account.is_listed.swap(true, Relaxed) {
        account.budget.0.listed.lock().push(Arc::downgrade(account));
    }
}

impl Held {
    /// Returns the charged bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Changes the charge to `bytes`.
    #[inline]
    pub fn set(&mut self, bytes: u64) {
        let account = &self.account;
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            account.waits(self.reason, |counter| counter.fetch_add(more, Relaxed));
            account.charge(more);
            list(account);
        } else if bytes < self.bytes {
            let less = self.bytes - bytes;
            account.waits(self.reason, |counter| counter.fetch_sub(less, Relaxed));
            account.release(less);
        }
        self.bytes = bytes;
    }

    /// Records that the request is complete: the server works on it from now on.
    pub fn begin_work(&mut self) {
        self.account.waits(self.reason, |counter| counter.fetch_sub(self.bytes, Relaxed));
        self.reason = Reason::Work;
    }

    /// Returns the bytes of `buffer`, which this guard charges until the last slice is dropped.
    #[must_use]
    pub fn keep(self, buffer: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Kept { buffer, _held: self })
    }

    /// Charges further bytes.
    #[inline]
    pub fn grow(&mut self, bytes: u64) {
        self.set(self.bytes + bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.reason == Reason::Unread && self.bytes >= LISTED_BYTES {
            self.account.moved();
        }
        self.set(0);
    }
}

struct Kept<T> {
    buffer: T,
    _held: Held,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Kept<T> {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref()
    }
}

/// Counts a request that waits for room.
struct Waiting<'a> {
    budget: &'a Budget,
    is_urgent: bool,
}

impl<'a> Waiting<'a> {
    fn new(account: &'a Account) -> Self {
        let (budget, is_urgent) = (&account.budget, account.bytes() < LISTED_BYTES);
        budget.0.waiting.fetch_add(1, SeqCst);
        budget.0.urgent.fetch_add(u64::from(is_urgent), Relaxed);
        Self { budget, is_urgent }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.budget.0.waiting.fetch_sub(1, SeqCst);
        self.budget.0.urgent.fetch_sub(u64::from(self.is_urgent), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn budget(max: u64) -> Budget {
        let budget = Budget::default();
        budget.set_limits(max, 0);
        budget
    }

    #[test]
    fn a_slice_is_charged_until_the_last_one_is_gone() {
        let account = budget(1 << 20).account();
        let bytes = account.held_bytes(vec![0; 100].into());
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!((account.bytes(), account.budget().bytes()), (100, 100));
        drop(slice);
        assert_eq!((account.bytes(), account.budget().bytes()), (0, 0));
    }

    #[test]
    fn above_half_a_connection_keeps_to_its_share() {
        let budget = budget(8 << 20);
        let (large, small) = (budget.account(), budget.account());
        let mut held = large.hold(4 << 20);
        assert!(!large.may_hold(1), "above half and over 1/8");
        assert!(small.may_hold(1 << 20), "its share");
        held.set(7 << 20);
        assert!(!small.may_hold(1 << 20), "the last quarter");
        assert!(small.may_hold(RESERVE_BYTES), "the last quarter is for small amounts");
        held.set(8 << 20);
        assert!(!small.may_hold(1 << 20), "the budget is full");
        assert!(small.may_hold(ALWAYS_BYTES), "small amounts are always possible");
        assert!(!large.may_hold(0));
        held.set(1 << 20);
        assert!(large.may_hold(1 << 20));
    }

    #[tokio::test]
    async fn a_release_wakes_who_waits() {
        let budget = budget(1 << 20);
        let (large, small) = (budget.account(), budget.account());
        let held = large.hold(1 << 20);
        let mut waiting = std::pin::pin!(small.room(100_000));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(held);
        waiting.await;
        assert_eq!(budget.0.waiting.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn who_finds_no_room_in_time_is_refused_by_name() {
        let budget = budget(1 << 20);
        let _held = budget.account().hold(2 << 20);
        let error = budget.account().room_within(1 << 20, Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Overloaded);
        assert!(error.message().contains("server.max_in_flight"), "{error}");
        assert_eq!(budget.figures().shed, 1);
    }

    #[test]
    fn the_largest_holder_without_progress_is_reset() {
        let budget = budget(4 << 20);
        let accounts: Vec<_> = (0..4).map(|_| budget.account()).collect();
        let mut held: Vec<Held> = accounts.iter().map(|account| account.hold_unread(0)).collect();
        [1_u64, 2, 3, 0].iter().zip(&mut held).for_each(|(mib, held)| held.set((mib << 20) / 2));
        let now_ns = stopwatch_ns();
        let later_ns = now_ns + u64::try_from(IDLE_HOLDER.as_nanos()).unwrap_or(0);
        // The account with the most bytes made progress just now.
        accounts[2].moved_ns.store(later_ns, Relaxed);
        budget.reset_holder(&budget.listed(), later_ns);
        let closed: Vec<bool> = accounts.iter().map(|account| account.is_closed()).collect();
        assert_eq!(closed, [false, true, false, false]);
        let figures = budget.figures();
        assert_eq!((figures.holders, figures.largest, figures.reset_full), (3, (3 << 20) / 2, 1));
    }

    #[test]
    fn a_connection_occupies_a_part_of_the_places() {
        let account = Budget::default().account();
        let places: Vec<Place> = (0..3).map_while(|_| account.place(PlaceKind::Watch, 2)).collect();
        assert_eq!(places.len(), 2);
        assert!(account.place(PlaceKind::Ban, 1).is_some(), "another kind");
        drop(places);
        assert!(account.place(PlaceKind::Watch, 1).is_some());
    }

    #[test]
    fn few_reads_of_any_size_at_a_time() {
        let budget = Budget::default();
        let all: Vec<WholeRead> = (0..4).map_while(|_| budget.try_read_whole(8 << 20)).collect();
        assert_eq!(all.len(), 4);
        assert!(budget.try_read_whole(1).is_none());
        drop(all);
        assert!(budget.try_read_whole(512 << 20).is_some(), "one read is always possible");
    }
}
