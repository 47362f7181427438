//! Unary calls: reads and decodes the request, runs the method under the deadline, and writes the response.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use prost::Message;
use tokio::time::sleep;
use tonic::Status;

use super::{
    Edge, GrpcSettings,
    answer::{self, Answer},
    convert,
    deadline::Deadline,
    inbound::Inbound,
    service::{FirstLook, MissedGet},
    wire::Encode,
};
use crate::{
    cache::stats::requests::{Port, Stopwatch},
    error::{CacheError, Result},
    proto::GetRequest,
};

/// Effect of a call, which determines its status when the deadline is exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// The call changes nothing: DEADLINE_EXCEEDED.
    Reads,
    /// The write may have been executed: UNKNOWN.
    Writes,
}

/// The response to a call, available now or later. The type is `Unpin`, so that [`connection`](super::connection) can
/// poll a call before it spawns a task.
pub(super) enum Call {
    /// Answered without waiting.
    Ready(Option<Response<Answer>>),
    /// A Get whose message has not been read yet.
    Get(Option<Get>),
    /// A call in flight.
    Pending(Pin<Box<dyn Future<Output = Response<Answer>> + Send>>),
}

impl Call {
    pub(super) fn ready(response: Response<Answer>) -> Self {
        Self::Ready(Some(response))
    }

    /// Responds after a delay.
    pub(super) fn after(delay: Duration, response: Response<Answer>) -> Self {
        Self::Pending(Box::pin(async move {
            sleep(delay).await;
            response
        }))
    }
}

impl Future for Call {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Self::Get(waiting) = &mut *self
            && let Some(mut get) = waiting.take()
        {
            // The window of the stream limits the received bytes; `wait` charges them if the call has to wait.
            *self = match get.inbound.poll_message(context, &mut |_| {}) {
                Poll::Ready(message) => get.begin(message),
                Poll::Pending if get.inbound.is_partial() => get.wait(),
                Poll::Pending => match get.poll_deadline(context) {
                    Poll::Ready(response) => Self::ready(response),
                    Poll::Pending => {
                        *waiting = Some(get);
                        return Poll::Pending;
                    }
                },
            };
        }
        match &mut *self {
            Self::Ready(response) => response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response))),
            Self::Pending(future) => future.as_mut().poll(context).map(Ok),
            // The call was polled again after it completed.
            Self::Get(_) => Poll::Pending,
        }
    }
}

/// A Get whose message has not been read yet. An L1 hit is answered without a timer or an allocation for the call.
pub(super) struct Get {
    edge: Arc<Edge>,
    inbound: Inbound,
    /// Set while the call waits for the first byte of its message.
    deadline: Option<Deadline>,
}

impl Get {
    /// Returns the response of a call whose message did not arrive in time. A client may send the headers of a call and nothing else.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<Response<Answer>> {
        // The first poll, where the call arrives, has a waker that wakes nobody; the task polls again at once. The message has
        // often arrived by then, which saves the timer.
        if context.waker().will_wake(Waker::noop()) {
            return Poll::Pending;
        }
        let deadline = match &mut self.deadline {
            Some(deadline) => deadline,
            none => match Deadline::new(self.edge.settings.load().timeout, &self.inbound.headers) {
                Ok(deadline) => none.insert(deadline),
                Err(error) => return Poll::Ready(answer::failed(&error)),
            },
        };
        deadline.poll_exceeded(context).map(|()| answer::failed(&deadline.exceeded()))
    }

    /// Waits for the rest of a message under the deadline of the call, and charges its bytes.
    fn wait(self) -> Call {
        let later = |edge: Arc<Edge>, request: GetRequest| async move { edge.get(request).await };
        Call::Pending(Box::pin(answered(self.edge, self.inbound, self.deadline, Effect::Reads, later)))
    }

    fn begin(self, message: Result<Bytes, Status>) -> Call {
        let decoded = message.and_then(|message| Ok((message.len(), decode::<GetRequest>(message)?)));
        let (bytes, request) = match decoded {
            Ok(decoded) => decoded,
            Err(status) => return Call::ready(status.into_http()),
        };
        let settings = self.edge.settings.load();
        if !self.edge.account().may_hold(settings.message_max as u64) {
            drop(settings);
            return Call::Pending(Box::pin(self.read_in_room(request, bytes)));
        }
        match self.edge.get_from_l1(request, self.edge.cache.now()) {
            Ok(FirstLook::Answered(response)) => Call::ready(send(&self.edge, &settings, &response)),
            Ok(FirstLook::Missed(missed)) => Call::Pending(Box::pin(self.read(Ok(missed), bytes))),
            Err(error) => Call::Pending(Box::pin(self.read(Err(error), bytes))),
        }
    }

    /// Answers a Get that L1 did not answer; `bytes` is the size of its message. An invalid deadline takes precedence
    /// over an invalid request.
    async fn read(self, missed: Result<MissedGet>, bytes: usize) -> Response<Answer> {
        let settings = self.edge.settings.load_full();
        let _held = self.edge.account().hold(bytes as u64);
        let run = async {
            let mut deadline = Deadline::begun(self.deadline, settings.timeout, &self.inbound.headers)?;
            let read = self.edge.get_missed(missed?);
            deadline.limit(read).await.unwrap_or_else(|| Err(deadline.exceeded()))
        };
        match run.await {
            Ok(response) => send(&self.edge, &settings, &response),
            Err(error) => answer::failed(&error),
        }
    }

    /// Answers a Get while the byte budget may have no room for the largest answer. The value is not kept while the
    /// call waits for room, because L1 may evict it meanwhile: the memory would be charged to nobody.
    async fn read_in_room(self, request: GetRequest, bytes: usize) -> Response<Answer> {
        let settings = self.edge.settings.load_full();
        let account = self.edge.account();
        let _held = account.hold(bytes as u64);
        let run = async {
            let mut deadline = Deadline::begun(self.deadline, settings.timeout, &self.inbound.headers)?;
            let read = deadline.limit(self.edge.get(request.clone())).await;
            let response = read.unwrap_or_else(|| Err(deadline.exceeded()))?;
            let len = response.wire_len() as u64;
            if account.may_hold(len) {
                return Ok(send(&self.edge, &settings, &response));
            }
            drop(response);
            if deadline.limit(account.room(len)).await.is_none() {
                return Err(account.budget().shed());
            }
            let read = deadline.limit(self.edge.get(request)).await;
            let response = read.unwrap_or_else(|| Err(deadline.exceeded()))?;
            Ok(send(&self.edge, &settings, &response))
        };
        run.await.unwrap_or_else(|error: CacheError| answer::failed(&error))
    }
}

