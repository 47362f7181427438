//! `Cache.Pipeline`: batches of operations over one stream, each with its own result.
//!
//! One task a stream reads batches, runs their operations side by side, and sends what is ready, all results of one
//! wake-up in one message. Its credit window stands in one place: beyond [`WINDOW`] operations that run or whose
//! results the client has not taken it stops reading, and flow control carries that to the client. Operations never
//! wait for a client that does not read its results: other readers may have joined their flights.
//!
//! A fault of an operation is its result; only a fault of the stream (a message that cannot be read, the drain) ends it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::Request;
use hyper::body::Incoming;
use prost::Message;
use tokio::sync::watch;
use tonic::{Code, Status, codec::Streaming};
use tonic_prost::ProstDecoder;

use super::{
    Edge, convert, in_flight_bytes,
    service::{self, FirstLook, item_len},
    stream::{self, Output},
    unary::Call,
};
use crate::{
    clock::Tick,
    error::{CacheError, Kind, Result},
    node::Held,
    proto::{
        Operation, OperationResult, PipelineRequest, PipelineResponse, operation::Operation as Asked,
        operation_result::Result as Answered,
    },
};

/// Maximum number of unanswered operations of a Pipeline stream. The server then stops reading from the stream.
const WINDOW: usize = 1_000;

pub(super) fn call(edge: Arc<Edge>, stop: watch::Receiver<bool>, request: Request<Incoming>) -> Call {
    let message_max = edge.settings.load().message_max;
    let input = Streaming::new_request(ProstDecoder::default(), request.into_body(), None, Some(message_max));
    stream::call(move |output| Pump::new(edge, input).run(stop, output))
}

/// A result and the bytes of its request and of itself.
struct Done {
    result: OperationResult,
    request_bytes: usize,
}

/// One stream.
struct Pump {
    edge: Arc<Edge>,
    input: Streaming<PipelineRequest>,
    /// Batches are still read.
    reading: bool,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    running_bytes: usize,
    /// Results that wait to be sent.
    answered: Vec<OperationResult>,
    answered_bytes: usize,
    /// Most bytes of a message, as of the last batch.
    message_max: usize,
    /// Counts what runs and what waits.
    held: Option<Held>,
    /// How the stream ends.
    end: Option<Status>,
}

impl Pump {
    fn new(edge: Arc<Edge>, input: Streaming<PipelineRequest>) -> Self {
        Self {
            edge,
            input,
            reading: true,
            running: FuturesUnordered::new(),
            running_bytes: 0,
            answered: Vec::new(),
            answered_bytes: 0,
            message_max: 0,
            held: None,
            end: None,
        }
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>, output: Output) {
        loop {
            let may_read = self.reading && self.running.len() + self.answered.len() <= WINDOW;
            tokio::select! {
                // In this order: all that is ready goes into one message, and the window bounds it.
                biased;
                _ = stop.wait_for(|stop| *stop), if self.reading => self.stop_reading(Some(stopping())),
                batch = self.input.message(), if may_read => self.take(batch),
                Some(done) = self.running.next(), if !self.running.is_empty() => self.finish(done),
                permit = output.reserve(), if !self.answered.is_empty() => match permit {
                    Ok(permit) => permit.send(self.message()),
                    // The client is gone.
                    Err(_closed) => return,
                },
                else => break,
            }
            self.held = in_flight_bytes::hold(&self.edge.node.in_flight, self.running_bytes + self.answered_bytes);
        }
        if let Some(status) = self.end {
            // A client that is gone needs no status.
            let _gone = output.send(Err(status)).await;
        }
    }

    fn stop_reading(&mut self, end: Option<Status>) {
        self.reading = false;
        self.end = end;
    }

    fn take(&mut self, batch: Result<Option<PipelineRequest>, Status>) {
        match batch {
            Ok(Some(batch)) => self.start(batch),
            Ok(None) => self.stop_reading(None),
            Err(status) => self.stop_reading(Some(renamed(status))),
        }
    }

    /// Begins the operations of a batch; those that need not wait are done at once.
    fn start(&mut self, batch: PipelineRequest) {
        let settings = self.edge.settings.load();
        self.message_max = settings.message_max;
        let now = self.edge.cache.now();
        let fault = service::check_batch(batch.operations.len(), "operations")
            .and_then(|()| in_flight_bytes::check(&self.edge.node.in_flight, settings.in_flight_max))
            .err();
        for operation in batch.operations {
            match &fault {
                Some(fault) => self.push(failed(operation.id, fault)),
                None => self.begin(operation, now),
            }
        }
    }

