//! One operation of a caller, on one node after the other until it has an answer.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use terrace_proto::{operation::Operation, operation_result::Result as Answer};
use tokio::time::Instant;
use tracing::{Span, field::Empty};

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

/// Operation with the rules for its repetition.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) operation: Operation,
    pub(crate) key: Option<RouteHash>,
    /// Node of the first attempt, if it is selected already.
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) after_break: AfterBreak,
    pub(crate) is_write: bool,
    pub(crate) timeout: Duration,
    pub(crate) context: u64,
    /// Open until the operation ends; `None` if nobody subscribes to it.
    pub(crate) span: Option<Box<Span>>,
}

/// Returns the span of an operation, if anybody subscribes to it.
#[inline]
pub(crate) fn span_of(operation: &Operation) -> Option<Box<Span>> {
    tracing::enabled!(tracing::Level::DEBUG).then(|| open_span(operation))
}

#[cold]
fn open_span(operation: &Operation) -> Box<Span> {
    let name = match operation {
        Operation::Get(_) => "get",
        Operation::GetMeta(_) => "get_meta",
        Operation::GetMany(_) => "get_many",
        Operation::Set(_) => "set",
        Operation::SetMany(_) => "set_many",
        Operation::Delete(_) => "delete",
        Operation::Touch(_) => "touch",
        Operation::Increment(_) => "increment",
        Operation::GetOrLease(_) => "get_or_lease",
        Operation::GetOrLeaseMany(_) => "get_or_lease_many",
        Operation::Fill(_) => "fill",
        Operation::Release(_) => "release",
        Operation::Cancel(_) => "cancel",
    };
    Box::new(tracing::debug_span!("cache", operation = name, node = Empty, attempts = Empty, error = Empty))
}

/// An operation in progress.
#[derive(Debug)]
pub(crate) struct Call {
    fleet: Arc<Fleet>,
    order: Order,
    deadline: Instant,
    attempts: u8,
    sent: Option<(Arc<Node>, Id)>,
}

impl Call {
    pub(crate) fn new(fleet: Arc<Fleet>, order: Order) -> Self {
        let deadline = Instant::now() + order.timeout;
        Self { fleet, order, deadline, attempts: 0, sent: None }
    }

    /// Decides what follows a failure: the node that must not be selected again, or the error of the operation.
    fn after(&self, failure: Failure, node: &Node) -> Result<()> {
        let error = match failure {
            Failure::Expired { is_sent } => return Err(self.expired(is_sent, node)),
            Failure::Broken(error) if self.order.is_write && self.order.after_break == AfterBreak::Unknown => {
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
        let (timeout, node) = (self.order.timeout, &node.name);
        if self.order.is_write && is_sent {
            let text = format!("{node}: no answer within {timeout:?}; the write may have been applied");
            return Error::new(ErrorKind::OutcomeUnknown, text);
        }
        let text = if is_sent { "no answer" } else { "not sent" };
        Error::new(ErrorKind::DeadlineExceeded, format!("{node}: {text} within {timeout:?}"))
    }
}

impl Future for Call {
    type Output = Result<(Answer, Arc<Node>)>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.advance(context));
        if let Some(span) = self.order.span.take() {
            record(&span, self.attempts, &result);
        }
        Poll::Ready(result)
    }
}

/// Records the end of an operation.
#[cold]
fn record(span: &Span, attempts: u8, result: &Result<(Answer, Arc<Node>)>) {
    span.record("attempts", attempts);
    match result {
        Ok((_, node)) => span.record("node", &*node.name),
        Err(error) => span.record("error", format!("{:?}", error.kind())),
    };
}

impl Call {
    fn advance(&mut self, context: &mut Context<'_>) -> Poll<Result<(Answer, Arc<Node>)>> {
        let this = self;
        let mut failed: Option<Arc<Node>> = None;
        loop {
            if let Some((node, id)) = &this.sent {
                let outcome = match node.link.poll(*id, &this.order.operation, this.order.context, context.waker()) {
                    Poll::Ready(outcome) => outcome,
                    Poll::Pending => return Poll::Pending,
                };
                let Some((node, _)) = this.sent.take() else { return Poll::Pending };
                match outcome {
                    Ok(answer) => return Poll::Ready(Ok((answer, node))),
                    Err(failure) => match this.after(failure, &node) {
                        Ok(()) => failed = Some(node),
                        Err(error) => return Poll::Ready(Err(error)),
                    },
                }
            }
            this.attempts += 1;
            let selected =
                this.order.node.take().map_or_else(|| this.fleet.choose(this.order.key, failed.as_deref()), Ok);
            let node = match selected {
                Ok(node) => node,
                Err(error) => return Poll::Ready(Err(error)),
            };
            match node.link.submit(&this.order.operation, this.order.context, this.deadline, context.waker()) {
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
