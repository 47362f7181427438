//! One operation of a caller, on one node after the other until it has an answer.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use terrace_proto::{operation::Operation, operation_result::Result as Answer};
use tokio::time::Instant;

use super::table::{Failure, Id};
use crate::{
    error::{Error, ErrorKind, Result},
    nodes::{Fleet, Node, routing::RouteHash},
};

/// Maximum number of nodes and connections on which an operation is tried.
const ATTEMPTS_MAX: u8 = 5;

/// What happens to an operation whose connection broke after it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterBreak {
    /// It is repeated: applying it twice has the same effect, or is recognized by the server.
    Repeat,
    /// Its outcome is unknown.
    Unknown,
}

/// An operation in progress.
#[derive(Debug)]
pub(crate) struct Call {
    fleet: Arc<Fleet>,
    operation: Operation,
    context: u64,
    key: Option<RouteHash>,
    after_break: AfterBreak,
    is_write: bool,
    timeout: Duration,
    deadline: Instant,
    attempts: u8,
    sent: Option<(Arc<Node>, Id)>,
}

/// Operation with the rules for its repetition.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) operation: Operation,
    pub(crate) key: Option<RouteHash>,
    pub(crate) after_break: AfterBreak,
    pub(crate) is_write: bool,
    pub(crate) timeout: Duration,
    pub(crate) context: u64,
}

impl Call {
    pub(crate) fn new(fleet: Arc<Fleet>, order: Order) -> Self {
        let Order { operation, key, after_break, is_write, timeout, context } = order;
        let deadline = Instant::now() + timeout;
        Self { fleet, operation, context, key, after_break, is_write, timeout, deadline, attempts: 0, sent: None }
    }

    /// Decides what follows a failure: the node that must not be selected again, or the error of the operation.
    fn after(&self, failure: Failure, node: &Node) -> Result<()> {
        let error = match failure {
            Failure::Expired { is_sent } => return Err(self.expired(is_sent, node)),
            Failure::Broken(error) if self.is_write && self.after_break == AfterBreak::Unknown => {
                let text = format!("the write may have been applied: {}", error.message());
                return Err(Error::new(ErrorKind::OutcomeUnknown, text));
            }
            Failure::Broken(error) | Failure::NotBegun(error) => error,
        };
        if self.attempts >= ATTEMPTS_MAX {
            return Err(error);
        }
        if Instant::now() >= self.deadline {
            return Err(self.expired(false, node));
        }
        Ok(())
    }

    fn expired(&self, is_sent: bool, node: &Node) -> Error {
        let (timeout, node) = (self.timeout, &node.name);
        if self.is_write && is_sent {
            let text = format!("{node}: no answer within {timeout:?}; the write may have been applied");
            return Error::new(ErrorKind::OutcomeUnknown, text);
        }
        let text = if is_sent { "no answer" } else { "not sent" };
        Error::new(ErrorKind::DeadlineExceeded, format!("{node}: {text} within {timeout:?}"))
    }
}

impl Future for Call {
    type Output = Result<Answer>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Answer>> {
        let this = &mut *self;
        let mut failed: Option<Arc<Node>> = None;
        loop {
            if let Some((node, id)) = &this.sent {
                let outcome = match node.link.poll(*id, &this.operation, this.context, context.waker()) {
                    Poll::Ready(outcome) => outcome,
                    Poll::Pending => return Poll::Pending,
                };
                let node = Arc::clone(node);
                this.sent = None;
                match outcome {
                    Ok(answer) => return Poll::Ready(Ok(answer)),
                    Err(failure) => match this.after(failure, &node) {
                        Ok(()) => failed = Some(node),
                        Err(error) => return Poll::Ready(Err(error)),
                    },
                }
            }
            this.attempts += 1;
            let node = match this.fleet.choose(this.key, failed.as_deref()) {
                Ok(node) => node,
                Err(error) => return Poll::Ready(Err(error)),
            };
            match node.link.submit(&this.operation, this.context, this.deadline, context.waker()) {
                Ok(id) => {
                    this.sent = Some((node, id));
                    return Poll::Pending;
                }
                Err(failure) => match this.after(failure, &node) {
                    Ok(()) => failed = Some(node),
                    Err(error) => return Poll::Ready(Err(error)),
                },
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some((node, id)) = self.sent.take() {
            node.link.forget(id);
        }
    }
}
