//! `Cache.Pipeline`: batches of operations over one stream, each with its own result.
//!
//! One task per stream reads batches and runs their operations concurrently. All results that are ready at a wake-up go
//! into one message. The task stops reading while more than [`WINDOW`] operations are running or have results that the
//! client has not received, or while the byte budget has no room for the connection; HTTP/2 flow control then stops the
//! client. Operations of a batch are started while the results that wait have less than [`RESULTS_MAX_BYTES`]. Operations
//! that were started never wait for a client that does not read its results, because other readers may wait for the same
//! L2 reads.
//!
//! An error of an operation becomes its result. Only an invalid message or the drain ends the stream.

use std::{collections::VecDeque, sync::Arc};

use bytes::{BufMut, Bytes};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::Request;
use hyper::body::Incoming;
use prost::Message;
use tokio::sync::watch;
use tonic::Status;

use super::{
    Edge,
    answer::{PREFIX_BYTES, charged},
    convert,
    leases::{FirstLease, PIPELINE_WAITING_MAX, WaitLimits},
    messages::Messages,
    service::{self, FirstLook},
    stream::{self, Output},
    unary::{self, Call},
    wire::{self, OperationReply},
};
use crate::{
    budget::{Account, Held},
    clock::Tick,
    error::{CacheError, Kind, Result},
    proto::{
        Operation, OperationResult, PipelineRequest, operation::Operation as Requested,
        operation_result::Result as Answered,
    },
};

/// Maximum number of unanswered operations of a Pipeline stream. The server then stops reading from the stream.
const WINDOW: usize = 1_000;
/// Size of the results of a Pipeline stream that the client has not received, above which no further operation is
/// started. One batch may request a thousand large values.
const RESULTS_MAX_BYTES: usize = 1 << 20;

pub(super) fn call(edge: Arc<Edge>, stop: watch::Receiver<bool>, request: Request<Incoming>) -> Call {
    let input = Messages::new(Arc::clone(&edge), request);
    stream::call(&Arc::clone(&edge), move |output| Pump::new(edge, input).run(stop, output))
}

/// The result of an operation, and the length of its request.
struct Done {
    reply: OperationReply,
    request_bytes: usize,
    is_leasing: bool,
}

/// One stream.
struct Pump {
    edge: Arc<Edge>,
    input: Messages,
    /// True while the stream accepts further batches.
    reading: bool,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    running_bytes: usize,
    /// Number of running GetOrLease operations: they may wait for the loads of other clients, which must not stop the
    /// other operations of the stream.
    leasing: usize,
    /// Operations that have not been started, with their sizes.
    queued: VecDeque<(Operation, usize)>,
    queued_bytes: usize,
    outgoing: Outgoing,
    /// Charges the operations and the response under construction.
    held: Held,
    /// The status that ends the stream, if it is not OK.
    end: Option<Status>,
}

impl Pump {
    fn new(edge: Arc<Edge>, input: Messages) -> Self {
        let outgoing = Outgoing::new(Arc::clone(edge.account()));
        let held = edge.account().hold(0);
        Self {
            edge,
            input,
            reading: true,
            running: FuturesUnordered::new(),
            running_bytes: 0,
            leasing: 0,
            queued: VecDeque::new(),
            queued_bytes: 0,
            outgoing,
            held,
            end: None,
        }
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>, output: Output) -> Result<(), Status> {
        let account = Arc::clone(self.edge.account());
        loop {
            self.start_queued();
            self.hold();
            let has_room = account.may_hold(0);
            let is_ready = self.queued.is_empty() && self.unanswered() <= WINDOW;
            let may_read = self.reading && has_room && is_ready;
            let waits = !has_room && (self.reading || !self.queued.is_empty());
            if !may_read {
                self.input.pause();
            }
            tokio::select! {
                // The order matters: all results that are ready go into one message, which the window limits.
                biased;
                _ = stop.wait_for(|stop| *stop), if self.reading => self.stop_reading(Some(stopping())),
                batch = self.input.next(), if may_read => self.take(batch),
                Some(done) = self.running.next(), if !self.running.is_empty() => self.finish(done),
                permit = output.reserve(), if self.outgoing.results() > 0 => match (permit, self.outgoing.take()) {
                    (Ok(permit), Some(message)) => permit.send(Ok(message)),
                    (Ok(_), None) => {}
                    // The client has disconnected.
                    (Err(_closed), _) => return Ok(()),
                },
                () = account.room(0), if waits => {}
                () = output.closed(), if waits => return Ok(()),
                else => break,
            }
        }
        self.end.map_or(Ok(()), Err)
    }

