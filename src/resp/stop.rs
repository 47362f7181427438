//! The wish to stop, looked at on every wait and therefore at the price of one load.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::sync::watch;

/// Waits for the stop without registering anew each time.
pub(super) struct Stop {
    receiver: watch::Receiver<bool>,
    wait: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Whom the future under `wait` will wake.
    registered: Option<Waker>,
}

impl Stop {
    pub(super) fn new(receiver: watch::Receiver<bool>) -> Self {
        let mut waiting = receiver.clone();
        let wait = Box::pin(async move {
            // A sender that is gone stops as well.
            let _gone = waiting.wait_for(|stop| *stop).await;
        });
        Self { receiver, wait, registered: None }
    }

    /// Whether the server stops, for a connection that never waits.
    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        match self.receiver.has_changed() {
            Ok(false) => false,
            Ok(true) => *self.receiver.borrow(),
            Err(_gone) => true,
        }
    }

    /// Ready once the server stops. Not to be polled after that.
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
