//! Patterns that take long to compare: Redis receives none of them from a client, and on this node they delay neither
//! other clients nor the order of messages.

use std::{collections::BTreeSet, io::Read};

use ::redis::{Commands, Connection, Value, cmd};
use fastrand::Rng;

use crate::support::{
    eventually,
    node::{over_embedded, over_none},
    redis::RedisServer,
    resp::{Client, ask, connection, info_field, request},
    terrace::{Terrace, config_patient},
};

fn over(redis: &RedisServer) -> Terrace {
    let terrace = Terrace::start(config_patient(redis.url()));
    eventually("L1 is open", || info_field(&terrace, "coherence_l1_open") == "1");
    terrace
}

/// Requests of all commands with a pattern. SORT is not among them: Redis replaces the star of its patterns.
const WITH_PATTERNS: &[&str] = &[
    "PSUBSCRIBE *slow?x pre*slow?x",
    "PUNSUBSCRIBE *slow?x",
    "PUBSUB CHANNELS *slow?x",
    "HSCAN h 0 MATCH *slow?x COUNT 10",
    "SSCAN s 0 MATCH *slow?x",
    "ZSCAN z 0 COUNT 10 MATCH a*slow?x",
    "KEYS *slow?x",
    "SCAN 0 MATCH *slow?x",
    "CONFIG GET hash*slow?x *slow?x",
    "COMMAND LIST FILTERBY PATTERN *slow?x",
    "FUNCTION LIST LIBRARYNAME *slow?x",
    "TERRACE.INVALIDATE PATTERN *slow?x DRYRUN",
];

#[test]
fn redis_receives_no_slow_pattern_of_a_client() {
    let redis = RedisServer::start();
    let terrace = over(&redis);
    redis.run("HSET h aslow:x v");
    let (mut monitor, mut client) = (Client::connect_to(("127.0.0.1", redis.port())), Client::connect(&terrace));
    monitor.ask("MONITOR", "+OK\r\n");
    client.say("HELLO 3");
    client.say("MULTI");
    WITH_PATTERNS.iter().filter(|request| request.contains("SCAN ")).for_each(|request| client.say(request));
    client.say("EXEC");
    WITH_PATTERNS.iter().for_each(|request| client.say(request));
    client.say("PUBLISH pre:slow:x m");
    client.say("QUIT");
    let replies = client.drain();
    assert_eq!(replies.matches("aslow:x").count(), 2, "{replies}");
    assert!(!replies.contains("-ERR"), "{replies}");
    let mut seen = String::new();
    redis.run("ECHO end");
    while !seen.contains("\"ECHO\" \"end\"") {
        seen.push_str(&monitor.line());
    }
    for sent in ["\"HSCAN\" \"h\" \"0\" \"MATCH\" \"*\"", "\"PSUBSCRIBE\" \"*\" \"pre*\"", "\"a*\""] {
        assert!(seen.contains(sent), "{sent} in {seen}");
    }
    assert!(!seen.contains("slow?x"), "{seen}");
}

/// A new command with a pattern needs an entry above.
#[test]
fn all_commands_with_patterns_are_known() {
    let terrace = Terrace::start(config_patient("none"));
    let docs: Vec<Value> = cmd("COMMAND").arg("DOCS").query(&mut connection(terrace.resp())).unwrap();
    let mut names = BTreeSet::new();
    for pair in docs.chunks(2) {
        let (Value::BulkString(name), doc) = (&pair[0], &pair[1]) else { panic!("{pair:?}") };
        let Value::Array(fields) = doc else { panic!("{doc:?}") };
        let mentions = |field: &[Value]| {
            [b"arguments".to_vec(), b"subcommands".to_vec()].map(Value::BulkString).contains(&field[0])
                && format!("{:?}", field[1]).contains("pattern")
        };
        if fields.chunks(2).any(mentions) {
            names.insert(String::from_utf8_lossy(name).into_owned());
        }
    }
    let known = WITH_PATTERNS.iter().map(|request| request.split(' ').next().unwrap().to_lowercase());
    // ACL GETUSER only mentions the patterns of users.
    let others = ["acl", "sort", "sort_ro"].map(str::to_owned);
    // The documentation of Redis does not call the argument of CONFIG GET a pattern.
    names.insert("config".into());
    assert_eq!(names, known.chain(others).collect());
}

