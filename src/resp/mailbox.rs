//! Input from other connections: messages, MONITOR lines, and requests to close or to unblock the connection.
//!
//! The mailbox is bounded. As in Redis, a client that does not read its messages is closed, because senders must not
//! wait.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::Context as TaskContext,
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::budget::Account;

/// Maximum size of the messages that wait for one connection (hard limit for subscribers in Redis).
const WAITING_MAX_BYTES: usize = 32 << 20;
/// Size of the list entry of a message that waits.
const ENTRY_BYTES: usize = size_of::<Bytes>();

/// Result with which CLIENT UNBLOCK ends a blocked command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unblock {
    /// With the result of a timeout.
    Timeout,
    /// With an error.
    Error,
}

/// The inbox of one connection.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// The account of the connection, which also wakes and closes it.
    account: Arc<Account>,
    /// 0 nothing, 1 timeout, 2 error.
    unblock: AtomicU8,
    filled: AtomicBool,
    waiting: Mutex<Waiting>,
}

/// Messages that wait, oldest first. Connections share the memory of a message.
#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Bytes>,
    bytes: usize,
}

impl Mailbox {
    pub(super) fn new(account: Arc<Account>) -> Self {
        Self { account, unblock: AtomicU8::new(0), filled: AtomicBool::new(false), waiting: Mutex::default() }
    }

    /// Returns the account of the connection.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Appends a message to the next output of the connection. Closes the connection if too many bytes are pending.
    pub(super) fn post(&self, message: Bytes) {
        let bytes = message.len() + ENTRY_BYTES;
        let mut waiting = self.waiting.lock();
        if waiting.bytes + bytes > WAITING_MAX_BYTES {
            drop(waiting);
            return self.close();
        }
        waiting.bytes += bytes;
        waiting.messages.push_back(message);
        self.filled.store(true, Ordering::Release);
        drop(waiting);
        self.account.pin(bytes as u64);
        self.account.wake();
    }

    /// Closes the connection when its task runs next.
    pub(super) fn close(&self) {
        self.account.close();
    }

    /// Ends a blocking command. Has no effect on a connection without one.
    pub(super) fn unblock(&self, how: Unblock) {
        let how = match how {
            Unblock::Timeout => 1,
            Unblock::Error => 2,
        };
        self.unblock.store(how, Ordering::Release);
        self.account.wake();
    }

    /// Registers the connection's task for a wakeup by the next event.
    #[inline]
    pub(super) fn register(&self, task: &TaskContext<'_>) {
        self.account.register(task);
    }

    /// Returns `true` if another connection closed this one.
    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.account.is_closed()
    }

    /// Removes and returns the oldest message, if there is one that `accepts` accepts by its size.
    #[inline]
    pub(super) fn take(&self, accepts: impl FnOnce(usize) -> bool) -> Option<Bytes> {
        if !self.filled.load(Ordering::Acquire) {
            return None;
        }
        let mut waiting = self.waiting.lock();
        if !accepts(waiting.messages.front()?.len()) {
            return None;
        }
        let message = waiting.messages.pop_front()?;
        let bytes = message.len() + ENTRY_BYTES;
        waiting.bytes -= bytes;
        if waiting.messages.is_empty() {
            waiting.messages = VecDeque::new();
            self.filled.store(false, Ordering::Release);
        }
        drop(waiting);
        self.account.unpin(bytes as u64);
        Some(message)
    }

    /// Removes and returns the request to end a blocking command, if any.
    pub(super) fn take_unblock(&self) -> Option<Unblock> {
        match self.unblock.swap(0, Ordering::AcqRel) {
            1 => Some(Unblock::Timeout),
            2 => Some(Unblock::Error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    fn mailbox() -> Mailbox {
        Mailbox::new(Budget::default().account())
    }

    #[test]
    fn who_does_not_read_is_closed() {
        let mailbox = mailbox();
        mailbox.post("a".into());
        mailbox.post("bc".into());
        assert_eq!(mailbox.account.bytes(), (3 + 2 * ENTRY_BYTES) as u64);
        assert_eq!(mailbox.take(|_| true).as_deref(), Some(&b"a"[..]));
        assert_eq!(mailbox.take(|bytes| bytes < 2), None, "a large message waits");
        assert_eq!(mailbox.take(|_| true).as_deref(), Some(&b"bc"[..]));
        assert_eq!(mailbox.take(|_| true), None);
        assert_eq!(mailbox.account.bytes(), 0);
        let part = Bytes::from(vec![0; WAITING_MAX_BYTES / 2 - ENTRY_BYTES]);
        mailbox.post(part.clone());
        mailbox.post(part);
        assert!(!mailbox.is_closed());
        mailbox.post("x".into());
        assert!(mailbox.is_closed());
    }

    #[test]
    fn a_wish_to_unblock_is_taken_once() {
        let mailbox = mailbox();
        mailbox.unblock(Unblock::Error);
        assert_eq!(mailbox.take_unblock(), Some(Unblock::Error));
        assert_eq!(mailbox.take_unblock(), None);
    }
}
