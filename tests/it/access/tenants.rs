//! Two tenants send random requests on all ports at the same time. Neither receives a byte of a value, a key, a tag, a channel or
//! an event of the other one.
//!
//! Values, tags, channels, and some of the keys contain a random word of their tenant. The other tenant does not know the word,
//! so that any appearance in its answers is a leak; other keys have names that it can guess. The number of requests is bounded;
//! with `TERRACE_CHECK_FULL=1` the test runs for a minute.

use std::{
    io::{Read, Write},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use fastrand::Rng;
use terrace::proto::{InvalidatePatternRequest, ReadOptions, TierSelection, invalidate_pattern_request};
use tokio::time::Instant;

use super::*;
use crate::support::{PATIENCE, setting_from_environment};

/// Requests of each client in a short run.
const ROUNDS: u64 = 250;
/// Guessable keys of each tenant.
const KEYS: u8 = 12;

/// A tenant.
struct Tenant {
    name: &'static str,
    /// The word that only this tenant knows.
    word: String,
    /// Answers by port.
    answers: [AtomicU64; PORTS.len()],
    /// Answers with the own word by port: answers without any would prove nothing.
    seen: [AtomicU64; PORTS.len()],
}

const PORTS: [&str; 6] = ["RESP", "subscriptions", "gRPC", "Pipeline", "Watch", "HTTP"];

/// The two tenants, seen by one of them.
#[derive(Clone, Copy)]
struct View<'w> {
    own: &'w Tenant,
    other: &'w Tenant,
    guarded: &'w Guarded,
    plan: &'w Plan,
}

struct Plan {
    seed: u64,
    until: Option<Instant>,
    is_over: AtomicBool,
}

impl View<'_> {
    fn rng(&self, port: usize) -> Rng {
        Rng::with_seed(self.plan.seed ^ (port as u64) << 8 ^ u64::from(self.own.name == "users"))
    }

    /// Returns whether a client goes on after this many rounds.
    fn goes_on(&self, rounds: u64) -> bool {
        self.plan.until.map_or(rounds < ROUNDS, |until| Instant::now() < until)
    }

    /// An own key: a guessable one, or one with the word.
    fn key(&self, rng: &mut Rng) -> String {
        match rng.u8(..3) {
            0 => format!("{}:{}:{}", self.own.name, self.own.word, rng.u8(..KEYS)),
            _ => format!("{}:k{}", self.own.name, rng.u8(..KEYS)),
        }
    }

    /// A guessable key of the other tenant.
    fn their_key(&self, rng: &mut Rng) -> String {
        format!("{}:k{}", self.other.name, rng.u8(..KEYS))
    }

    fn any_key(&self, rng: &mut Rng) -> String {
        if rng.bool() { self.key(rng) } else { self.their_key(rng) }
    }

    fn value(&self, rng: &mut Rng) -> String {
        format!("{}-{}", self.own.word, rng.u16(..))
    }

    fn pattern(&self, rng: &mut Rng) -> String {
        let (own, other) = (self.own.name, self.other.name);
        let patterns = [
            "*".to_owned(),
            format!("{own}:*"),
            format!("{other}:*"),
            format!("{other}:k?"),
            format!("*{other}*"),
            "[ou]*".to_owned(),
        ];
        patterns[rng.usize(..patterns.len())].clone()
    }

    /// Checks an answer.
    fn check(&self, port: usize, asked: &dyn std::fmt::Debug, answer: &[u8]) {
        let has = |word: &str| memchr::memmem::find(answer, word.as_bytes()).is_some();
        assert!(
            !has(&self.other.word),
            "seed {}: {} asked {asked:?} on {} and received {}",
            self.plan.seed,
            self.own.name,
            PORTS[port],
            answer.escape_ascii()
        );
        self.own.answers[port].fetch_add(1, Relaxed);
        self.own.seen[port].fetch_add(u64::from(has(&self.own.word)), Relaxed);
    }
}

