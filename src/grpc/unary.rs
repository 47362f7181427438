//! A call with one message each way: read, decode, run under the deadline, answer.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use prost::Message;
use tonic::Status;

use super::{
    Edge, GrpcSettings,
    answer::{self, Answer},
    convert,
    deadline::Deadline,
    in_flight_bytes,
    inbound::Inbound,
    service::{FirstLook, MissedGet},
};
use crate::{
    cache::stats::requests::{Port, Stopwatch},
    error::Result,
    proto::GetRequest,
};

/// What the end of its time says about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It had none: DEADLINE_EXCEEDED.
    Reads,
    /// It may have happened: UNKNOWN.
    Writes,
}

/// The answer to a call, now or later. `Unpin`, so that [`connection`](super::connection) can poll it before it spawns.
pub(super) enum Call {
    /// Answered without waiting.
    Ready(Option<Response<Answer>>),
    /// A Get that is coming in.
    Get(Option<Get>),
    /// Under way.
    Pending(Pin<Box<dyn Future<Output = Response<Answer>> + Send>>),
}

impl Call {
    pub(super) fn ready(response: Response<Answer>) -> Self {
        Self::Ready(Some(response))
    }
}

impl Future for Call {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Self::Get(waiting) = &mut *self
            && let Some(mut get) = waiting.take()
        {
            // What came is held back by the stream's window; it is counted where the call has to wait.
            *self = match get.inbound.poll_message(context, &mut |_| Ok(())) {
                Poll::Ready(message) => get.begin(message),
                Poll::Pending if get.inbound.is_partial() => get.wait(),
                Poll::Pending => {
                    *waiting = Some(get);
                    return Poll::Pending;
                }
            };
        }
        match &mut *self {
            Self::Ready(response) => response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response))),
            Self::Pending(future) => future.as_mut().poll(context).map(Ok),
            // Polled again after its end, a call has nothing to say.
            Self::Get(_) => Poll::Pending,
        }
    }
}

/// A Get before its message has come. A hit in L1 is answered as soon as it has, without a timer or an allocation for
/// the call.
pub(super) struct Get {
    edge: Arc<Edge>,
    inbound: Inbound,
}

impl Get {
    /// A part of the message has come: from here on the call is under its deadline.
    fn wait(self) -> Call {
        let later = |edge: Arc<Edge>, request: GetRequest| async move { edge.get(request).await };
        Call::Pending(Box::pin(answered(self.edge, self.inbound, Effect::Reads, later)))
    }

    fn begin(self, message: Result<Bytes, Status>) -> Call {
        let decoded = message.and_then(|message| Ok((message.len(), decode::<GetRequest>(message)?)));
        let (bytes, request) = match decoded {
            Ok(decoded) => decoded,
            Err(status) => return Call::ready(status.into_http()),
        };
        match self.edge.get_from_l1(request, self.edge.cache.now()) {
            Ok(FirstLook::Answered(response)) => {
                Call::ready(shed_or_send(&self.edge, &self.edge.settings.load(), &response))
            }
            Ok(FirstLook::Missed(missed)) => Call::Pending(Box::pin(self.read(Ok(missed), bytes))),
            Err(error) => Call::Pending(Box::pin(self.read(Err(error), bytes))),
        }
    }

    /// Answers a Get of so many bytes that L1 did not answer. A faulty deadline is reported before a faulty request.
    async fn read(self, missed: Result<MissedGet>, bytes: usize) -> Response<Answer> {
        let settings = self.edge.settings.load_full();
        let _held = in_flight_bytes::hold(&self.edge.node.in_flight, bytes);
        let run = async {
            let mut deadline = Deadline::new(settings.timeout, &self.inbound.headers)?;
            let read = self.edge.get_missed(missed?);
            deadline.limit(read).await.unwrap_or_else(|| Err(deadline.exceeded()))
        };
        match run.await {
            Ok(response) => shed_or_send(&self.edge, &settings, &response),
            Err(error) => answer::failed(&error),
        }
    }
}

