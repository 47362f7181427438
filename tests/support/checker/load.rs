//! Writers and readers of the checker: tasks that go on whatever happens.
//!
//! Reads go in batches (a pipeline of GETs, a GetMany, some single Gets at once), so that a busy machine still makes many of
//! them. All reads of a batch count as begun when the batch was sent, which is before any of them was answered: that only
//! makes the judge milder.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use redis::{Cmd, Pipeline, Value, aio::ConnectionLike};
use terrace::{
    l2::codec,
    proto::{
        DeleteRequest, Found, GetManyRequest, GetRequest, InvalidateTagsRequest, SetRequest, cache_client::CacheClient,
        get_many_result, get_response, invalidation_client::InvalidationClient,
    },
};
use tokio::{task::JoinSet, time::Instant};
use tonic::transport::{Channel, Endpoint};

use super::{
    BOUND, Count, Plan, STRAIGHT, Tally,
    straight::{Way, connect},
    truth::{self, Habit, Truth, Write, habit},
};

/// Reads in a batch.
const BATCH: usize = 64;
/// Batches that a reader makes ready and uses again and again.
const BATCHES: usize = 32;
/// Every so often a gRPC reader asks singly what it asks together else.
const SINGLY: usize = 8;
/// Longest wait for an answer of a node. Its own deadlines are far below.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Wait after an error, so that an outage is no busy loop.
const AFTER_ERROR: Duration = Duration::from_millis(5);
/// How unevenly keys are written: of 512, a third of all writes goes to the first, the last are written every few
/// seconds. A copy that is wrong shows only if its key is left alone for longer than Δ.
const SKEW: i32 = 6;
/// Between two writes of a writer.
const THINK_MAX_US: u64 = 4000;
/// Between two invalidations of tags by one node: long enough that copies are old when their tags go.
const INVALIDATE_PAUSE_MAX_MS: u64 = 2_000;
/// Between two reads straight from Redis.
const STRAIGHT_PAUSE: Duration = Duration::from_millis(5);
/// Most bytes that are put behind a number, so that evictions find something to evict.
const PADDING_MAX: u64 = 400;

/// What tasks share.
#[derive(Clone)]
pub struct Part {
    pub truth: Arc<Truth>,
    pub tally: Arc<Tally>,
    pub stale_for: Duration,
    pub stop_writing: Arc<AtomicBool>,
    pub stop_reading: Arc<AtomicBool>,
}

/// The name of a key.
pub fn name(key: usize) -> String {
    format!("check:{key}")
}

fn value(number: u64) -> String {
    format!("{number}:{}", "x".repeat((number * 37 % PADDING_MAX) as usize))
}

/// The number in front of a value.
fn number(value: &[u8]) -> u64 {
    let digits = value.split(|byte| *byte == b':').next().and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{:?} is no value of ours", value))
}

/// Starts all tasks of a plan.
pub fn spawn(plan: &Plan, part: &Part, tasks: &mut JoinSet<()>) {
    let mut seeds = fastrand::Rng::with_seed(plan.seed);
    let mut random = || fastrand::Rng::with_seed(seeds.u64(..));
    for (resp, grpc) in &plan.nodes {
        for _ in 0..plan.readers {
            tasks.spawn(read_resp(part.clone(), resp.clone(), random()));
            tasks.spawn(read_grpc(part.clone(), grpc.clone(), random()));
        }
        tasks.spawn(invalidate(part.clone(), grpc.clone(), random()));
        for _ in 0..plan.writers {
            tasks.spawn(write(part.clone(), Pen::Resp(resp.clone(), None), random()));
            tasks.spawn(write(part.clone(), Pen::Grpc(channel(grpc)), random()));
        }
    }
    for _ in 0..plan.writers {
        tasks.spawn(write(part.clone(), Pen::Straight(Way::new(plan.straight.clone())), random()));
    }
    tasks.spawn(read_straight(part.clone(), Way::new(plan.straight.clone()), plan.straight_bound, random()));
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}")).expect("an address").timeout(ANSWER_MAX)
}