/// Commands of several words; `|` separates the commands of a sequence. O is an own key, A any key, T a key of the other tenant,
/// V a value, P a pattern, C an own channel, D a channel of the other tenant, G an own tag.
const COMMANDS: &[&str] = &[
    "SET O V",
    "GET A",
    "MGET O A",
    "GETDEL A",
    "GETEX A",
    "GETSET A V",
    "SET A V GET",
    "APPEND A V",
    "SETRANGE A 2 V",
    "GETRANGE A 0 -1",
    "SUBSTR A 0 -1",
    "LCS O A",
    "STRLEN A",
    "MSET O V A V",
    "MSETNX O V A V",
    "COPY A O REPLACE",
    "RENAME A O",
    "RENAMENX A O",
    "TYPE A",
    "TTL A",
    "EXISTS O A",
    "DEL A",
    "UNLINK O A",
    "TOUCH A",
    "EXPIRE A 1000",
    "PERSIST A",
    "OBJECT ENCODING A",
    "OBJECT FREQ A",
    "DUMP A",
    "MEMORY USAGE A",
    "RANDOMKEY",
    "KEYS P",
    "SCAN 0 COUNT 1000",
    "SCAN 0 MATCH P COUNT 1000",
    "DBSIZE",
    "SELECT 1 | GET A | KEYS P | SCAN 0 COUNT 1000 | RANDOMKEY | DBSIZE | SELECT 0",
    "SELECT 2 | KEYS * | GET assoc:T | SCAN 0 | SELECT 0",
    "DEL A | RPUSH A V V",
    "LRANGE A 0 -1",
    "LMOVE A O LEFT RIGHT",
    "RPOPLPUSH A O",
    "LPOP A",
    "LINDEX A 0",
    "LPOS A V",
    "SORT A ALPHA",
    "SORT A BY T* GET T",
    "SORT O BY nosort GET T* GET # ALPHA",
    "SORT A ALPHA STORE O",
    "SORT O ALPHA STORE T",
    "SORT_RO A BY *->f GET *",
    "DEL A | HSET A f V",
    "HGETALL A",
    "HRANDFIELD A 1 WITHVALUES",
    "HSCAN A 0",
    "DEL A | SADD A V",
    "SMEMBERS A",
    "SUNION O A",
    "SUNIONSTORE O A",
    "SINTERCARD 2 O A",
    "SMOVE A O V",
    "DEL A | ZADD A 1 V",
    "ZRANGE A 0 -1",
    "ZUNION 2 O A",
    "ZUNIONSTORE O 1 A",
    "ZUNIONSTORE T 1 O",
    "ZRANGESTORE O A 0 -1",
    "ZMPOP 2 A O MIN",
    "LMPOP 2 A O LEFT",
    "BITOP OR O A",
    "BITOP NOT O A",
    "SETBIT A 7 1",
    "BITFIELD A GET u8 0",
    "PFADD A V",
    "PFMERGE O A",
    "PFCOUNT O A",
    "XADD A * f V",
    "XRANGE A - +",
    "XREAD STREAMS O A 0 0",
    "XINFO STREAM A FULL",
    "MULTI | GET A | SET O V | GET O | EXEC",
    "WATCH A | MULTI | MGET O A | EXEC",
    "MULTI | KEYS P | RANDOMKEY | SELECT 1 | KEYS * | SELECT 0 | EXEC",
    "EVAL return\\_redis.call('get','T') 0",
    "EVAL return\\_redis.call('get',KEYS[1]) 1 T",
    "PUBLISH C V",
    "PUBLISH D V",
    "PUBSUB CHANNELS",
    "PUBSUB NUMSUB C D",
    "PUBSUB NUMPAT",
    "TERRACE.TOP",
    "TERRACE.TOP BYTES 1000",
    "TERRACE.TIERS",
    "TERRACE.EXPLAIN A",
    "TERRACE.INFO A",
    "TERRACE.TAGS A",
    "TERRACE.INVALIDATE PATTERN P",
    "TERRACE.INVALIDATE PATTERN P DRYRUN",
    "TERRACE.INVALIDATE TAG G",
    "INFO everything",
    "CLIENT LIST",
    "CLIENT INFO",
    "CLIENT SETNAME V | CLIENT GETNAME",
    "SLOWLOG GET 100",
    "LATENCY LATEST",
    "CONFIG GET *",
    "ACL LOG",
    "ACL LIST",
    "ACL GETUSER root",
    "ACL DRYRUN root GET T",
    "MONITOR",
    "COMMAND GETKEYS GET T",
    "MEMORY STATS",
    "FLUSHALL",
    "FUNCTION LIST",
];