    fn begin(&mut self, operation: Operation, now: Tick) {
        let (id, request_bytes, edge) = (operation.id, operation.encoded_len(), Arc::clone(&self.edge));
        let mut running = match operation.operation {
            Some(Asked::Get(request)) => match edge.get_from_l1(request, now) {
                Ok(FirstLook::Answered(response)) => return self.push(result(id, Ok(Answered::Get(response)))),
                Ok(FirstLook::Missed(missed)) => async move {
                    let got = edge.get_missed(missed).await.map(Answered::Get);
                    Done { result: result(id, got), request_bytes }
                }
                .boxed(),
                Err(error) => return self.push(result(id, Err(error))),
            },
            asked => async move { Done { result: result(id, edge.perform(id, asked).await), request_bytes } }.boxed(),
        };
        match (&mut running).now_or_never() {
            Some(done) => self.push(done.result),
            None => {
                self.running_bytes += request_bytes;
                self.running.push(running);
            }
        }
    }

    fn finish(&mut self, done: Done) {
        self.running_bytes -= done.request_bytes;
        self.push(done.result);
    }

    fn push(&mut self, mut result: OperationResult) {
        let mut len = item_len(&result);
        if len > self.message_max {
            let message = format!("no room in a message; grpc.max_message is {} bytes", self.message_max);
            result = failed(result.id, &CacheError::new(Kind::TooLarge, message));
            len = item_len(&result);
        }
        self.answered_bytes += len;
        self.answered.push(result);
    }

    /// All results that are ready, as far as one message takes them.
    fn message(&mut self) -> Result<Bytes, Status> {
        let rest = if self.answered_bytes <= self.message_max { Vec::new() } else { self.split_off() };
        let results = std::mem::replace(&mut self.answered, rest);
        self.answered_bytes = self.answered.iter().map(item_len).sum();
        stream::frame(&self.edge, &PipelineResponse { results })
    }

    /// What the next message does not take.
    fn split_off(&mut self) -> Vec<OperationResult> {
        let mut room = self.message_max;
        let fits = |result: &&OperationResult| {
            let left = room.checked_sub(item_len(*result));
            room = left.unwrap_or(0);
            left.is_some()
        };
        // At least one: each alone fits, unless a reload has made messages smaller since.
        let count = self.answered.iter().take_while(fits).count().max(1);
        self.answered.split_off(count)
    }
}

impl Edge {
    async fn perform(&self, id: u64, operation: Option<Asked>) -> Result<Answered> {
        match operation {
            Some(Asked::Get(request)) => self.get(request).await.map(Answered::Get),
            Some(Asked::Set(request)) => self.set(request).await.map(Answered::Set),
            Some(Asked::Delete(request)) => self.delete(request).await.map(Answered::Delete),
            Some(Asked::Touch(request)) => self.touch(request).await.map(Answered::Touch),
            Some(Asked::Increment(request)) => self.increment(request).await.map(Answered::Increment),
            Some(Asked::GetMeta(request)) => self.get_meta(request).await.map(Answered::GetMeta),
            None => Err(convert::invalid(format!("operation {id} is empty; set one of get, set, delete and so on"))),
        }
    }
}

fn result(id: u64, result: Result<Answered>) -> OperationResult {
    result.map_or_else(|error| failed(id, &error), |result| OperationResult { id, result: Some(result) })
}

fn failed(id: u64, error: &CacheError) -> OperationResult {
    OperationResult { id, result: Some(Answered::Error(convert::item_error(error))) }
}

/// tonic's word for a message that cannot be read, in ours.
fn renamed(status: Status) -> Status {
    if status.code() == Code::OutOfRange {
        Status::resource_exhausted(format!("{} (grpc.max_message)", status.message()))
    } else if status.code() == Code::Internal {
        Status::invalid_argument(status.message())
    } else {
        status
    }
}

fn stopping() -> Status {
    let error =
        CacheError::new(Kind::Unavailable, "the server is stopping; operations without a result were not begun");
    convert::status(&error)
}
