//! Input from other connections: messages, MONITOR lines, and requests to close or to unblock the connection.
//!
//! The mailbox is bounded. As in Redis, a client that does not read its messages is closed, because senders must not
//! wait.

use std::{
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    task::Context as TaskContext,
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// Maximum size of the messages that wait for one connection (hard limit for subscribers in Redis).
const WAITING_MAX_BYTES: usize = 32 << 20;

/// Result with which CLIENT UNBLOCK ends a blocked command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unblock {
    /// With the result of a timeout.
    Timeout,
    /// With an error.
    Error,
}

/// The inbox of one connection.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    waker: AtomicWaker,
    closed: AtomicBool,
    /// 0 nothing, 1 timeout, 2 error.
    unblock: AtomicU8,
    filled: AtomicBool,
    bytes: Mutex<Vec<u8>>,
}

impl Mailbox {
    /// Appends bytes to the next output of the connection. Closes the connection if too many bytes are pending.
    pub(super) fn post(&self, bytes: &[u8]) {
        let mut waiting = self.bytes.lock();
        if waiting.len() + bytes.len() > WAITING_MAX_BYTES {
            drop(waiting);
            return self.close();
        }
        waiting.extend_from_slice(bytes);
        self.filled.store(true, Ordering::Release);
        drop(waiting);
        self.waker.wake();
    }

    /// Closes the connection when its task runs next.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ends a blocking command. Has no effect on a connection without one.
    pub(super) fn unblock(&self, how: Unblock) {
        let how = match how {
            Unblock::Timeout => 1,
            Unblock::Error => 2,
        };
        self.unblock.store(how, Ordering::Release);
        self.waker.wake();
    }

    /// Registers the connection's task for a wakeup by the next event.
    #[inline]
    pub(super) fn register(&self, task: &TaskContext<'_>) {
        self.waker.register(task.waker());
    }

    /// Returns `true` if another connection closed this one.
    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Removes and returns the pending bytes, if any.
    #[inline]
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        if !self.filled.load(Ordering::Acquire) {
            return None;
        }
        let mut waiting = self.bytes.lock();
        self.filled.store(false, Ordering::Release);
        Some(std::mem::take(&mut *waiting))
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

    #[test]
    fn who_does_not_read_is_closed() {
        let mailbox = Mailbox::default();
        mailbox.post(b"a");
        mailbox.post(b"b");
        assert_eq!(mailbox.take().as_deref(), Some(&b"ab"[..]));
        assert_eq!(mailbox.take(), None);
        let part = vec![0; WAITING_MAX_BYTES / 2];
        mailbox.post(&part);
        mailbox.post(&part);
        assert!(!mailbox.is_closed());
        mailbox.post(b"x");
        assert!(mailbox.is_closed());
    }

    #[test]
    fn a_wish_to_unblock_is_taken_once() {
        let mailbox = Mailbox::default();
        mailbox.unblock(Unblock::Error);
        assert_eq!(mailbox.take_unblock(), Some(Unblock::Error));
        assert_eq!(mailbox.take_unblock(), None);
    }
}