fn channel(address: &str) -> CacheClient<Channel> {
    CacheClient::new(endpoint(address).connect_lazy())
}

/// Keys of a batch, all of them as likely.
fn batches(keys: usize, random: &mut fastrand::Rng) -> Vec<Vec<usize>> {
    (0..BATCHES).map(|_| (0..BATCH).map(|_| random.usize(..keys)).collect()).collect()
}

impl Part {
    fn reads(&self) -> bool {
        !self.stop_reading.load(Relaxed)
    }

    fn writes(&self) -> bool {
        !self.stop_writing.load(Relaxed)
    }

    /// Counts and judges one answer.
    fn saw(&self, way: &'static str, count: &Count, read: truth::Read, stale: bool) {
        count.reads.fetch_add(1, Relaxed);
        if read.number.is_none() {
            count.missing.fetch_add(1, Relaxed);
        }
        let more = if stale { self.stale_for } else { Duration::ZERO };
        count.stale.fetch_add(u64::from(stale), Relaxed);
        let read = truth::Read { bound: read.bound + more, ..read };
        self.tally.judge(&self.truth, way, &read);
    }
}

async fn failed(count: &Count, reads: usize) {
    count.read_errors.fetch_add(reads as u64, Relaxed);
    tokio::time::sleep(AFTER_ERROR).await;
}

/// Pipelines of GETs to a node.
async fn read_resp(part: Part, address: String, mut random: fastrand::Rng) {
    let batches: Vec<(Vec<usize>, Pipeline)> = batches(part.truth.keys(), &mut random)
        .into_iter()
        .map(|keys| {
            let mut pipeline = Pipeline::with_capacity(keys.len());
            for key in &keys {
                pipeline.cmd("GET").arg(name(*key));
            }
            (keys, pipeline)
        })
        .collect();
    let count = &part.tally.resp;
    let mut connection = None;
    while part.reads() {
        let Some(open) = &mut connection else {
            match connect(&format!("redis://{address}")).await {
                Ok(opened) => connection = Some(opened),
                Err(_) => failed(count, 0).await,
            }
            continue;
        };
        let (keys, pipeline) = &batches[random.usize(..batches.len())];
        let began = Instant::now();
        let Ok(replies) = open.req_packed_commands(pipeline, 0, keys.len()).await else {
            connection = None;
            failed(count, keys.len()).await;
            continue;
        };
        let mut errors = 0;
        for (key, reply) in keys.iter().zip(replies) {
            match seen(&reply) {
                Some(number) => part.saw(
                    "resp",
                    count,
                    truth::Read { key: *key, began, number, bound: BOUND, knows_tags: true },
                    false,
                ),
                None => errors += 1,
            }
        }
        if errors > 0 {
            failed(count, errors).await;
        }
    }
}

/// `None` for an error, `Some(None)` for a miss.
fn seen(reply: &Value) -> Option<Option<u64>> {
    if let Value::BulkString(bytes) = reply {
        // Straight from Redis an entry with tags has its header.
        return Some(Some(number(codec::split(bytes).1)));
    }
    (*reply == Value::Nil).then_some(None)
}

/// GetMany, and now and then single Gets, from a node.
async fn read_grpc(part: Part, address: String, mut random: fastrand::Rng) {
    let mut client = channel(&address);
    let batches = batches(part.truth.keys(), &mut random);
    let names: Vec<Bytes> = (0..part.truth.keys()).map(|key| name(key).into()).collect();
    while part.reads() {
        let keys = &batches[random.usize(..batches.len())];
        let began = Instant::now();
        let answers = if random.usize(..SINGLY) == 0 {
            get_singly(&client, &names, keys).await
        } else {
            get_together(&mut client, &names, keys).await
        };
        let mut errors = 0;
        for (key, answer) in keys.iter().zip(answers) {
            let Some(found) = answer else {
                errors += 1;
                continue;
            };
            let number = found.as_ref().map(|found| number(&found.value));
            let stale = found.is_some_and(|found| found.stale);
            part.saw(
                "grpc",
                &part.tally.grpc,
                truth::Read { key: *key, began, number, bound: BOUND, knows_tags: true },
                stale,
            );
        }
        if errors > 0 {
            failed(&part.tally.grpc, errors).await;
        }
    }
}