/// Commands that are refused whether the key exists or not.
const PROBES: [&str; 14] = [
    "GET T",
    "EXISTS T",
    "TTL T",
    "TYPE T",
    "STRLEN T",
    "DEL T",
    "SET T V NX",
    "OBJECT ENCODING T",
    "TERRACE.EXPLAIN T",
    "TERRACE.INFO T",
    "LLEN T",
    "EXISTS O T",
    "MEMORY USAGE T",
    "TOUCH O T",
];

/// Commands of the table that are not sent with random words: they change the connection, or wait.
const NOT_RANDOM: [&str; 20] = [
    "auth",
    "hello",
    "reset",
    "quit",
    "monitor",
    "subscribe",
    "psubscribe",
    "unsubscribe",
    "punsubscribe",
    "multi",
    "exec",
    "client",
    "select",
    "wait",
    "blpop",
    "brpop",
    "blmove",
    "brpoplpush",
    "blmpop",
    "shutdown",
];

/// A connection whose replies are read up to the echo of a number.
struct Talk {
    client: Client,
    asked: u64,
}

impl Talk {
    /// Sends commands and returns all that the server sends before it has answered them.
    fn ask(&mut self, commands: &[String]) -> Vec<u8> {
        self.asked += 1;
        let end = format!("$12\r\nend-{:08}\r\n", self.asked);
        let mut bytes: Vec<u8> = commands.iter().flat_map(|command| request(command)).collect();
        bytes.extend(request(&format!("ECHO end-{:08}", self.asked)));
        self.client.0.write_all(&bytes).unwrap();
        let (mut answer, mut part) = (Vec::new(), [0; 4096]);
        while !answer.ends_with(end.as_bytes()) {
            let read = self.client.0.read(&mut part).unwrap();
            assert!(read > 0, "the server closed the connection after {commands:?}");
            answer.extend_from_slice(&part[..read]);
        }
        answer
    }
}

fn filled(view: View<'_>, template: &str, rng: &mut Rng) -> Vec<String> {
    let word = |word: &str, rng: &mut Rng| match word {
        "O" => view.key(rng),
        "A" => view.any_key(rng),
        "T" => view.their_key(rng),
        "T*" => format!("{}:k*", view.other.name),
        "V" => view.value(rng),
        "P" => view.pattern(rng),
        "C" => format!("{}:{}", view.own.name, view.own.word),
        "D" => format!("{}:events", view.other.name),
        "G" => format!("{}:{}", view.own.name, view.own.word),
        word => word
            .replace("'T'", &format!("'{}'", view.their_key(rng)))
            .replace("assoc:T", &format!("assoc:{}", view.their_key(rng))),
    };
    let command =
        |command: &str, rng: &mut Rng| command.split(' ').map(|text| word(text, rng)).collect::<Vec<_>>().join(" ");
    template.split(" | ").map(|text| command(text, rng)).collect()
}

/// A command of the table with random words.
fn random_command(view: View<'_>, names: &[String], rng: &mut Rng) -> String {
    let mut words = vec![names[rng.usize(..names.len())].clone()];
    for _ in 0..rng.usize(..6) {
        words.push(match rng.u8(..12) {
            0..3 => view.key(rng),
            3..6 => view.their_key(rng),
            6 => view.value(rng),
            7 => view.pattern(rng),
            8 => ["STORE", "GET", "BY", "MATCH", "COUNT", "STREAMS", "WITHSCORES", "LEFT", "LIST", "HELP"]
                [rng.usize(..10)]
            .to_owned(),
            _ => rng.u8(..4).to_string(),
        });
    }
    words.join(" ")
}

