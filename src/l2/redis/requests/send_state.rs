//! [`SendState`]: whether a queued write was sent or withdrawn, decided once between its caller and the connection.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

/// How far a write has come: the caller that gives up and the task that sends decide through it which of them was
/// first.
#[derive(Debug, Default)]
pub(crate) struct SendState(AtomicU8);

impl SendState {
    const QUEUED: u8 = 0;
    const SENT: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// The task: true if the call may be sent.
    pub(crate) fn send(&self) -> bool {
        self.0.compare_exchange(Self::QUEUED, Self::SENT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The caller: true if it was not sent and never will be.
    fn withdraw(&self) -> bool {
        match self.0.compare_exchange(Self::QUEUED, Self::WITHDRAWN, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(now) => now == Self::WITHDRAWN,
        }
    }
}

/// Withdraws the write when its caller goes away.
pub(crate) struct Withdraw(pub(crate) Option<Arc<SendState>>);

impl Withdraw {
    /// True for a write that was handed to the connection.
    pub(crate) fn was_sent(&self) -> bool {
        self.0.as_ref().is_some_and(|state| !state.withdraw())
    }
}

impl Drop for Withdraw {
    fn drop(&mut self) {
        let _sent = self.was_sent();
    }
}