    /// Returns the number of operations that count against the window.
    fn unanswered(&self) -> usize {
        self.running.len() - self.leasing.min(PIPELINE_WAITING_MAX) + self.outgoing.results()
    }

    /// Updates the charge of this stream.
    fn hold(&mut self) {
        self.held.set((self.queued_bytes + self.running_bytes + self.outgoing.open_bytes()) as u64);
    }

    fn stop_reading(&mut self, end: Option<Status>) {
        self.reading = false;
        self.end = end;
    }

    fn take(&mut self, batch: Option<Result<Bytes, Status>>) {
        match batch.map(|batch| unary::decode::<PipelineRequest>(batch?)) {
            Some(Ok(batch)) => self.queue(batch),
            None => self.stop_reading(None),
            Some(Err(status)) => self.stop_reading(Some(status)),
        }
    }

    /// Queues the operations of a batch.
    fn queue(&mut self, batch: PipelineRequest) {
        self.outgoing.message_max = self.edge.settings.load().message_max;
        let fault = service::check_batch(batch.operations.len(), "operations").err();
        for operation in batch.operations {
            if let Some(fault) = &fault {
                self.outgoing.push(failed(operation.id, fault));
                continue;
            }
            let bytes = match &operation.operation {
                Some(Requested::Get(request)) => request.key.len(),
                Some(Requested::GetOrLease(request)) if request.tags.is_empty() => request.key.len(),
                Some(_) | None => operation.encoded_len(),
            };
            self.queued_bytes += bytes;
            self.queued.push_back((operation, bytes));
        }
    }

    /// Starts queued operations while few results wait. Operations that need not wait are completed at once.
    fn start_queued(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        let now = self.edge.cache.now();
        while !self.queued.is_empty()
            && self.outgoing.bytes() < RESULTS_MAX_BYTES
            && self.edge.account().may_hold(self.outgoing.open_bytes() as u64)
            && let Some((operation, bytes)) = self.queued.pop_front()
        {
            self.queued_bytes -= bytes;
            self.begin(operation, bytes, now);
        }
    }

    fn begin(&mut self, operation: Operation, request_bytes: usize, now: Tick) {
        let id = operation.id;
        match operation.operation {
            Some(Requested::Get(request)) => match self.edge.get_from_l1(request, now) {
                Ok(FirstLook::Answered(reply)) => self.outgoing.push(OperationReply::Get { id, reply }),
                Ok(FirstLook::Missed(missed)) => {
                    let edge = Arc::clone(&self.edge);
                    self.spawn(request_bytes, false, async move {
                        let reply = edge.get_missed(missed).await;
                        reply.map_or_else(|error| failed(id, &error), |reply| OperationReply::Get { id, reply })
                    });
                }
                Err(error) => self.outgoing.push(failed(id, &error)),
            },
            Some(Requested::GetOrLease(request)) => {
                match self.edge.lease_from_l1(request, WaitLimits::of_pipeline(&self.edge)) {
                    Ok(FirstLease::Answered(reply)) => self.outgoing.push(OperationReply::Lease { id, reply }),
                    Ok(FirstLease::Missed(missed)) => {
                        let edge = Arc::clone(&self.edge);
                        self.spawn(request_bytes, true, async move {
                            let reply = edge.lease_missed(missed).await;
                            reply.map_or_else(|error| failed(id, &error), |reply| OperationReply::Lease { id, reply })
                        });
                    }
                    Err(error) => self.outgoing.push(failed(id, &error)),
                }
            }
            Some(operation) => {
                let edge = Arc::clone(&self.edge);
                self.spawn(request_bytes, false, async move { edge.perform(id, operation).await });
            }
            None => {
                let text = format!(
                    "operation {id} is empty; set one of get, set, delete, touch, increment, get_meta, get_or_lease, fill, release"
                );
                self.outgoing.push(failed(id, &convert::invalid(text)));
            }
        }
    }

    /// Runs an operation, in the background if it has to wait.
    fn spawn(
        &mut self,
        request_bytes: usize,
        is_leasing: bool,
        run: impl Future<Output = OperationReply> + Send + 'static,
    ) {
        let mut running = run.map(move |reply| Done { reply, request_bytes, is_leasing }).boxed();
        match (&mut running).now_or_never() {
            Some(done) => self.outgoing.push(done.reply),
            None => {
                self.running_bytes += request_bytes;
                self.leasing += usize::from(is_leasing);
                self.running.push(running);
            }
        }
    }

