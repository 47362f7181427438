//! `Cache.Pipeline`: batches of operations over one stream, each with its own result.
//!
//! One task per stream reads batches and runs their operations concurrently. All results that are ready at a wake-up go
//! into one message. No operation is started while more than [`WINDOW`] operations are running or have results that the
//! client has not received, and the task reads no batch while operations of the last one have not been started. It also
//! stops reading while the byte budget has no room for the connection; HTTP/2 flow control then stops the client.
//! Operations of a batch are started while the results that wait have less than [`RESULTS_MAX_BYTES`], and while running
//! operations have less than [`RUNNING_KEYS_MAX`] keys. Operations that were started never wait for a client that does not
//! read its results, because other readers may wait for the same L2 reads.
//!
//! A cancel takes effect when its batch is read. It drops the operation as the end of a unary call does: a lease that the
//! store grants meanwhile is released, and a write that was sent may be executed.
//!
//! An error of an operation becomes its result. Only an invalid message or the drain ends the stream.

use std::{
    collections::VecDeque,
    future::{Pending, pending},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes};
use futures_util::{
    FutureExt, StreamExt,
    future::{AbortHandle, Abortable, BoxFuture},
    stream::FuturesUnordered,
};
use hashbrown::HashMap;
use http::{HeaderName, HeaderValue, Request};
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
    wire::{self, OperationReply, RESULT_OVERHEAD_BYTES},
};
use crate::{
    budget::{Account, Held},
    cache::Caller,
    clock::Tick,
    error::{CacheError, Kind, Result},
    proto::{Operation, PipelineRequest, operation::Operation as Requested, operation_result::Result as Answered},
};

/// Maximum number of unanswered operations of a Pipeline stream. The server then starts no further operation.
const WINDOW: usize = 1_000;
/// Size of the results of a Pipeline stream that the client has not received, above which no further operation is
/// started. One batch may request a thousand large values.
const RESULTS_MAX_BYTES: usize = 1 << 20;
/// Number of keys of running operations with several keys, above which no further operation is started.
const RUNNING_KEYS_MAX: usize = 4_000;
/// Number of keys of operations with several keys that are started before other connections of the worker have a turn.
const TURN_KEYS: usize = 1_000;
/// Memory in bytes of a key of a running operation with several keys, in addition to the request.
const KEY_BYTES: usize = 128;

/// Response metadata with the store id.
const STORE_ID: &str = "terrace-store-id";
/// Response metadata that has the maximum size of a request message in bytes.
const MESSAGE_LIMIT: &str = "terrace-max-message";
/// The operations, for the error of an empty one.
const OPERATIONS: &str = "get, set, delete, touch, increment, get_meta, get_or_lease, fill, release, get_many, set_many, get_or_lease_many, cancel";

pub(super) fn call(edge: Arc<Edge>, stop: watch::Receiver<bool>, request: Request<Incoming>) -> Call {
    let input = Messages::new(Arc::clone(&edge), request);
    let max_message = edge.settings.load().message_max;
    let store_id = edge.cache.core().store_id().and_then(|id| HeaderValue::try_from(id).ok());
    let mut call = stream::call(&Arc::clone(&edge), move |output| Pump::new(edge, input).run(stop, output));
    if let Call::Ready(Some(response)) = &mut call {
        response.headers_mut().insert(MESSAGE_LIMIT, max_message.into());
        response.headers_mut().extend(store_id.map(|id| (HeaderName::from_static(STORE_ID), id)));
    }
    call
}

/// An operation that waits.
struct Running {
    id: u64,
    /// Number of the operation, which distinguishes operations with the same id.
    number: u64,
    charge: Charge,
    run: BoxFuture<'static, OperationReply>,
    /// Completes when the client cancels the operation.
    canceled: Abortable<Pending<()>>,
}

