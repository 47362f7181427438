//! Writers and readers of the checker: tasks that continue under every fault.
//!
//! Reads are sent in batches (a pipeline of GETs, a GetMany, several single Gets at once), so that a busy machine still
//! makes many of them. The recorded beginning of each read is the sending of its batch, which precedes the answers.
//! This only makes the judge more lenient.

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
    BOUND, Count, DIRECT, Plan, Tally,
    direct::{DirectClient, connect},
    history::{self, Habit, History, Write, habit},
};

/// Reads in a batch.
const BATCH: usize = 64;
/// Batches that a reader prepares and repeats.
const BATCHES: usize = 32;
/// 1 batch in this many of a gRPC reader consists of single Gets.
const SINGLY: usize = 8;
/// Longest wait for an answer of a node. The deadlines of a node are far shorter.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Wait after an error, so that an outage is no busy loop.
const AFTER_ERROR: Duration = Duration::from_millis(5);
/// Skew of writes over keys: of 512 keys, the first receives a third of all writes, the last are written every few
/// seconds. A wrong copy shows only if its key is not written for longer than Δ.
const SKEW: i32 = 6;
/// Time between two writes of a writer.
const THINK_MAX_US: u64 = 4000;
/// Time between two tag invalidations through one node: long enough that copies are old when they are invalidated.
const INVALIDATE_PAUSE_MAX_MS: u64 = 2_000;
/// Time between two reads directly from Redis.
const STRAIGHT_PAUSE: Duration = Duration::from_millis(5);
/// Maximum padding of a value in bytes. Padding lets Redis reach its memory limit and evict.
const PADDING_MAX: u64 = 400;

/// State that all tasks share.
#[derive(Clone)]
pub struct Part {
    pub history: Arc<History>,
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
            tasks.spawn(write(part.clone(), Pen::Resp(resp.clone(), None, plan.scripts), random()));
            tasks.spawn(write(part.clone(), Pen::Grpc(channel(grpc)), random()));
        }
    }
    for _ in 0..plan.writers {
        tasks.spawn(write(part.clone(), Pen::Direct(DirectClient::new(plan.direct.clone())), random()));
    }
    tasks.spawn(read_direct(part.clone(), DirectClient::new(plan.direct.clone()), plan.direct_bound, random()));
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}")).expect("an address").timeout(ANSWER_MAX)
}

fn channel(address: &str) -> CacheClient<Channel> {
    CacheClient::new(endpoint(address).connect_lazy())
}

/// The keys of each batch, uniformly distributed.
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
    fn saw(&self, way: &'static str, count: &Count, read: history::Read, stale: bool) {
        count.reads.fetch_add(1, Relaxed);
        if read.number.is_none() {
            count.missing.fetch_add(1, Relaxed);
        }
        let more = if stale { self.stale_for } else { Duration::ZERO };
        count.stale.fetch_add(u64::from(stale), Relaxed);
        let read = history::Read { bound: read.bound + more, ..read };
        self.tally.judge(&self.history, way, &read);
    }
}

async fn failed(count: &Count, reads: usize) {
    count.read_errors.fetch_add(reads as u64, Relaxed);
    tokio::time::sleep(AFTER_ERROR).await;
}

/// Reads by pipelines of GETs from a node.
async fn read_resp(part: Part, address: String, mut random: fastrand::Rng) {
    let batches: Vec<(Vec<usize>, Pipeline)> = batches(part.history.keys(), &mut random)
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
                    history::Read { key: *key, began, number, bound: BOUND, knows_tags: true },
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
        // Read directly from Redis, an entry with tags begins with its header.
        return Some(Some(number(codec::split(bytes).1)));
    }
    (*reply == Value::Nil).then_some(None)
}