    fn finish(&mut self, done: Done) {
        self.running_bytes -= done.request_bytes;
        self.leasing -= usize::from(done.is_leasing);
        self.outgoing.push(done.reply);
    }
}

/// Results that wait for the client, already in wire form. Each is encoded once.
struct Outgoing {
    account: Arc<Account>,
    /// Maximum size of a message, as of the last batch.
    message_max: usize,
    /// Complete messages, with the number of their results.
    complete: VecDeque<(Bytes, usize)>,
    complete_bytes: usize,
    /// The message under construction, with room for its prefix; empty while it has no results.
    open: Vec<u8>,
    open_results: usize,
    results: usize,
}

impl Outgoing {
    fn new(account: Arc<Account>) -> Self {
        Self {
            account,
            message_max: 0,
            complete: VecDeque::new(),
            complete_bytes: 0,
            open: Vec::new(),
            open_results: 0,
            results: 0,
        }
    }

    /// Returns the number of results that wait for the client.
    fn results(&self) -> usize {
        self.results
    }

    /// Returns the size in bytes of the results that wait for the client.
    fn bytes(&self) -> usize {
        self.complete_bytes + self.open.len()
    }

    /// Returns the memory in bytes of the message under construction. Complete messages are charged separately.
    fn open_bytes(&self) -> usize {
        self.open.capacity()
    }

    fn push(&mut self, reply: OperationReply) {
        let len = wire::item_len(&reply);
        if len > self.message_max {
            let message = format!("the result has {len} bytes; grpc.max_message is {} bytes", self.message_max);
            let refused = failed(reply.id(), &CacheError::new(Kind::TooLarge, message));
            return self.append(&refused, wire::item_len(&refused));
        }
        self.append(&reply, len);
    }

    fn append(&mut self, reply: &OperationReply, len: usize) {
        if self.open_results > 0 && self.open.len() - PREFIX_BYTES + len > self.message_max {
            self.complete_open();
        }
        if self.open_results == 0 {
            self.open.extend_from_slice(&[0; PREFIX_BYTES]);
        }
        wire::write_item(reply, &mut self.open);
        self.open_results += 1;
        self.results += 1;
    }

    fn complete_open(&mut self) {
        let mut buffer = std::mem::take(&mut self.open);
        let len = buffer.len() - PREFIX_BYTES;
        // A message is smaller than `grpc.max_message`, which is less than 4 GiB.
        (&mut buffer[1..PREFIX_BYTES]).put_u32(u32::try_from(len).unwrap_or(u32::MAX));
        self.complete_bytes += buffer.len();
        self.complete.push_back((charged(buffer, &self.account), std::mem::take(&mut self.open_results)));
    }

    /// Removes and returns the next message for the client.
    fn take(&mut self) -> Option<Bytes> {
        if self.complete.is_empty() && self.open_results > 0 {
            self.complete_open();
        }
        let (message, results) = self.complete.pop_front()?;
        self.results -= results;
        self.complete_bytes -= message.len();
        Some(message)
    }
}

impl Edge {
    /// Runs an operation other than Get.
    async fn perform(&self, id: u64, operation: Requested) -> OperationReply {
        let result = match operation {
            Requested::Get(request) => {
                let reply = self.get(request).await;
                return reply.map_or_else(|error| failed(id, &error), |reply| OperationReply::Get { id, reply });
            }
            Requested::Set(request) => self.set(request).await.map(Answered::Set),
            Requested::Delete(request) => self.delete(request).await.map(Answered::Delete),
            Requested::Touch(request) => self.touch(request).await.map(Answered::Touch),
            Requested::Increment(request) => self.increment(request).await.map(Answered::Increment),
            Requested::GetMeta(request) => self.get_meta(request).await.map(Answered::GetMeta),
            Requested::GetOrLease(request) => {
                let reply = self.get_or_lease(request, WaitLimits::of_pipeline(self)).await;
                return reply.map_or_else(|error| failed(id, &error), |reply| OperationReply::Lease { id, reply });
            }
            Requested::Fill(request) => self.fill(request).await.map(Answered::Fill),
            Requested::Release(request) => self.release(request).await.map(Answered::Release),
        };
        result.map_or_else(|error| failed(id, &error), |result| OperationReply::of(id, result))
    }
}

fn failed(id: u64, error: &CacheError) -> OperationReply {
    OperationReply::Message(OperationResult { id, result: Some(Answered::Error(convert::item_error(error))) })
}

fn stopping() -> Status {
    let error =
        CacheError::new(Kind::Unavailable, "the server is stopping; operations without a result were not started");
    convert::status(&error)
}