/// Runs a Get.
pub(super) fn get(edge: &Arc<Edge>, request: Request<Incoming>) -> Call {
    let inbound = Inbound::new(request, edge.settings.load().message_max);
    let edge = edge.for_request(&inbound.headers);
    match edge.cache.time_request(Port::Grpc) {
        None => Call::Get(Some(Get { edge, inbound })),
        Some(stopwatch) => timed(stopwatch, Call::Get(Some(Get { edge, inbound }))),
    }
}

/// Runs one unary method.
pub(super) fn call<M, R, F>(
    edge: Arc<Edge>,
    request: Request<Incoming>,
    effect: Effect,
    method: impl FnOnce(Arc<Edge>, M) -> F + Send + 'static,
) -> Call
where
    M: Message + Default + 'static,
    R: Message + 'static,
    F: Future<Output = Result<R>> + Send + 'static,
{
    let inbound = Inbound::new(request, edge.settings.load().message_max);
    let edge = edge.for_request(&inbound.headers);
    let stopwatch = edge.cache.time_request(Port::Grpc);
    let call = Call::Pending(Box::pin(answered(edge, inbound, effect, method)));
    match stopwatch {
        None => call,
        Some(stopwatch) => timed(stopwatch, call),
    }
}

/// Runs a call that is timed.
#[cold]
fn timed(stopwatch: Stopwatch, call: Call) -> Call {
    Call::Pending(Box::pin(async move {
        let _stopwatch = stopwatch;
        match call.await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }))
}

async fn answered<M, R, F>(
    edge: Arc<Edge>,
    mut inbound: Inbound,
    effect: Effect,
    method: impl FnOnce(Arc<Edge>, M) -> F + Send + 'static,
) -> Response<Answer>
where
    M: Message + Default,
    R: Message,
    F: Future<Output = Result<R>> + Send,
{
    let settings = edge.settings.load_full();
    let result = run(&edge, &settings, &mut inbound, effect, method).await;
    match (result, effect) {
        (Ok(response), Effect::Reads) => shed_or_send(&edge, &settings, &response),
        (Ok(response), Effect::Writes) => send(&edge, &settings, &response),
        (Err(status), _) => status.into_http(),
    }
}

async fn run<M, R, F>(
    edge: &Arc<Edge>,
    settings: &GrpcSettings,
    inbound: &mut Inbound,
    effect: Effect,
    method: impl FnOnce(Arc<Edge>, M) -> F + Send + 'static,
) -> Result<R, Status>
where
    M: Message + Default,
    F: Future<Output = Result<R>> + Send,
{
    let mut deadline = Deadline::new(settings.timeout, &inbound.headers).map_err(|error| convert::status(&error))?;
    let message = inbound.message(&edge.node.in_flight, settings.in_flight_max);
    let Some(received) = deadline.limit(message).await else {
        return Err(convert::status(&deadline.exceeded()));
    };
    let (message, _held) = received?;
    let result = deadline.limit(method(Arc::clone(edge), decode(message)?)).await;
    let overdue = || match effect {
        Effect::Reads => Err(deadline.exceeded()),
        Effect::Writes => Err(deadline.unknown()),
    };
    result.unwrap_or_else(overdue).map_err(|error| convert::status(&error))
}

/// Reads a message.
pub(super) fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| {
        let name = std::any::type_name::<M>().rsplit("::").next().unwrap_or_default();
        Status::invalid_argument(format!("the message is not a terrace.v1.{name}: {error}"))
    })
}

/// Answers a read, unless too much is under way already.
fn shed_or_send(edge: &Edge, settings: &GrpcSettings, message: &impl Message) -> Response<Answer> {
    match in_flight_bytes::check(&edge.node.in_flight, settings.in_flight_max) {
        Ok(()) => send(edge, settings, message),
        Err(error) => answer::failed(&error),
    }
}

fn send(edge: &Edge, settings: &GrpcSettings, message: &impl Message) -> Response<Answer> {
    match answer::frame(message, settings.message_max, &edge.node.in_flight) {
        Ok(data) => answer::succeeded(data),
        Err(error) => answer::failed(&error),
    }
}