impl Future for Running {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Done> {
        let reply = match self.run.as_mut().poll(context) {
            Poll::Ready(reply) => reply,
            Poll::Pending if Pin::new(&mut self.canceled).poll(context).is_ready() => canceled(self.id),
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(Done { reply, number: self.number, charge: self.charge })
    }
}

/// The result of an operation that has waited.
struct Done {
    reply: OperationReply,
    number: u64,
    charge: Charge,
}

/// What an operation counts for while it runs.
#[derive(Clone, Copy, Default)]
struct Charge {
    /// Size of the request.
    bytes: usize,
    /// Number of keys of an operation with several keys.
    keys: usize,
    is_leasing: bool,
}

impl Charge {
    fn of(operation: &Operation) -> Self {
        let keys = match &operation.operation {
            Some(Requested::Get(request)) => return Self { bytes: request.key.len(), ..Self::default() },
            Some(Requested::GetOrLease(request)) => {
                let bytes = if request.tags.is_empty() { request.key.len() } else { operation.encoded_len() };
                return Self { bytes, keys: 0, is_leasing: true };
            }
            Some(Requested::GetMany(request)) => request.keys.len(),
            Some(Requested::SetMany(request)) => request.entries.len(),
            Some(Requested::GetOrLeaseMany(request)) => request.items.len(),
            Some(Requested::Delete(request)) => request.keys.len(),
            Some(Requested::GetMeta(request)) => request.keys.len(),
            Some(_) | None => 0,
        };
        Self { bytes: operation.encoded_len(), keys, is_leasing: false }
    }
}

/// One stream.
struct Pump {
    edge: Arc<Edge>,
    input: Messages,
    /// True while the stream accepts further batches.
    reading: bool,
    running: FuturesUnordered<Running>,
    running_bytes: usize,
    running_keys: usize,
    /// The running operations by id, each with its number.
    cancels: HashMap<u64, (u64, AbortHandle)>,
    /// Number of operations that have waited.
    waited: u64,
    /// The last context that an operation needed an edge for.
    context: Option<(u64, Arc<Edge>)>,
    /// Number of running GetOrLease operations: they may wait for the loads of other clients, which must not stop the
    /// other operations of the stream.
    leasing: usize,
    /// Operations that have not been started, with their sizes.
    queued: VecDeque<(Operation, Charge)>,
    queued_bytes: usize,
    /// True after many keys were started at once.
    yields: bool,
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
            running_keys: 0,
            cancels: HashMap::new(),
            waited: 0,
            context: None,
            leasing: 0,
            queued: VecDeque::new(),
            queued_bytes: 0,
            yields: false,
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
            let needed = self.needed_room();
            let has_room = account.may_hold(needed);
            // Also while many operations are running: the next batch may cancel them.
            let may_read = self.reading && has_room && self.queued.is_empty() && self.outgoing.results() <= WINDOW;
            let waits = !has_room && (self.reading || !self.queued.is_empty());
            if !may_read {
                self.input.pause();
            }
            tokio::select! {
                // The order matters: all results that are ready go into one message, which the window limits.
                biased;
                _ = stop.wait_for(|stop| *stop), if self.reading => self.stop_reading(Some(convert::draining())),
                batch = self.input.next(), if may_read => self.take(batch),
                Some(done) = self.running.next(), if !self.running.is_empty() => self.finish(done),
                permit = output.reserve(), if self.outgoing.results() > 0 => match (permit, self.outgoing.take()) {
                    (Ok(permit), Some(message)) => permit.send(Ok(message)),
                    (Ok(_), None) => {}
                    // The client has disconnected.
                    (Err(_closed), _) => return Ok(()),
                },
                () = tokio::task::yield_now(), if self.yields => {}
                () = account.room(needed), if waits => {}
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

    /// Returns the room in the byte budget that the next operation needs: a GetMany may have a result of the maximum size.
    fn needed_room(&self) -> u64 {
        match self.queued.front() {
            Some((Operation { operation: Some(Requested::GetMany(_)), .. }, _)) => self.outgoing.message_max as u64,
            Some(_) | None => 0,
        }
    }

    /// Updates the charge of this stream.
    fn hold(&mut self) {
        let running = self.running_bytes + self.running_keys * KEY_BYTES;
        self.held.set((self.queued_bytes + running + self.outgoing.open_bytes()) as u64);
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
            match (&operation.operation, &fault) {
                (Some(Requested::Cancel(request)), None) => self.cancel(request.id),
                (Some(Requested::Cancel(_)), Some(_)) => {}
                (_, Some(fault)) => self.outgoing.push(failed(operation.id, fault)),
                (_, None) => {
                    let charge = Charge::of(&operation);
                    self.queued_bytes += charge.bytes;
                    self.queued.push_back((operation, charge));
                }
            }
        }
    }

    /// Cancels a running or queued operation. Its result follows.
    fn cancel(&mut self, id: u64) {
        if let Some((_, handle)) = self.cancels.get(&id) {
            return handle.abort();
        }
        let at = self.queued.iter().position(|(operation, _)| operation.id == id);
        if let Some((_, charge)) = at.and_then(|at| self.queued.remove(at)) {
            self.queued_bytes -= charge.bytes;
            self.outgoing.push(canceled(id));
        }
    }

    /// Starts queued operations while few results wait. Operations that need not wait are completed at once.
    fn start_queued(&mut self) {
        self.yields = false;
        if self.queued.is_empty() || self.unanswered() > WINDOW {
            return;
        }
        let now = self.edge.cache.now();
        let mut keys = 0;
        while !self.queued.is_empty()
            && self.outgoing.bytes() < RESULTS_MAX_BYTES
            && self.running_keys < RUNNING_KEYS_MAX
            && self.edge.account().may_hold(self.outgoing.open_bytes() as u64 + self.needed_room())
        {
            self.yields = keys >= TURN_KEYS;
            if self.yields {
                return;
            }
            if let Some((operation, charge)) = self.queued.pop_front() {
                keys += charge.keys;
                self.queued_bytes -= charge.bytes;
                self.begin(operation, charge, now);
            }
        }
    }

    /// Returns the edge for the operations with this context.
    fn edge_for(&mut self, context: u64) -> Arc<Edge> {
        let Some(caller) = Caller::of_context(context) else { return Arc::clone(&self.edge) };
        match &self.context {
            Some((last, edge)) if *last == context => Arc::clone(edge),
            Some(_) | None => {
                let edge = self.edge.for_caller(caller);
                self.context = Some((context, Arc::clone(&edge)));
                edge
            }
        }
    }

