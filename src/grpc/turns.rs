//! Runs one connection in turns: reads what has arrived, runs its calls, and writes all answers at once.
//!
//! All calls of a connection run in its own task. A call that has its message is answered in the turn that read it, and
//! the answers of a turn leave in one write. A task per call would cost a wake-up of the call and one of the connection
//! for each answer, and the answers would leave one by one.

use std::{
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use hyper::rt::Executor;
use parking_lot::Mutex;
use tokio::task::coop::{consume_budget, has_budget_remaining};

use super::{tally::Tally, transport::Writer};
use crate::budget::Account;

/// The calls of a connection that have to wait, from the time hyper starts them until the turn takes them over.
#[derive(Clone, Default)]
pub(super) struct Calls(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

/// Polls each call once where it arrives, and keeps the calls that have to wait. Most calls whose message has arrived
/// are answered from memory.
///
/// The first poll uses a no-op waker; the turn polls again, which registers the correct waker. Each call consumes
/// cooperative budget, so that a busy connection does not block the other connections of its worker.
impl<F: Future<Output = ()> + Send + Unpin + 'static> Executor<F> for Calls {
    fn execute(&self, mut call: F) {
        let mut context = Context::from_waker(Waker::noop());
        let has_turn = pin!(consume_budget()).poll(&mut context).is_ready();
        if !has_turn || Pin::new(&mut call).poll(&mut context).is_pending() {
            // A panic ends its call, not the connection. The panic hook has logged it.
            self.0.lock().push(AssertUnwindSafe(call).catch_unwind().map(drop).boxed());
        }
    }
}

/// Reason why the server ends a connection at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abort {
    /// The client has canceled too many calls.
    Canceled,
    /// The connection holds too many bytes without progress.
    Reset,
}

/// A connection and its calls. Resolves to an error when the server ends the connection at once.
pub(super) struct Turns<'a, C> {
    connection: Pin<Box<C>>,
    arrived: Calls,
    calls: FuturesUnordered<BoxFuture<'static, ()>>,
    writer: &'a Writer,
    tally: &'a Tally,
    account: &'a Account,
}

impl<'a, C: Future> Turns<'a, C> {
    pub(super) fn new(
        connection: Pin<Box<C>>,
        arrived: Calls,
        writer: &'a Writer,
        tally: &'a Tally,
        account: &'a Account,
    ) -> Self {
        Self { connection, arrived, calls: FuturesUnordered::new(), writer, tally, account }
    }

    pub(super) fn connection(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }

    /// Runs the calls. Returns whether one of them ended, so that hyper has an answer to send.
    fn run_calls(&mut self, context: &mut Context<'_>) -> bool {
        self.calls.extend(self.arrived.0.lock().drain(..));
        let mut has_ended = false;
        while has_budget_remaining() {
            match self.calls.poll_next_unpin(context) {
                Poll::Ready(Some(())) => has_ended = true,
                Poll::Ready(None) | Poll::Pending => return has_ended,
            }
        }
        // The other connections of this worker have their turn first.
        context.waker().wake_by_ref();
        has_ended
    }
}

impl<C, E> Future for Turns<'_, C>
where
    C: Future<Output = Result<(), E>>,
{
    type Output = Result<C::Output, Abort>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let turns = &mut *self;
        // Only a connection that has held many bytes is reset; others save the registration.
        if turns.account.is_listed() {
            turns.account.register(context);
            if turns.account.is_closed() {
                return Poll::Ready(Err(Abort::Reset));
            }
        }
        let ended = loop {
            let ended = turns.connection.as_mut().poll(context);
            if ended.is_ready() || !turns.run_calls(context) || !has_budget_remaining() {
                break ended;
            }
        };
        if let Poll::Ready(Err(_broken)) = turns.writer.poll_drain(context)
            && ended.is_pending()
        {
            // hyper gets the error from its next read.
            context.waker().wake_by_ref();
        }
        if ended.is_pending() && turns.tally.is_over() {
            return Poll::Ready(Err(Abort::Canceled));
        }
        ended.map(Ok)
    }
}