/// Reads by GetMany, and sometimes by single Gets, from a node.
async fn read_grpc(part: Part, address: String, mut random: fastrand::Rng) {
    let mut client = channel(&address);
    let batches = batches(part.history.keys(), &mut random);
    let names: Vec<Bytes> = (0..part.history.keys()).map(|key| name(key).into()).collect();
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
                history::Read { key: *key, began, number, bound: BOUND, knows_tags: true },
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

/// Reads by GET directly from Redis.
async fn read_direct(part: Part, mut direct: DirectClient, bound: Duration, mut random: fastrand::Rng) {
    while part.reads() {
        let key = random.usize(..part.history.keys());
        let name = name(key);
        let mut command = Cmd::new();
        command.arg("GET").arg(&name);
        let began = Instant::now();
        let reply = direct.ask(name.as_bytes(), &command).await;
        match reply.ok().and_then(|reply| seen(&reply)) {
            Some(number) => {
                let read = history::Read { key, began, number, bound, knows_tags: false };
                part.saw(DIRECT, &part.tally.direct, read, false);
            }
            None => failed(&part.tally.direct, 1).await,
        }
        tokio::time::sleep(STRAIGHT_PAUSE).await;
    }
}

/// The path of a write.
enum Pen {
    /// Address and connection; true if some writes are scripts.
    Resp(String, Option<redis::aio::MultiplexedConnection>, bool),
    Grpc(CacheClient<Channel>),
    Direct(DirectClient),
}

/// The kind of a write.
#[derive(Debug, Clone, Copy)]
enum What {
    Set,
    /// A value with a TTL, milliseconds.
    SetFor(u64),
    Delete,
}

/// Writes until stopped. The direct writer writes all keys at first, and again after each upheaval, because a key that
/// stays missing proves nothing.
async fn write(part: Part, mut pen: Pen, mut random: fastrand::Rng) {
    let (mut anew, mut upheavals) = (Vec::new(), None);
    while part.writes() {
        let keys = part.history.keys();
        if matches!(pen, Pen::Direct(_)) && upheavals != Some(part.history.upheavals()) {
            upheavals = Some(part.history.upheavals());
            anew = (0..keys).collect();
        }
        let next = anew.pop();
        let key = next.unwrap_or_else(|| (keys as f64 * random.f64().powi(SKEW)) as usize);
        if let Some(write) = part.history.write(key) {
            let what = match (habit(key), random.u8(..4)) {
                (Habit::Goes, 0) => What::Delete,
                (Habit::Goes, 1 | 2) => What::SetFor(random.u64(20..2000)),
                (Habit::Goes | Habit::Stays, _) => What::Set,
            };
            let done = pen.write(&write, what, &part.tally, &mut random).await;
            pen.tell(&part.tally, write, what, done).await;
        }
        if next.is_none() {
            tokio::time::sleep(Duration::from_micros(random.u64(..THINK_MAX_US))).await;
        }
    }
}

impl Pen {
    /// Returns whether the entry gets the tag of its key, which only gRPC can set.
    fn is_tagged(&self, key: usize, what: What) -> bool {
        matches!((self, what), (Self::Grpc(_), What::Set | What::SetFor(_))) && history::tag(key).is_some()
    }

    async fn tell(&self, tally: &Tally, write: Write<'_>, what: What, done: bool) {
        let count = match self {
            Self::Resp(..) => &tally.resp,
            Self::Grpc(_) => &tally.grpc,
            Self::Direct(_) => &tally.direct,
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

    /// Writes; returns whether the write was acknowledged.
    async fn write(&mut self, write: &Write<'_>, what: What, tally: &Tally, random: &mut fastrand::Rng) -> bool {
        let name = name(write.key);
        match self {
            Self::Direct(direct) => direct.ask(name.as_bytes(), &command(&name, write.number, what)).await.is_ok(),
            Self::Resp(address, connection, scripts) => {
                let open = match connection.take() {
                    Some(open) => Ok(open),
                    None => connect(&format!("redis://{address}")).await,
                };
                let Ok(mut open) = open else { return false };
                let plain = command(&name, write.number, what);
                let way = if *scripts { script_way(write.key, random) } else { None };
                let command = way.map_or_else(|| plain.clone(), |way| in_script(&name, &plain, way));
                let reply = open.req_packed_command(&command).await;
                // After an error reply the connection is still usable.
                if reply.as_ref().err().is_none_or(|error| !error.is_io_error()) {
                    *connection = Some(open);
                }
                let done = reply.is_ok_and(|reply| !matches!(reply, Value::ServerError(_)));
                if let Some(way) = way.filter(|_| done) {
                    tally.scripts[way as usize].fetch_add(1, Relaxed);
                }
                done
            }
            Self::Grpc(client) => {
                let tags = history::tag(write.key).map(|tag| tag_name(tag).into()).into_iter().collect();
                write_grpc(client, name, tags, write.number, what).await
            }
        }
    }
}

/// How a script gets its key.
#[derive(Debug, Clone, Copy)]
enum Way {
    Declared,
    /// The script declares another key of the slot.
    Undeclared,
}

/// Chooses whether a write is a script. A node refuses scripts that declare a key with tags.
fn script_way(key: usize, random: &mut fastrand::Rng) -> Option<Way> {
    match random.u8(..3) {
        0 if history::tag(key).is_none() => Some(Way::Declared),
        1 => Some(Way::Undeclared),
        _ => None,
    }
}

/// Turns a command on a key into a script that runs the command.
fn in_script(name: &str, command: &Cmd, way: Way) -> Cmd {
    let words = command
        .args_iter()
        .filter_map(|word| if let redis::Arg::Simple(word) = word { Some(word.to_vec()) } else { None });
    let words: Vec<Vec<u8>> = words.collect();
    let mut script = Cmd::new();
    script.arg("EVAL");
    match way {
        Way::Declared => {
            script.arg("return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))").arg(1).arg(name);
            script.arg(&words[0]).arg(&words[2..]);
        }
        Way::Undeclared => {
            script.arg("return redis.call(unpack(ARGV))").arg(1).arg(format!("{{{name}}}:declared")).arg(words);
        }
    }
    script
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

/// Invalidates tags through a node until stopped.
async fn invalidate(part: Part, address: String, mut random: fastrand::Rng) {
    let mut client = InvalidationClient::new(endpoint(&address).connect_lazy());
    while part.writes() {
        let tag = random.usize(..history::TAGS);
        let sent_at = Instant::now();
        let done = client.invalidate_tags(InvalidateTagsRequest { tags: vec![tag_name(tag).into()] }).await;
        if done.is_ok() {
            part.history.invalidated(tag, sent_at, Instant::now());
            part.tally.invalidations.fetch_add(1, Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(random.u64(..INVALIDATE_PAUSE_MAX_MS))).await;
    }
}

fn tag_name(tag: usize) -> String {
    format!("check-tag:{tag}")
}