/// Letters of elements and patterns: small, so that many patterns match.
fn word(rng: &mut Rng, letters: &[u8], most: usize) -> Vec<u8> {
    (0..rng.usize(1..=most)).map(|_| *rng.choice(letters).unwrap()).collect()
}

fn fill(rng: &mut Rng, redis: &mut Connection, key: &str, count: usize) {
    let fields: BTreeSet<Vec<u8>> = (0..count).map(|_| word(rng, b"abc:*", 8)).collect();
    let pairs: Vec<(Vec<u8>, f64)> = fields.into_iter().map(|field| (field, rng.f64())).collect();
    let () = redis.hset_multiple(format!("h{key}"), &pairs).unwrap();
    let scored: Vec<(f64, &Vec<u8>)> = pairs.iter().map(|(field, score)| (*score, field)).collect();
    let () = redis.zadd_multiple(format!("z{key}"), &scored).unwrap();
    let () = redis.sadd(format!("s{key}"), pairs.iter().map(|(field, _)| field).collect::<Vec<_>>()).unwrap();
}

/// Scans a whole key with a pattern on both servers, page by page. Returns the number of elements.
fn compare_scans(rng: &mut Rng, terrace: &mut Connection, redis: &mut Connection, key: &str) -> usize {
    let command = format!("{}SCAN", key[..1].to_uppercase());
    let (pattern, mut cursor, mut found) = (word(rng, b"ab:**?[]^\\", 6), 0, 0);
    let in_transaction = rng.bool();
    loop {
        let mut scan = cmd(&command);
        scan.arg(key).arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(50);
        let ours: Value = match in_transaction {
            true => ::redis::pipe().atomic().add_command(scan.clone()).query::<Vec<Value>>(terrace).unwrap().remove(0),
            false => scan.query(terrace).unwrap(),
        };
        let theirs: Value = scan.query(redis).unwrap();
        assert_eq!(ours, theirs, "{command} {key} {cursor} MATCH {}", pattern.escape_ascii());
        let Value::Array(parts) = theirs else { panic!("{theirs:?}") };
        cursor = ::redis::from_redis_value(parts[0].clone()).unwrap();
        let Value::Array(elements) = &parts[1] else { panic!("{parts:?}") };
        found += elements.len();
        if cursor == 0 {
            return found;
        }
    }
}

#[test]
fn scans_of_elements_reply_as_redis_does() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let server = RedisServer::start();
    let node = over(&server);
    let mut redis = server.connect();
    fill(&mut rng, &mut redis, "-small", 20);
    fill(&mut rng, &mut redis, "-large", 1_000);
    let () = redis.sadd("s-integers", (0..200).collect::<Vec<_>>()).unwrap();
    let keys = ["h-small", "h-large", "s-small", "s-large", "s-integers", "z-small", "z-large", "h-none"];
    let mut found = 0;
    for protocol in [2, 3] {
        let (mut terrace, mut redis) = (connection(node.resp()), server.connect());
        for connection in [&mut terrace, &mut redis] {
            let _hello: Value = cmd("HELLO").arg(protocol).query(connection).unwrap();
        }
        for _ in 0..40 {
            for key in keys {
                found += compare_scans(&mut rng, &mut terrace, &mut redis, key);
            }
        }
    }
    assert!(found > 1_000, "{found} elements");
    let mut client = Client::connect(&node);
    client.ask("SET string v", "+OK\r\n");
    client.ask("HSCAN string 0 MATCH *a", "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n");
    client.ask("SSCAN s-small x MATCH *a", "-ERR invalid cursor\r\n");
    client.ask("ZSCAN z-small 0 MATCH *a COUNT x", "-ERR value is not an integer or out of range\r\n");
    client.ask("HSCAN h-small 0 MATCH *a FOO", "-ERR syntax error\r\n");
    let long = format!("HSCAN h-small 0 MATCH {}", "*a".repeat(513));
    client.ask(&long, "-ERR the pattern has 1026 bytes; at most 1024 are allowed\r\n");
    client.ask("MULTI", "+OK\r\n");
    client.ask(&long, "+QUEUED\r\n");
    client.ask("SSCAN none 0 MATCH *a", "+QUEUED\r\n");
    let replies = "*2\r\n-ERR the pattern has 1026 bytes; at most 1024 are allowed\r\n*2\r\n$1\r\n0\r\n*0\r\n";
    client.ask("EXEC", replies);
}

