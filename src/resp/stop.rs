//! Stop signal of the server, checked on every wait at the cost of one load.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::sync::watch;

/// Waits for the stop signal without registering again on each wait.
pub(super) struct Stop {
    receiver: watch::Receiver<bool>,
    wait: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Waker that the future in `wait` wakes.
    registered: Option<Waker>,
}

impl Stop {
    pub(super) fn new(receiver: watch::Receiver<bool>) -> Self {
        let mut waiting = receiver.clone();
        let wait = Box::pin(async move {
            // A dropped sender counts as a stop.
            let _dropped = waiting.wait_for(|stop| *stop).await;
        });
        Self { receiver, wait, registered: None }
    }

    /// Returns `true` if the server is stopping, for a connection that never waits.
    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        match self.receiver.has_changed() {
            Ok(false) => false,
            Ok(true) => *self.receiver.borrow(),
            Err(_dropped) => true,
        }
    }

    /// Becomes ready when the server stops. Must not be polled afterwards.
    #[inline]
    pub(super) fn poll(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let is_registered = self.registered.as_ref().is_some_and(|waker| waker.will_wake(task.waker()));
        if is_registered && matches!(self.receiver.has_changed(), Ok(false)) {
            return Poll::Pending;
        }
        self.register(task)
    }

    #[cold]
    fn register(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let stopped = self.wait.as_mut().poll(task);
        self.registered = Some(task.waker().clone());
        if stopped.is_pending() {
            self.receiver.mark_unchanged();
        }
        stopped
    }
}