/// Per key: `None` for an error, `Some(None)` for a miss.
type Answers = Vec<Option<Option<Found>>>;

async fn get_together(client: &mut CacheClient<Channel>, names: &[Bytes], keys: &[usize]) -> Answers {
    let request = GetManyRequest { keys: keys.iter().map(|key| names[*key].clone()).collect(), options: None };
    let Ok(response) = client.get_many(request).await else { return vec![None; keys.len()] };
    let results = response.into_inner().results.into_iter().map(|result| result.result);
    let answer = |result| match result {
        Some(get_many_result::Result::Found(found)) => Some(Some(found)),
        Some(get_many_result::Result::Missing(_)) => Some(None),
        Some(get_many_result::Result::Error(_)) | None => None,
    };
    results.map(answer).collect()
}

async fn get_singly(client: &CacheClient<Channel>, names: &[Bytes], keys: &[usize]) -> Answers {
    let get = |key: &usize| {
        let mut client = client.clone();
        let request = GetRequest { key: names[*key].clone(), options: None };
        async move {
            match client.get(request).await.ok()?.into_inner().result {
                Some(get_response::Result::Found(found)) => Some(Some(found)),
                Some(get_response::Result::Missing(_)) => Some(None),
                None => None,
            }
        }
    };
    futures_util::future::join_all(keys.iter().map(get)).await
}

/// GETs straight from Redis.
async fn read_straight(part: Part, mut way: Way, bound: Duration, mut random: fastrand::Rng) {
    while part.reads() {
        let key = random.usize(..part.truth.keys());
        let name = name(key);
        let mut command = Cmd::new();
        command.arg("GET").arg(&name);
        let began = Instant::now();
        let reply = way.ask(name.as_bytes(), &command).await;
        match reply.ok().and_then(|reply| seen(&reply)) {
            Some(number) => {
                let read = truth::Read { key, began, number, bound, knows_tags: false };
                part.saw(STRAIGHT, &part.tally.straight, read, false);
            }
            None => failed(&part.tally.straight, 1).await,
        }
        tokio::time::sleep(STRAIGHT_PAUSE).await;
    }
}

/// A way to write.
enum Pen {
    Resp(String, Option<redis::aio::MultiplexedConnection>),
    Grpc(CacheClient<Channel>),
    Straight(Way),
}

/// What is written.
#[derive(Debug, Clone, Copy)]
enum What {
    Set,
    /// With a life, milliseconds.
    SetFor(u64),
    Delete,
}

/// Writes on and on. Who goes straight to Redis writes all keys at first, and again after each upheaval: a key that stays
/// missing shows nothing.
async fn write(part: Part, mut pen: Pen, mut random: fastrand::Rng) {
    let (mut anew, mut upheavals) = (Vec::new(), None);
    while part.writes() {
        let keys = part.truth.keys();
        if matches!(pen, Pen::Straight(_)) && upheavals != Some(part.truth.upheavals()) {
            upheavals = Some(part.truth.upheavals());
            anew = (0..keys).collect();
        }
        let next = anew.pop();
        let key = next.unwrap_or_else(|| (keys as f64 * random.f64().powi(SKEW)) as usize);
        if let Some(write) = part.truth.write(key) {
            let what = match (habit(key), random.u8(..4)) {
                (Habit::Goes, 0) => What::Delete,
                (Habit::Goes, 1 | 2) => What::SetFor(random.u64(20..2000)),
                (Habit::Goes | Habit::Stays, _) => What::Set,
            };
            let done = pen.write(&write, what).await;
            pen.tell(&part.tally, write, what, done).await;
        }
        if next.is_none() {
            tokio::time::sleep(Duration::from_micros(random.u64(..THINK_MAX_US))).await;
        }
    }
}