fn resp(view: View<'_>) {
    let mut rng = view.rng(0);
    let mut talk = Talk { client: view.guarded.resp(view.own.name), asked: 0 };
    let listed = String::from_utf8_lossy(&talk.ask(&["COMMAND LIST".to_owned()])).into_owned();
    let names = listed.lines().filter(|line| !line.starts_with(['*', '$']) && !line.starts_with("end-"));
    let names: Vec<String> = names
        .filter(|name| !NOT_RANDOM.iter().any(|not| name.split('|').next() == Some(not)) && !name.starts_with("bz"))
        .map(str::to_owned)
        .collect();
    assert!(names.len() > 150, "{names:?}");
    for round in 0.. {
        if !view.goes_on(round) {
            break;
        }
        let commands = match rng.u8(..4) {
            0 => vec![random_command(view, &names, &mut rng).replace('|', " ")],
            _ => filled(view, COMMANDS[rng.usize(..COMMANDS.len())], &mut rng),
        };
        let answer = talk.ask(&commands);
        view.check(0, &commands, &answer);
        let probe = filled(view, PROBES[rng.usize(..PROBES.len())], &mut rng);
        let refused = talk.ask(&probe);
        assert!(refused.starts_with(b"-NOPERM"), "{probe:?}: {}", refused.escape_ascii());
        // Keys of the other tenant that a request does not name.
        let foreign = format!("{}:", view.other.name);
        let names_them = commands.iter().any(|command| command.contains(&foreign));
        let text = String::from_utf8_lossy(&answer);
        assert!(names_them || !text.contains(&foreign), "seed {}: {commands:?}: {text}", view.plan.seed);
    }
}

/// Receives messages of channels and keyspace events until the test is over.
fn subscriptions(view: View<'_>) {
    let (own, other) = (view.own.name, view.other.name);
    let mut client = view.guarded.resp(own);
    client.0.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    for command in [
        format!("PSUBSCRIBE {own}:*"),
        format!("PSUBSCRIBE __keyspace@0__:{own}:*"),
        format!("SUBSCRIBE {own}:{}", view.own.word),
        format!("PSUBSCRIBE {other}:*"),
        format!("SUBSCRIBE {other}:events"),
        format!("PSUBSCRIBE __keyspace@0__:{other}:*"),
        "PSUBSCRIBE *".to_owned(),
        "PSUBSCRIBE __key*".to_owned(),
        "SUBSCRIBE __keyevent@0__:set".to_owned(),
        "SUBSCRIBE __terrace__:invalidated".to_owned(),
    ] {
        client.say(&command);
    }
    let (mut received, mut part) = (Vec::new(), [0; 4096]);
    while !view.plan.is_over.load(Relaxed) {
        match client.0.read(&mut part) {
            Ok(read) => {
                assert!(read > 0, "the server closed the subscriber of {own}");
                received.extend_from_slice(&part[..read]);
                view.check(1, &"subscriptions", &received);
                // A word may be split between two reads.
                let kept = received.len().saturating_sub(64);
                received.drain(..kept);
            }
            Err(error) => assert!(
                matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
                "{error}"
            ),
        }
    }
}

fn debug(answer: &impl std::fmt::Debug) -> Vec<u8> {
    format!("{answer:?}").into_bytes()
}

fn bytes(text: String) -> bytes::Bytes {
    text.into()
}

/// The first messages of a stream.
async fn messages<T: std::fmt::Debug>(
    call: Result<tonic::Response<tonic::Streaming<T>>, Status>,
    most: usize,
) -> Vec<u8> {
    match call {
        Err(status) => debug(&status),
        Ok(stream) => debug(&stream.into_inner().take(most).collect::<Vec<_>>().await),
    }
}

fn write(view: View<'_>, key: String, rng: &mut Rng) -> SetRequest {
    let tags = if rng.bool() { vec![bytes(format!("{}:{}", view.own.name, view.own.word))] } else { Vec::new() };
    SetRequest { key: bytes(key), value: bytes(view.value(rng)), tags, ..SetRequest::default() }
}