#[test]
fn parameters_of_redis_are_found_by_patterns() {
    let redis = RedisServer::start();
    let terrace = over(&redis);
    let mut theirs: BTreeSet<(String, String)> = BTreeSet::new();
    for pattern in ["hash-max-*", "*listpack-value", "Lua-Time-Limit"] {
        let found: Vec<(String, String)> = redis.ask(&[b"CONFIG", b"GET", pattern.as_bytes()]);
        theirs.extend(found);
    }
    let mut config = cmd("CONFIG");
    config.arg("GET").arg("hash-max-*").arg("*listpack-value").arg("Lua-Time-Limit");
    let ours: Vec<(String, String)> = config.query(&mut connection(terrace.resp())).unwrap();
    assert_eq!(ours.into_iter().collect::<BTreeSet<_>>(), theirs);
}

/// The number, the pattern and the channel of each message until the last one.
fn messages(
    connection: &mut Connection,
    patterns: &[Vec<u8>],
    publish: impl FnOnce(),
) -> Vec<(usize, Vec<u8>, Vec<u8>)> {
    let mut pubsub = connection.as_pubsub();
    patterns.iter().for_each(|pattern| pubsub.psubscribe(pattern).unwrap());
    pubsub.subscribe("end").unwrap();
    publish();
    let mut found = Vec::new();
    loop {
        let message = pubsub.get_message().unwrap();
        if message.get_channel_name() == "end" {
            return found;
        }
        let number = String::from_utf8_lossy(message.get_payload_bytes()).parse().unwrap();
        found.push((number, message.get_pattern().unwrap(), message.get_channel::<Vec<u8>>().unwrap()));
    }
}

/// A subscriber of Terrace receives what a subscriber of Redis receives, in the order in which it was published.
#[test]
fn random_patterns_receive_the_messages_that_redis_sends() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let server = RedisServer::start();
    let (node, none) = (over(&server), Terrace::start(config_patient("none")));
    let patterns: BTreeSet<Vec<u8>> = (0..60).map(|_| word(&mut rng, b"ab:**?[]^\\", 6)).collect();
    // At least one pattern matches every channel.
    let patterns: Vec<Vec<u8>> =
        patterns.into_iter().chain([b"*".to_vec()]).collect::<BTreeSet<_>>().into_iter().collect();
    let channels: Vec<Vec<u8>> = (0..200).map(|_| word(&mut rng, b"ab:*", 6)).collect();
    let publish = |address: &str| {
        let mut publisher = connection(address);
        for (number, channel) in channels.iter().enumerate() {
            let () = publisher.publish(channel, number).unwrap();
        }
        let () = publisher.publish("end", "").unwrap();
    };
    let redis = format!("127.0.0.1:{}", server.port());
    let mut theirs = messages(&mut server.connect(), &patterns, || publish(&redis));
    theirs.sort();
    assert!(theirs.len() > channels.len(), "{} messages", theirs.len());
    for (node, publisher) in [(&node, &redis[..]), (&node, node.resp()), (&none, none.resp())] {
        let mut ours = messages(&mut connection(node.resp()), &patterns, || publish(publisher));
        assert!(ours.is_sorted_by_key(|(number, ..)| *number), "the order of {ours:?}");
        ours.sort();
        assert_eq!(ours, theirs);
    }
    for server in [&redis[..], none.resp()] {
        let mut left = connection(server);
        eventually("no subscription remains", || cmd("PUBSUB").arg("NUMPAT").query::<usize>(&mut left).unwrap() == 0);
    }
}