impl Pen {
    /// Whether an entry is written under the tag of its key: gRPC alone can.
    fn is_tagged(&self, key: usize, what: What) -> bool {
        matches!((self, what), (Self::Grpc(_), What::Set | What::SetFor(_))) && truth::tag(key).is_some()
    }

    async fn tell(&self, tally: &Tally, write: Write<'_>, what: What, done: bool) {
        let count = match self {
            Self::Resp(..) => &tally.resp,
            Self::Grpc(_) => &tally.grpc,
            Self::Straight(_) => &tally.straight,
        };
        if done {
            if self.is_tagged(write.key, what) {
                write.acknowledged_under_tag();
            } else {
                write.acknowledged();
            }
            count.writes.fetch_add(1, Relaxed);
        } else {
            write.doubtful();
            count.doubtful.fetch_add(1, Relaxed);
            tokio::time::sleep(AFTER_ERROR).await;
        }
    }

    /// Whether it was acknowledged.
    async fn write(&mut self, write: &Write<'_>, what: What) -> bool {
        let name = name(write.key);
        match self {
            Self::Straight(way) => way.ask(name.as_bytes(), &command(&name, write.number, what)).await.is_ok(),
            Self::Resp(address, connection) => {
                let open = match connection.take() {
                    Some(open) => Ok(open),
                    None => connect(&format!("redis://{address}")).await,
                };
                let Ok(mut open) = open else { return false };
                let reply = open.req_packed_command(&command(&name, write.number, what)).await;
                // After an error reply the connection is still good.
                if reply.as_ref().err().is_none_or(|error| !error.is_io_error()) {
                    *connection = Some(open);
                }
                reply.is_ok_and(|reply| !matches!(reply, Value::ServerError(_)))
            }
            Self::Grpc(client) => {
                let tags = truth::tag(write.key).map(|tag| tag_name(tag).into()).into_iter().collect();
                write_grpc(client, name, tags, write.number, what).await
            }
        }
    }
}

fn command(name: &str, number: u64, what: What) -> Cmd {
    let mut command = Cmd::new();
    match what {
        What::Set => command.arg("SET").arg(name).arg(value(number)),
        What::SetFor(life_ms) => command.arg("SET").arg(name).arg(value(number)).arg("PX").arg(life_ms),
        What::Delete => command.arg("DEL").arg(name),
    };
    command
}

async fn write_grpc(
    client: &mut CacheClient<Channel>,
    name: String,
    tags: Vec<Bytes>,
    number: u64,
    what: What,
) -> bool {
    let ttl_ms = match what {
        What::SetFor(life_ms) => Some(i64::try_from(life_ms).expect("a short life")),
        What::Set => None,
        What::Delete => return client.delete(DeleteRequest { keys: vec![name.into()] }).await.is_ok(),
    };
    let request = SetRequest { key: name.into(), value: value(number).into(), ttl_ms, tags, ..SetRequest::default() };
    client.set(request).await.is_ok()
}

/// Invalidates tags through a node, on and on.
async fn invalidate(part: Part, address: String, mut random: fastrand::Rng) {
    let mut client = InvalidationClient::new(endpoint(&address).connect_lazy());
    while part.writes() {
        let tag = random.usize(..truth::TAGS);
        let sent_at = Instant::now();
        let done = client.invalidate_tags(InvalidateTagsRequest { tags: vec![tag_name(tag).into()] }).await;
        if done.is_ok() {
            part.truth.invalidated(tag, sent_at, Instant::now());
            part.tally.invalidations.fetch_add(1, Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(random.u64(..INVALIDATE_PAUSE_MAX_MS))).await;
    }
}

fn tag_name(tag: usize) -> String {
    format!("check-tag:{tag}")
}