/// Calls a random method, and returns the answer as text.
async fn unary(view: View<'_>, channel: &Channel, rng: &mut Rng) -> (&'static str, Vec<u8>) {
    let (mut cache, mut insight) = (CacheClient::new(channel.clone()), InsightClient::new(channel.clone()));
    let (mut invalidation, mut admin) = (InvalidationClient::new(channel.clone()), AdminClient::new(channel.clone()));
    let user = view.own.name;
    let (any, own) = (bytes(view.any_key(rng)), bytes(view.key(rng)));
    let options = Some(ReadOptions { want_meta: true, ..ReadOptions::default() });
    match rng.u8(..23) {
        0 => ("Get", debug(&cache.get(by(user, GetRequest { key: any, options })).await)),
        1 => ("GetMany", debug(&cache.get_many(by(user, GetManyRequest { keys: vec![own, any], options })).await)),
        2 => ("Set", debug(&cache.set(by(user, write(view, view.any_key(rng), rng))).await)),
        3 => {
            let entries = vec![write(view, view.key(rng), rng), write(view, view.any_key(rng), rng)];
            ("SetMany", debug(&cache.set_many(by(user, SetManyRequest { entries })).await))
        }
        4 => ("Delete", debug(&cache.delete(by(user, DeleteRequest { keys: vec![own, any] })).await)),
        5 => (
            "Touch",
            debug(
                &cache
                    .touch(by(user, TouchRequest { key: any, ttl_ms: Some(60_000), ..TouchRequest::default() }))
                    .await,
            ),
        ),
        6 => (
            "Increment",
            debug(
                &cache
                    .increment(by(user, IncrementRequest { key: any, delta: 1, ..IncrementRequest::default() }))
                    .await,
            ),
        ),
        7 => ("GetMeta", debug(&cache.get_meta(by(user, GetMetaRequest { keys: vec![own, any] })).await)),
        8 => {
            let keys = invalidate_pattern_request::Keys::Pattern(bytes(view.pattern(rng)));
            let request = InvalidatePatternRequest { keys: Some(keys), ..InvalidatePatternRequest::default() };
            ("InvalidatePattern", messages(invalidation.invalidate_pattern(by(user, request)).await, 1).await)
        }
        9 => {
            let tags = vec![bytes(format!("{}:{}", view.own.name, view.own.word))];
            ("InvalidateTags", debug(&invalidation.invalidate_tags(by(user, InvalidateTagsRequest { tags })).await))
        }
        10 => {
            let tags = vec![bytes(format!("{}:tag", view.other.name))];
            ("InvalidateTags", debug(&invalidation.invalidate_tags(by(user, InvalidateTagsRequest { tags })).await))
        }
        11 => ("GetStats", debug(&insight.get_stats(by(user, GetStatsRequest {})).await)),
        12 => ("WatchStats", messages(insight.watch_stats(by(user, WatchStatsRequest::default())).await, 1).await),
        13 => {
            let by_number = i32::from(rng.u8(..5));
            ("TopKeys", debug(&insight.top_keys(by(user, TopKeysRequest { by: by_number, count: 1_000 })).await))
        }
        14 => ("SimulateCapacity", debug(&insight.simulate_capacity(by(user, SimulateCapacityRequest {})).await)),
        15 => ("GetTtlAdvice", debug(&insight.get_ttl_advice(by(user, GetTtlAdviceRequest::default())).await)),
        16 => ("Explain", debug(&insight.explain(by(user, ExplainRequest { key: any })).await)),
        17 => {
            let key = if rng.bool() { any } else { bytes::Bytes::new() };
            ("GetAssociations", debug(&insight.get_associations(by(user, GetAssociationsRequest { key })).await))
        }
        18 => ("Predict", debug(&insight.predict(by(user, PredictRequest { key: any })).await)),
        19 => {
            let tier = if rng.bool() { TierSelection::Any } else { TierSelection::L1Only };
            let request =
                ScanKeysRequest { pattern: bytes(view.pattern(rng)), tier: tier.into(), ..ScanKeysRequest::default() };
            ("ScanKeys", messages(admin.scan_keys(by(user, request)).await, usize::MAX).await)
        }
        20 => {
            let (keys, pattern) =
                if rng.bool() { (vec![own, any], String::new()) } else { (Vec::new(), view.pattern(rng)) };
            let request = WarmRequest { keys, pattern: bytes(pattern), ..WarmRequest::default() };
            ("Warm", messages(admin.warm(by(user, request)).await, usize::MAX).await)
        }
        21 => {
            let request =
                FlushRequest { keys: Some(proto::flush_request::Keys::Prefix(any)), confirm: bytes::Bytes::new() };
            ("Flush", debug(&admin.flush(by(user, request)).await))
        }
        _ => {
            let request = RecordReadsRequest { one_in: 1, plain_keys: true };
            let recorded = admin.record_reads(by(user, request)).await;
            let first = tokio::time::timeout(Duration::from_millis(300), messages(recorded, 1)).await;
            ("RecordReads", first.unwrap_or_default())
        }
    }
}