/// Patterns of one client that share a subscription in Redis end one by one.
#[test]
fn patterns_end_one_by_one() {
    let redis = RedisServer::start();
    let terrace = over(&redis);
    let mut client = Client::connect(&terrace);
    let confirmed = |word: &str, name: &str, count: usize| {
        format!("*3\r\n${}\r\n{word}\r\n${}\r\n{name}\r\n:{count}\r\n", word.len(), name.len())
    };
    for (count, name) in ["n*s", "n*", "n*w?", "n*s"].into_iter().enumerate() {
        client.ask(&format!("PSUBSCRIBE {name}"), &confirmed("psubscribe", name, (count + 1).min(3)));
    }
    let message =
        |pattern: &str| format!("*4\r\n$8\r\npmessage\r\n${}\r\n{pattern}\r\n$4\r\nnews\r\n$1\r\nm\r\n", pattern.len());
    let numpat = || redis.ask::<usize>(&[b"PUBSUB", b"NUMPAT"]);
    redis.run("PUBLISH news m");
    ["n*", "n*s", "n*w?"].iter().for_each(|pattern| client.expect(&message(pattern)));
    client.ask("PUNSUBSCRIBE n*", &confirmed("punsubscribe", "n*", 2));
    client.ask("PUNSUBSCRIBE x*", &confirmed("punsubscribe", "x*", 2));
    redis.run("PUBLISH news m");
    ["n*s", "n*w?"].iter().for_each(|pattern| client.expect(&message(pattern)));
    client.ask("PUNSUBSCRIBE n*s", &confirmed("punsubscribe", "n*s", 1));
    assert_eq!(numpat(), 1);
    client.ask("PUNSUBSCRIBE", &confirmed("punsubscribe", "n*w?", 0));
    assert_eq!(numpat(), 0);
    // The connection to Redis remains usable.
    client.ask("PSUBSCRIBE n*s", &confirmed("psubscribe", "n*s", 1));
    redis.run("PUBLISH news m");
    client.expect(&message("n*s"));
}

/// Number of slow patterns: their comparison with one key takes longer than some requests of other clients.
const SLOW: usize = 100;

/// Subscribes to patterns that take long to compare with keys of the letter `a`, and to one that matches them.
fn slow_subscriber(terrace: &Terrace) -> Client {
    let mut subscriber = Client::connect(terrace);
    let mut request = format!("*{}\r\n$10\r\nPSUBSCRIBE\r\n", SLOW + 2).into_bytes();
    for number in 0..SLOW {
        let pattern = format!("*{}[bc]{number:04}*", "a".repeat(1_000));
        request.extend(format!("${}\r\n{pattern}\r\n", pattern.len()).bytes());
    }
    request.extend(b"$3\r\n?*a\r\n");
    subscriber.send(&request);
    (0..(SLOW + 1) * 6).for_each(|_| drop(subscriber.line()));
    for (count, channel) in ["__keyspace@0__:short", "plain"].iter().enumerate() {
        let confirmed =
            format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:{}\r\n", channel.len(), SLOW + 2 + count);
        subscriber.ask(&format!("SUBSCRIBE {channel}"), &confirmed);
    }
    subscriber
}

fn has_received(client: &Client) -> bool {
    client.0.set_nonblocking(true).unwrap();
    let peeked = client.0.peek(&mut [0]);
    client.0.set_nonblocking(false).unwrap();
    peeked.is_ok()
}

