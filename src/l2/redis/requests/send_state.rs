//! [`SendState`]: records whether a queued write was sent or withdrawn. Its caller and the connection decide that only
//! once.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

/// Progress of a write. The caller that withdraws and the task that sends use it to determine which of them was first.
#[derive(Debug, Default)]
pub(crate) struct SendState(AtomicU8);

impl SendState {
    const QUEUED: u8 = 0;
    const SENT: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// Marks the write as sent, on behalf of the task. Returns true if it may be sent.
    pub(crate) fn send(&self) -> bool {
        self.0.compare_exchange(Self::QUEUED, Self::SENT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Withdraws the write, on behalf of the caller. Returns true if it was not sent and never will be.
    fn withdraw(&self) -> bool {
        match self.0.compare_exchange(Self::QUEUED, Self::WITHDRAWN, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(now) => now == Self::WITHDRAWN,
        }
    }
}

/// Withdraws the write when its caller is dropped.
pub(crate) struct Withdraw(pub(crate) Option<Arc<SendState>>);

impl Withdraw {
    /// Returns true for a write that was handed to the connection.
    pub(crate) fn was_sent(&self) -> bool {
        self.0.as_ref().is_some_and(|state| !state.withdraw())
    }
}

impl Drop for Withdraw {
    fn drop(&mut self) {
        let _sent = self.was_sent();
    }
}