async fn grpc(view: View<'_>, channel: Channel) {
    let mut rng = view.rng(2);
    for round in 0.. {
        if !view.goes_on(round) {
            break;
        }
        let (method, answer) =
            tokio::time::timeout(PATIENCE, unary(view, &channel, &mut rng)).await.expect("an answer");
        view.check(2, &method, &answer);
    }
}

async fn pipeline(view: View<'_>, channel: Channel) {
    let mut rng = view.rng(3);
    let (requests, sent) = tokio::sync::mpsc::channel(1);
    let sent =
        futures_util::stream::unfold(sent, |mut sent| async move { sent.recv().await.map(|batch| (batch, sent)) });
    let mut cache = CacheClient::new(channel);
    let mut results = cache.pipeline(by(view.own.name, sent)).await.unwrap().into_inner();
    for round in 0.. {
        if !view.goes_on(round) {
            break;
        }
        let operations: Vec<Operation> = (0..4).map(|id| operation(view, id, &mut rng)).collect();
        let asked = format!("{operations:?}");
        requests.send(PipelineRequest { operations }).await.unwrap();
        let mut answered = 0;
        while answered < 4 {
            let answer = tokio::time::timeout(PATIENCE, results.next()).await.expect("an answer").unwrap().unwrap();
            answered += answer.results.len();
            view.check(3, &asked, &debug(&answer));
        }
    }
}

fn operation(view: View<'_>, id: u64, rng: &mut Rng) -> Operation {
    let any = bytes(view.any_key(rng));
    let operation = match rng.u8(..6) {
        0 => operation::Operation::Get(GetRequest { key: any, options: None }),
        1 => operation::Operation::Set(write(view, view.any_key(rng), rng)),
        2 => operation::Operation::Delete(DeleteRequest { keys: vec![any] }),
        3 => operation::Operation::Touch(TouchRequest { key: any, ttl_ms: Some(60_000), ..TouchRequest::default() }),
        4 => operation::Operation::Increment(IncrementRequest { key: any, delta: 1, ..IncrementRequest::default() }),
        _ => operation::Operation::GetMeta(GetMetaRequest { keys: vec![any] }),
    };
    Operation { id, operation: Some(operation), context: 0 }
}

/// Receives changes until the test is over.
async fn watch(view: View<'_>, channel: Channel) {
    let mut invalidation = InvalidationClient::new(channel);
    let foreign = WatchRequest { prefixes: vec![bytes(format!("{}:", view.other.name))], ..WatchRequest::default() };
    let denied = first(invalidation.watch(by(view.own.name, foreign)).await).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    // Without a prefix, the stream is about the keys that the tenant may know about.
    let mut changes = invalidation.watch(by(view.own.name, WatchRequest::default())).await.unwrap().into_inner();
    while !view.plan.is_over.load(Relaxed) {
        let Ok(change) = tokio::time::timeout(Duration::from_millis(50), changes.next()).await else { continue };
        let answer = debug(&change.expect("the stream goes on").unwrap());
        view.check(4, &"Watch", &answer);
        let foreign = format!("{}:", view.other.name);
        assert!(
            !String::from_utf8_lossy(&answer).contains(&foreign),
            "seed {}: {}",
            view.plan.seed,
            answer.escape_ascii()
        );
    }
}