/// The events of a long key wait for slow patterns. The writer and other clients do not, and later messages do not
/// overtake them.
#[test]
fn slow_patterns_delay_only_their_client() {
    let mut config = config_patient("none");
    config.server.workers = 1;
    let terrace = Terrace::start(config);
    let mut subscriber = slow_subscriber(&terrace);
    let (mut writer, mut other) = (Client::connect(&terrace), Client::connect(&terrace));
    let long = "a".repeat(65_536);
    writer.ask(&format!("SET {long} v"), "+OK\r\n");
    writer.ask("SET short v", "+OK\r\n");
    // A transaction has exclusive access to the cache, so that its messages do not wait for their number of receivers.
    let requests = ["PING", "MULTI"].into_iter().chain(["PUBLISH plain t"; 10]).chain(["EXEC"]);
    other.send(&requests.flat_map(request).collect::<Vec<u8>>());
    (0..12).for_each(|_| assert!(other.line().starts_with('+')));
    (0..11).for_each(|_| assert!(other.line().starts_with(['*', ':'])));
    assert!(!has_received(&subscriber), "the comparison has ended already");
    // Otherwise, PUBLISH waits at most 1 s.
    other.say("PUBLISH plain m");
    assert!(other.line().starts_with(':'));
    let event = |channel: &str, message: &str| {
        format!("*3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n${}\r\n{message}\r\n", channel.len(), message.len())
    };
    let channel = format!("__keyspace@0__:{long}");
    subscriber
        .expect(&format!("*4\r\n$8\r\npmessage\r\n$3\r\n?*a\r\n${}\r\n{channel}\r\n$3\r\nset\r\n", channel.len()));
    subscriber.expect(&event("__keyspace@0__:short", "set"));
    (0..10).for_each(|_| subscriber.expect(&event("plain", "t")));
    subscriber.expect(&event("plain", "m"));
    assert_eq!(ask(&terrace, "PUBLISH plain m"), ":1\r\n+OK\r\n");
    subscriber.expect(&event("plain", "m"));
}

/// The messages that wait for slow patterns are limited.
#[test]
fn a_client_that_cannot_compare_its_messages_is_closed() {
    let terrace = Terrace::start(config_patient("none"));
    let mut subscriber = slow_subscriber(&terrace);
    let mut writer = Client::connect(&terrace);
    // Each event has more than 64 KiB, and 32 MiB may wait.
    const SETS: usize = 600;
    let set = request(&format!("SET {} v", "a".repeat(65_536)));
    writer.send(&set.repeat(SETS));
    (0..SETS).for_each(|_| writer.expect("+OK\r\n"));
    eventually("the subscriber is closed", || writer.number("PUBSUB NUMPAT") == 0);
    let mut rest = Vec::new();
    let _reset = subscriber.0.read_to_end(&mut rest);
    writer.ask("PING", "+PONG\r\n");
}

/// Number of keys or channels of 60,000 bytes: comparing all of them takes much longer than a transaction may list.
const LONG_NAMES: usize = 600;

fn long_name(number: usize) -> String {
    format!("{number:06}{}", "a".repeat(60_000))
}

/// A listing within a transaction ends before other clients have waited for long; the other commands run.
fn listings_of_a_transaction_end(terrace: &Terrace) {
    let (mut client, mut subscriber) = (connection(terrace.resp()), connection(terrace.resp()));
    let mut subscriber = subscriber.as_pubsub();
    for number in 0..LONG_NAMES {
        let _: () = client.set(long_name(number), 1).unwrap();
        subscriber.subscribe(long_name(number)).unwrap();
    }
    let slow = format!("*{}[bc]*", "a?".repeat(400));
    for listing in ["KEYS", "PUBSUB CHANNELS"] {
        let mut raw = Client::connect(terrace);
        for command in ["MULTI", &format!("{listing} {slow}"), "SET other v", "EXEC", "QUIT"] {
            raw.say(command);
        }
        let replies = raw.drain();
        assert!(replies.contains("*2\r\n-ERR the listing takes longer than 1s"), "{listing}: {replies}");
        assert!(replies.ends_with("transactions\r\n+OK\r\n+OK\r\n"), "{listing}: {replies}");
    }
}

#[test]
fn listings_of_a_transaction_end_over_the_embedded_store() {
    listings_of_a_transaction_end(&over_embedded().node);
}

#[test]
fn listings_of_a_transaction_end_without_l2() {
    listings_of_a_transaction_end(&over_none().node);
}