/// Runs a Get.
pub(super) fn get(edge: &Arc<Edge>, request: Request<Incoming>) -> Call {
    let inbound = Inbound::new(request, edge.settings.load().message_max);
    let edge = edge.for_request(&inbound.headers);
    match edge.cache.time_request(Port::Grpc) {
        None => Call::Get(Some(Get { edge, inbound, deadline: None })),
        Some(stopwatch) => timed(stopwatch, Call::Get(Some(Get { edge, inbound, deadline: None }))),
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
    R: Encode + 'static,
    F: Future<Output = Result<R>> + Send + 'static,
{
    let inbound = Inbound::new(request, edge.settings.load().message_max);
    let edge = edge.for_request(&inbound.headers);
    let stopwatch = edge.cache.time_request(Port::Grpc);
    let call = Call::Pending(Box::pin(answered(edge, inbound, None, effect, method)));
    match stopwatch {
        None => call,
        Some(stopwatch) => timed(stopwatch, call),
    }
}

/// Runs a call and records its duration.
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
    begun: Option<Deadline>,
    effect: Effect,
    method: impl FnOnce(Arc<Edge>, M) -> F + Send + 'static,
) -> Response<Answer>
where
    M: Message + Default,
    R: Encode,
    F: Future<Output = Result<R>> + Send,
{
    let settings = edge.settings.load_full();
    let result = match Deadline::begun(begun, settings.timeout, &inbound.headers) {
        Ok(deadline) => run(&edge, &settings, &mut inbound, deadline, effect, method).await,
        Err(error) => Err(convert::status(&error)),
    };
    match result {
        Ok(response) => send(&edge, &settings, &response),
        Err(status) => status.into_http(),
    }
}

async fn run<M, R, F>(
    edge: &Arc<Edge>,
    settings: &GrpcSettings,
    inbound: &mut Inbound,
    mut deadline: Deadline,
    effect: Effect,
    method: impl FnOnce(Arc<Edge>, M) -> F + Send + 'static,
) -> Result<R, Status>
where
    M: Message + Default,
    F: Future<Output = Result<R>> + Send,
{
    let account = edge.account();
    let Some(received) = deadline.limit(inbound.message(account)).await else {
        return Err(convert::status(&inbound.overdue(&deadline, account)));
    };
    let (message, _held) = received?;
    // The size of an answer is not known before the call has run. A write has to be answered.
    let answer_bytes = if effect == Effect::Reads { settings.message_max as u64 } else { 0 };
    if !account.may_hold(answer_bytes) && deadline.limit(account.room(answer_bytes)).await.is_none() {
        return Err(convert::status(&account.budget().shed()));
    }
    let result = deadline.limit(method(Arc::clone(edge), decode(message)?)).await;
    let overdue = || match effect {
        Effect::Reads => Err(deadline.exceeded()),
        Effect::Writes => Err(deadline.unknown()),
    };
    result.unwrap_or_else(overdue).map_err(|error| convert::status(&error))
}

/// Decodes a message.
///
/// # Errors
/// `INVALID_ARGUMENT` with the type of the message.
pub(super) fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| {
        let name = std::any::type_name::<M>().rsplit("::").next().unwrap_or_default();
        Status::invalid_argument(format!("the message is not a terrace.v1.{name}: {error}"))
    })
}

fn send(edge: &Edge, settings: &GrpcSettings, message: &impl Encode) -> Response<Answer> {
    let account = edge.cache.account();
    match answer::unary_frame(message, settings.message_max, account) {
        Ok(data) => answer::succeeded(data, account),
        Err(error) => answer::failed(&error),
    }
}