/// Reads of an own key between two looks at the page.
const PAGE_READS: usize = 100;

fn page(view: View<'_>) {
    let mut rng = view.rng(5);
    let paths =
        ["/", "/metrics", "/api/stats", "/api/top", "/api/learned", "/api/history", "/healthz", "/readyz", "/nowhere"];
    for round in 0.. {
        if !view.goes_on(round * 4) {
            break;
        }
        let path = paths[rng.usize(..paths.len())];
        let answer = http(view.guarded, path, &format!("Bearer {}", view.own.name));
        view.check(5, &path, answer.as_bytes());
        assert!(!answer.contains(&format!("{}:", view.other.name)), "seed {}: {path}: {answer}", view.plan.seed);
    }
    let mut client = view.guarded.resp(view.own.name);
    let own = format!("{}:{}:page", view.own.name, view.own.word);
    eventually("the page shows an own key", || {
        client.say(&format!("SET {own} v"));
        client.line();
        // The page lists the keys with the most reads.
        for _ in 0..PAGE_READS {
            client.say(&format!("GET {own}"));
        }
        for _ in 0..PAGE_READS {
            // The other clients of the tenant may have removed the key.
            if client.line() != "$-1\r\n" {
                client.line();
            }
        }
        view.check(5, &"/api/top", http(view.guarded, "/api/top", &format!("Bearer {}", view.own.name)).as_bytes());
        view.own.seen[5].load(Relaxed) > 0
    });
}

fn run(view: View<'_>, port: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let with_channel = async {
        let channel = connect(view.guarded.node.grpc()).await;
        match port {
            2 => grpc(view, channel).await,
            3 => pipeline(view, channel).await,
            _ => watch(view, channel).await,
        }
    };
    match port {
        0 => resp(view),
        1 => subscriptions(view),
        5 => page(view),
        _ => runtime.block_on(with_channel),
    }
}

/// Ends the streams when the clients have finished, also by a panic.
struct Over<'p>(&'p Plan);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Relaxed);
    }
}

fn tenants_on(guarded: &Guarded, seed: u64, span: Option<Duration>) {
    let mut rng = Rng::with_seed(seed);
    let mut tenant = |name| Tenant {
        name,
        word: (0..14).map(|_| rng.lowercase()).collect(),
        answers: Default::default(),
        seen: Default::default(),
    };
    let tenants = [tenant("orders"), tenant("users")];
    let plan = Plan { seed, until: span.map(|span| Instant::now() + span), is_over: AtomicBool::new(false) };
    guarded.resp("root").ask("CONFIG SET notify-keyspace-events KA", "+OK\r\n");
    thread::scope(|scope| {
        let views = [(0, 1), (1, 0)].map(|(own, other)| View {
            own: &tenants[own],
            other: &tenants[other],
            guarded,
            plan: &plan,
        });
        // Subscribers and watchers end when the others have ended.
        for view in views {
            scope.spawn(move || run(view, 1));
            scope.spawn(move || run(view, 4));
        }
        let _over = Over(&plan);
        let clients: Vec<_> =
            views.into_iter().flat_map(|view| [0, 2, 3, 5].map(|port| scope.spawn(move || run(view, port)))).collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    for tenant in &tenants {
        for (port, seen) in PORTS.iter().zip(&tenant.seen) {
            assert!(seen.load(Relaxed) > 0, "seed {seed}: {} saw nothing of its own on {port}", tenant.name);
        }
        println!("{} on {PORTS:?}: {:?} answers, {:?} with own data", tenant.name, tenant.answers, tenant.seen);
    }
}

#[test]
fn two_tenants_never_see_each_other_on_any_port() {
    let seed = setting_from_environment("TERRACE_CHECK_SEED", fastrand::u64(..));
    println!("seed {seed}");
    let is_full = setting_from_environment("TERRACE_CHECK_FULL", 0) == 1;
    let span = is_full.then_some(Duration::from_secs(30));
    let world = tempfile::tempdir().unwrap();
    tenants_on(&Guarded::start(config_embedded(world.path()), None), seed, span);
    tenants_on(&Guarded::over_redis(), seed, span);
}