    fn begin(&mut self, operation: Operation, charge: Charge, now: Tick) {
        let (id, context) = (operation.id, operation.context);
        match operation.operation {
            Some(Requested::Get(request)) => match self.edge.get_from_l1_as(self.caller(context), request, now) {
                Ok(FirstLook::Answered(reply)) => self.outgoing.push(OperationReply::Get { id, reply }),
                Ok(FirstLook::Missed(missed)) => {
                    let edge = self.edge_for(context);
                    self.spawn(id, charge, async move {
                        let reply = edge.get_missed(missed).await;
                        reply.map_or_else(|error| failed(id, &error), |reply| OperationReply::Get { id, reply })
                    });
                }
                Err(error) => self.outgoing.push(failed(id, &error)),
            },
            Some(Requested::GetOrLease(request)) => {
                match self.edge.lease_from_l1(self.caller(context), request, WaitLimits::PIPELINE, now) {
                    Ok(FirstLease::Answered(reply)) => self.outgoing.push(OperationReply::Lease { id, reply }),
                    Ok(FirstLease::Missed(missed)) => {
                        let edge = self.edge_for(context);
                        self.spawn(id, charge, async move {
                            let reply = edge.lease_missed(missed).await;
                            reply.map_or_else(|error| failed(id, &error), |reply| OperationReply::Lease { id, reply })
                        });
                    }
                    Err(error) => self.outgoing.push(failed(id, &error)),
                }
            }
            Some(operation) => {
                let edge = self.edge_for(context);
                let result_max = self.outgoing.message_max.saturating_sub(RESULT_OVERHEAD_BYTES);
                self.spawn(id, charge, async move { edge.perform(id, operation, result_max).await });
            }
            None => {
                let text = format!("operation {id} is empty; set one of {OPERATIONS}");
                self.outgoing.push(failed(id, &convert::invalid(text)));
            }
        }
    }

    /// Returns the caller of the operations with this context.
    #[inline]
    fn caller(&self, context: u64) -> Caller {
        Caller::of_context(context).unwrap_or(self.edge.cache.caller())
    }

    /// Runs an operation, in the background if it has to wait.
    fn spawn(&mut self, id: u64, charge: Charge, run: impl Future<Output = OperationReply> + Send + 'static) {
        let mut run = run.boxed();
        if let Some(reply) = (&mut run).now_or_never() {
            return self.outgoing.push(reply);
        }
        self.running_bytes += charge.bytes;
        self.running_keys += charge.keys;
        self.leasing += usize::from(charge.is_leasing);
        self.waited += 1;
        let (handle, registration) = AbortHandle::new_pair();
        self.cancels.insert(id, (self.waited, handle));
        let canceled = Abortable::new(pending(), registration);
        self.running.push(Running { id, number: self.waited, charge, run, canceled });
    }

    fn finish(&mut self, done: Done) {
        self.running_bytes -= done.charge.bytes;
        self.running_keys -= done.charge.keys;
        self.leasing -= usize::from(done.charge.is_leasing);
        let id = done.reply.id();
        if self.cancels.get(&id).is_some_and(|(number, _)| *number == done.number) {
            self.cancels.remove(&id);
        }
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
    /// Runs an operation other than Get and GetOrLease. Its result has at most `result_max` bytes if it can be divided.
    async fn perform(&self, id: u64, operation: Requested, result_max: usize) -> OperationReply {
        let result = match operation {
            Requested::GetMany(request) => {
                let reply = self.get_many(request, result_max).await;
                return reply.map_or_else(|error| failed(id, &error), |reply| OperationReply::GetMany { id, reply });
            }
            Requested::Set(request) => self.set(request).await.map(Answered::Set),
            Requested::SetMany(request) => self.set_many(request).await.map(Answered::SetMany),
            Requested::Delete(request) => self.delete(request).await.map(Answered::Delete),
            Requested::Touch(request) => self.touch(request).await.map(Answered::Touch),
            Requested::Increment(request) => self.increment(request).await.map(Answered::Increment),
            Requested::GetMeta(request) => self.get_meta(request).await.map(Answered::GetMeta),
            Requested::GetOrLeaseMany(request) => {
                self.get_or_lease_many(request, result_max).await.map(Answered::GetOrLeaseMany)
            }
            Requested::Fill(request) => self.fill(request).await.map(Answered::Fill),
            Requested::Release(request) => self.release(request).await.map(Answered::Release),
            // The stream runs these operations itself.
            Requested::Get(_) | Requested::GetOrLease(_) | Requested::Cancel(_) => {
                Err(CacheError::new(Kind::Internal, "bug: the operation has no result"))
            }
        };
        result.map_or_else(|error| failed(id, &error), |result| OperationReply::of(id, result))
    }
}

fn failed(id: u64, error: &CacheError) -> OperationReply {
    OperationReply::of(id, Answered::Error(convert::item_error(error)))
}

fn canceled(id: u64) -> OperationReply {
    OperationReply::of(id, Answered::Error(convert::canceled()))
}
