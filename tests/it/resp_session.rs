//! RESP sessions: transactions among concurrent writers, pub/sub, MONITOR, blocking commands, CLIENT KILL, database 2,
//! and the commands of Terrace itself.

use std::{io::Write, path::Path, thread};

use redis::Commands;
use terrace::{
    clock::Clock,
    config::{Given, Sources, load},
    server::Server,
};

use crate::support::{
    eventually,
    proxy::{FaultProxy, Faults, Link, Who},
    redis::RedisServer,
    resp::{Client, ask, connection, info_field},
    terrace::{Terrace, config_embedded, config_patient},
};

fn embedded(dir: &Path) -> Terrace {
    Terrace::start(config_embedded(dir))
}

fn over(redis: &RedisServer) -> Terrace {
    let terrace = Terrace::start(config_patient(redis.url()));
    eventually("L1 is open", || info_field(&terrace, "coherence_l1_open") == "1");
    terrace
}

/// Transactions and single writes add to the same key: no write is lost, and no reader sees half a transaction.
fn transactions_stand_alone(terrace: &Terrace) {
    const ROUNDS: usize = 100;
    let write = |commands: &'static [&'static str], replies: &'static str| {
        let mut client = Client::connect(terrace);
        thread::spawn(move || {
            for _ in 0..ROUNDS {
                commands.iter().for_each(|command| client.say(command));
                let lines = replies.parse().unwrap();
                (0..lines).for_each(|_| drop(client.line()));
            }
        })
    };
    ask(terrace, "MSET a 0 b 0");
    let writers = [
        write(&["MULTI", "INCRBY a 1", "INCRBY b -1", "EXEC"], "6"),
        write(&["MULTI", "INCRBY a 1", "INCRBY b -1", "EXEC"], "6"),
        write(&["INCRBY c 1"], "1"),
    ];
    let mut reader = Client::connect(terrace);
    while writers.iter().any(|writer| !writer.is_finished()) {
        reader.say("MULTI");
        reader.say("GET a");
        reader.say("GET b");
        reader.say("EXEC");
        let lines: Vec<String> = (0..8).map(|_| reader.line()).collect();
        let number = |at: usize| lines[at].trim().parse::<i64>().unwrap();
        assert_eq!(number(5) + number(7), 0, "{lines:?}");
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_eq!(reader.number("INCRBY a 0"), 2 * ROUNDS as i64);
    assert_eq!(reader.number("INCRBY b 0"), -2 * ROUNDS as i64);
    assert_eq!(reader.number("INCRBY c 0"), ROUNDS as i64);
}

/// Increments by WATCH, GET, MULTI, SET, EXEC, repeated after nil: each counts once.
fn watched_increments_are_not_lost(terrace: &Terrace) {
    const ROUNDS: usize = 40;
    ask(terrace, "SET w 0");
    let increment = |client: &mut Client| loop {
        client.ask("WATCH w", "+OK\r\n");
        client.say("GET w");
        let _length = client.line();
        let next = client.line().trim().parse::<i64>().unwrap() + 1;
        client.ask("MULTI", "+OK\r\n");
        client.ask(&format!("SET w {next}"), "+QUEUED\r\n");
        client.say("EXEC");
        if client.line() == "*1\r\n" {
            client.expect("+OK\r\n");
            return;
        }
    };
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let mut client = Client::connect(terrace);
            thread::spawn(move || (0..ROUNDS).for_each(|_| increment(&mut client)))
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert!(ask(terrace, "GET w").contains(&(3 * ROUNDS).to_string()));
}

#[test]
fn transactions_over_none() {
    let terrace = Terrace::start(config_patient("none"));
    transactions_stand_alone(&terrace);
    watched_increments_are_not_lost(&terrace);
}

#[test]
fn transactions_over_the_embedded_store() {
    let dir = tempfile::tempdir().unwrap();
    let terrace = embedded(dir.path());
    transactions_stand_alone(&terrace);
    watched_increments_are_not_lost(&terrace);
}

#[test]
fn transactions_over_redis() {
    let redis = RedisServer::start();
    let terrace = over(&redis);
    transactions_stand_alone(&terrace);
    watched_increments_are_not_lost(&terrace);
    // A write directly to Redis breaks the watch as well.
    let mut client = Client::connect(&terrace);
    client.ask("WATCH w", "+OK\r\n");
    redis.run("SET w straight");
    client.ask("MULTI", "+OK\r\n");
    client.ask("GET w", "+QUEUED\r\n");
    client.ask("EXEC", "*-1\r\n");
    // L1 has dropped the copies of keys that the transaction wrote.
    client.ask("GET w", "$8\r\nstraight\r\n");
    client.ask("MULTI", "+OK\r\n");
    client.ask("SET w new", "+QUEUED\r\n");
    client.ask("EXEC", "*1\r\n+OK\r\n");
    client.ask("GET w", "$3\r\nnew\r\n");
}

/// A client writes directly to Redis and the push that announces it is late. A transaction that reads the old copy would
/// overwrite that write.
#[test]
fn a_watched_key_is_read_from_redis_while_the_invalidation_link_is_late() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::start(redis.port());
    let terrace = Terrace::start(config_patient(proxy.url()));
    let mut direct = connection(&format!("127.0.0.1:{}", redis.port()));
    let mut client = Client::connect(&terrace);
    for round in 0..3 {
        direct.set::<_, _, ()>("w", format!("old:{round}")).unwrap();
        eventually("L1 has a copy", || {
            client.say("GET w");
            let _length = client.line();
            client.line() == format!("old:{round}\r\n")
                && ask(&terrace, "SELECT 1 | GET w").contains(&format!("old:{round}"))
        });
        proxy.set(Who::Link(Link::Invalidation), Faults::held());
        direct.set::<_, _, ()>("w", "new").unwrap();
        client.ask("WATCH w", "+OK\r\n");
        client.ask("GET w", "$3\r\nnew\r\n");
        direct.set::<_, _, ()>("w", "newer").unwrap();
        client.ask("MULTI", "+OK\r\n");
        client.ask("SET w lost", "+QUEUED\r\n");
        client.ask("EXEC", "*-1\r\n");
        client.ask("GET w", "$5\r\nnewer\r\n");
        proxy.heal();
    }
}

#[test]
fn channel_names_are_limited() {
    let redis = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    for terrace in [over(&redis), embedded(dir.path())] {
        let mut client = Client::connect(&terrace);
        let (longest, longer) = ("c".repeat(65_536), "c".repeat(65_537));
        client.ask(&format!("PUBLISH {longest} m"), ":0\r\n");
        let refusal = "-ERR the channel name has 65537 bytes; at most 65536 are allowed\r\n";
        client.ask(&format!("PUBLISH {longer} m"), refusal);
        client.ask(&format!("SUBSCRIBE a {longer}"), refusal);
        // The channel of a key of the maximum size.
        let own = format!("__keyspace@0__:{}", "k".repeat(65_536));
        client.ask(&format!("SUBSCRIBE {own}"), &format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{own}\r\n:1\r\n", own.len()));
    }
}

/// A message reaches the subscribers of all matching patterns, also of more patterns than one look at the list takes.
#[test]
fn many_patterns_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let terrace = embedded(dir.path());
    let mut subscriber = Client::connect(&terrace);
    for number in 0..2_500 {
        let pattern = format!("x{number:04}*[{}]", number % 10);
        let confirmed = format!("*3\r\n$10\r\npsubscribe\r\n$9\r\n{pattern}\r\n:{}\r\n", number + 1);
        subscriber.ask(&format!("PSUBSCRIBE {pattern}"), &confirmed);
    }
    for number in [0, 1_023, 1_024, 1_025, 2_047, 2_048, 2_499] {
        let mut publisher = Client::connect(&terrace);
        let channel = format!("x{number:04}:{}", number % 10);
        publisher.ask(&format!("PUBLISH {channel} m"), ":1\r\n");
        let pattern = format!("x{number:04}*[{}]", number % 10);
        subscriber.expect(&format!("*4\r\n$8\r\npmessage\r\n$9\r\n{pattern}\r\n$7\r\n{channel}\r\n$1\r\nm\r\n"));
    }
}

#[test]
fn policies_hold_within_a_transaction() {
    let redis = RedisServer::start();
    let mut config = config_patient(redis.url());
    config.policies = vec![terrace::cache::policy::Policy {
        default_ttl: Some(std::time::Duration::from_secs(1000)),
        max_ttl: Some(std::time::Duration::from_secs(5000)),
        ..terrace::cache::policy::Policy::of(terrace::glob::Glob::new(b"session:*").unwrap())
    }];
    let terrace = Terrace::start(config);
    eventually("L2 answers", || ask(&terrace, "DBSIZE").starts_with(':'));
    let replies = ask(&terrace, "MULTI | SET session:1 v | SET session:2 v EX 90000 | SET other v | EXEC");
    assert!(replies.ends_with("*3\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n"), "{replies}");
    let life = |key: &[u8]| redis.ask::<i64>(&[b"TTL", key]);
    assert!((900..=1000).contains(&life(b"session:1")));
    assert!((4900..=5000).contains(&life(b"session:2")));
    assert_eq!(life(b"other"), -1);
    let replies = ask(&terrace, "MSETNX session:3 v session:4 w");
    assert!(replies.starts_with(":1"), "{replies}");
    assert!((900..=1000).contains(&life(b"session:4")));
}

fn messages_arrive(terrace: &Terrace) {
    let mut listener = Client::connect(terrace);
    listener.ask("SUBSCRIBE news", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    listener.ask("PSUBSCRIBE n?ws", "*3\r\n$10\r\npsubscribe\r\n$4\r\nn?ws\r\n:2\r\n");
    listener.say("GET k");
    assert!(listener.line().starts_with("-ERR Can't execute 'get': only (P|S)SUBSCRIBE"));
    let mut third = Client::connect(terrace);
    third.say("HELLO 3");
    while third.line() != "*0\r\n" {}
    third.ask("SUBSCRIBE news", ">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    third.ask("PING", "+PONG\r\n");
    let mut speaker = Client::connect(terrace);
    speaker.ask("PUBLISH news hello", ":3\r\n");
    listener.expect("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
    listener.expect("*4\r\n$8\r\npmessage\r\n$4\r\nn?ws\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
    third.expect(">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
    speaker.ask("PUBSUB NUMSUB news", "*2\r\n$4\r\nnews\r\n:2\r\n");
    speaker.ask("PUBSUB NUMPAT", ":1\r\n");
    third.ask("UNSUBSCRIBE", ">3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:0\r\n");
    drop(listener);
    eventually("who is gone listens no more", || {
        speaker.say("PUBLISH news again");
        speaker.line() == ":0\r\n"
    });
}

#[test]
fn messages_arrive_within_the_process() {
    messages_arrive(&Terrace::start(config_patient("none")));
}

#[test]
fn messages_arrive_through_redis() {
    let mut redis = RedisServer::start();
    let terrace = over(&redis);
    messages_arrive(&terrace);
    let mut listener = Client::connect(&terrace);
    listener.ask("SUBSCRIBE news", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    redis.run("PUBLISH news straight");
    listener.expect("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$8\r\nstraight\r\n");
    // A subscriber that may have missed messages is disconnected.
    redis.kill();
    listener.drain();
}

#[test]
fn changes_are_told_whoever_makes_them() {
    let redis = RedisServer::start();
    let terrace = over(&redis);
    let mut listener = Client::connect(&terrace);
    listener.say("PSUBSCRIBE __terrace__:* __keyevent@0__:*");
    (0..12).for_each(|_| drop(listener.line()));
    // Redis announces only the prefixes that this node may cache.
    redis.run("SET straight 1");
    let told = "*4\r\n$8\r\npmessage\r\n$13\r\n__terrace__:*\r\n$23\r\n__terrace__:invalidated\r\n$8\r\nstraight\r\n";
    listener.expect(told);
    let mut writer = Client::connect(&terrace);
    writer.ask("RPUSH list a", ":1\r\n");
    let mut seen = String::new();
    while !(seen.contains("__keyevent@0__:rpush\r\n$4\r\nlist") && seen.contains("invalidated\r\n$4\r\nlist")) {
        seen.push_str(&listener.line());
    }
}

#[test]
fn who_does_not_read_messages_is_closed() {
    let terrace = Terrace::start(config_patient("none"));
    let mut listener = Client::connect(&terrace);
    listener.ask("SUBSCRIBE big", "*3\r\n$9\r\nsubscribe\r\n$3\r\nbig\r\n:1\r\n");
    let mut speaker = Client::connect(&terrace);
    let mut publish = format!("*3\r\n$7\r\nPUBLISH\r\n$3\r\nbig\r\n${}\r\n", 4 << 20).into_bytes();
    publish.resize(publish.len() + (4 << 20), b'x');
    publish.extend(b"\r\n");
    eventually("it listens no more", || {
        speaker.0.write_all(&publish).unwrap();
        speaker.line() == ":0\r\n"
    });
    listener.drain();
}

#[test]
fn monitor_shows_requests_and_no_secrets() {
    let terrace = Terrace::start(config_patient("none"));
    let mut monitor = Client::connect(&terrace);
    monitor.ask("MONITOR", "+OK\r\n");
    ask(
        &terrace,
        "AUTH default secret | HELLO 2 AUTH default secret | CONFIG GET save | GET k | MULTI | SET k v | EXEC",
    );
    let shown: Vec<String> = (0..6).map(|_| monitor.line()).collect();
    let all = shown.concat();
    assert!(!all.contains("secret") && !all.contains("CONFIG"), "{all}");
    for part in ["\"AUTH\" \"(redacted)\" \"(redacted)\"", "\"GET\" \"k\"", "\"MULTI\"", "\"SET\" \"k\" \"v\""] {
        assert!(all.contains(part), "{part} in {all}");
    }
    assert!(shown[0].starts_with('+') && shown[0].contains(" [0 127.0.0.1:"), "{all}");
    let mut other = Client::connect(&terrace);
    other.say("CLIENT LIST");
    eventually("MONITOR is a flag", || other.line().contains("flags=O"));
}

#[test]
fn a_blocked_command_ends_with_its_time_its_client_or_at_a_word() {
    let redis = RedisServer::start();
    let terrace = over(&redis);
    let mut blocked = Client::connect(&terrace);
    let id = blocked.number("CLIENT ID");
    let mut other = Client::connect(&terrace);
    let wait_until_blocked = || {
        eventually("it is blocked", || ask(&terrace, &format!("CLIENT LIST ID {id}")).contains("flags=b"));
    };
    blocked.ask("BLPOP list 0.01", "*-1\r\n");
    // Commands that arrive during the block are answered afterwards.
    blocked.say("BLPOP list 0");
    blocked.say("PING");
    wait_until_blocked();
    other.ask("RPUSH list a", ":1\r\n");
    blocked.expect("*2\r\n$4\r\nlist\r\n$1\r\na\r\n+PONG\r\n");
    blocked.say("BLPOP list 0");
    wait_until_blocked();
    other.ask(&format!("CLIENT UNBLOCK {id}"), ":1\r\n");
    blocked.expect("*-1\r\n");
    blocked.say("BLPOP list 0");
    wait_until_blocked();
    other.ask(&format!("CLIENT UNBLOCK {id} ERROR"), ":1\r\n");
    blocked.expect("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
    other.ask(&format!("CLIENT UNBLOCK {id}"), ":0\r\n");
    blocked.say("BLPOP list 0");
    let blocked_below = || redis.ask::<String>(&[b"INFO", b"clients"]).contains("blocked_clients:1");
    eventually("it waits in Redis", blocked_below);
    drop(blocked);
    eventually("nobody waits in Redis for a client that is gone", || !blocked_below());
    other.ask("RPUSH list b", ":1\r\n");
    other.ask("LLEN list", ":1\r\n");
}

#[test]
fn clients_are_killed_by_id_address_and_type() {
    let terrace = Terrace::start(config_patient("none"));
    let mut first = Client::connect(&terrace);
    let mut second = Client::connect(&terrace);
    let mut listener = Client::connect(&terrace);
    listener.ask("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    let id = first.number("CLIENT ID");
    let address = second.0.local_addr().unwrap();
    let mut killer = Client::connect(&terrace);
    killer.ask(&format!("CLIENT KILL ID {id}"), ":1\r\n");
    first.drain();
    killer.ask(&format!("CLIENT KILL {address}"), "+OK\r\n");
    second.drain();
    killer.ask("CLIENT KILL TYPE pubsub", ":1\r\n");
    listener.drain();
    killer.ask("CLIENT KILL TYPE normal SKIPME yes", ":0\r\n");
    killer.ask("CLIENT KILL TYPE normal SKIPME no", ":1\r\n");
    killer.drain();
}

#[test]
fn db_2_is_empty_and_read_only() {
    let terrace = Terrace::start(config_patient("none"));
    let mut client = Client::connect(&terrace);
    client.ask("SET k v", "+OK\r\n");
    client.ask("SELECT 2", "+OK\r\n");
    client.ask("GET k", "$-1\r\n");
    client.ask("MGET k", "*1\r\n$-1\r\n");
    client.ask("DBSIZE", ":0\r\n");
    client.ask("KEYS *", "*0\r\n");
    client.ask("SCAN 0", "*2\r\n$1\r\n0\r\n*0\r\n");
    client.ask("TYPE k", "+none\r\n");
    client.ask("OBJECT FREQ k", "$-1\r\n");
    client.ask("MEMORY USAGE k", "$-1\r\n");
    client.ask("RANDOMKEY", "$-1\r\n");
    for command in ["SET k v", "DEL k", "FLUSHDB", "RENAME k l", "EXPIRE k 1", "WATCH k", "SETRANGE k 0 x"] {
        client.ask(command, "-ERR cannot write to db 2, which shows the learned state; use db 0\r\n");
    }
    client.ask("LPUSH l a", "-ERR LPUSH is only available in db 0; db 2 shows the learned state\r\n");
    client.ask("SELECT 1", "+OK\r\n");
    client.ask("LPUSH l a", "-ERR LPUSH is only available in db 0; db 1 shows L1\r\n");
}

#[test]
fn own_commands_tell_of_the_tiers() {
    let dir = tempfile::tempdir().unwrap();
    let terrace = embedded(dir.path());
    ask(&terrace, "SET a 1 EX 1000 | SET b 22 | MGET a b");
    ask(&terrace, "GET a | GET a");
    let info = ask(&terrace, "TERRACE.INFO a");
    for part in ["$2\r\nl1\r\n*14\r\n", "$4\r\nhits\r\n:2\r\n", "$2\r\nl2\r\n*6\r\n", "$6\r\npolicy\r\n$4\r\nnone\r\n"]
    {
        assert!(info.contains(part), "{part} in {info}");
    }
    assert!(ask(&terrace, "TERRACE.INFO none").starts_with("$-1\r\n"));
    assert!(ask(&terrace, "TERRACE.TOP 1").starts_with("*1\r\n*2\r\n$1\r\na\r\n:3\r\n"));
    assert!(ask(&terrace, "TERRACE.TOP BYTES").starts_with("*2\r\n*2\r\n$1\r\na\r\n:3\r\n*2\r\n$1\r\nb\r\n:2\r\n"));
    assert!(ask(&terrace, "GET none | TERRACE.TOP MISSES").starts_with("$-1\r\n*1\r\n*2\r\n$4\r\nnone\r\n:1\r\n"));
    assert!(ask(&terrace, "TERRACE.TOP TIME").starts_with("*3\r\n"));
    assert!(
        ask(&terrace, "TERRACE.TOP FOO")
            .starts_with("-ERR unknown ranking for TERRACE.TOP; expected READS, BYTES, MISSES or TIME")
    );
    assert!(ask(&terrace, "TERRACE.TIERS").contains("$5\r\nstore\r\n$8\r\nembedded\r\n"));
    assert!(ask(&terrace, "TERRACE.HELP").contains("+TERRACE.TOP\r\n"));
    // Inspecting a key does not count as a read.
    assert!(ask(&terrace, "OBJECT FREQ a").starts_with(":2\r\n"));
}

#[test]
fn slow_commands_are_kept_and_latencies_told() {
    let terrace = Terrace::start(config_patient("none"));
    let replies = ask(&terrace, "CONFIG SET slowlog-log-slower-than 0 | CLIENT SETNAME me | SET k v | SLOWLOG LEN");
    assert!(replies.ends_with(":3\r\n+OK\r\n"), "{replies}");
    let entries = ask(&terrace, "SLOWLOG GET 10");
    assert!(
        entries.contains("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n") && entries.contains("$2\r\nme\r\n"),
        "{entries}"
    );
    let long = format!("SET {} v", "k".repeat(200));
    assert!(ask(&terrace, &format!("{long} | SLOWLOG GET 2")).contains("... (72 more bytes)"));
    let info = ask(&terrace, "INFO everything");
    assert!(info.contains("latency_percentiles_usec_set:p50="), "{info}");
    assert!(ask(&terrace, "LATENCY HISTOGRAM set").contains("histogram_usec"));
    let reset = ask(&terrace, "CONFIG RESETSTAT | INFO commandstats");
    assert!(!reset.contains("cmdstat_set:"), "{reset}");
}

#[test]
fn each_get_is_logged_where_every_command_is() {
    let redis = RedisServer::start();
    for terrace in ["none".to_owned(), redis.url()].map(|url| Terrace::start(config_patient(url))) {
        let gets = "GET a | GET a | GET absent | GET a";
        // On a busy machine any command may exceed the default threshold.
        ask(&terrace, &format!("CONFIG SET slowlog-log-slower-than -1 | SET a v | {gets}"));
        let replies = ask(&terrace, &format!("CONFIG SET slowlog-log-slower-than 0 | {gets} | SLOWLOG LEN"));
        // CONFIG SET itself and four GETs, whether L1 had the value or not.
        assert!(replies.ends_with(":5\r\n+OK\r\n"), "{replies}");
        let entries = ask(&terrace, "SLOWLOG GET 10");
        assert_eq!(entries.matches("*2\r\n$3\r\nGET\r\n$1\r\na\r\n").count(), 3, "{entries}");
    }
}

/// A server with a configuration from flags, as `terrace serve` has.
fn start_with_settings(flags: &[(&'static str, &str)]) -> Terrace {
    let given =
        |(key, value): &(&'static str, &str)| Given { key, flag: (*key).to_owned(), value: (*value).to_owned() };
    let flags = flags.iter().map(given).collect();
    let loaded = load(&Sources { flags, ..Sources::default() }).unwrap();
    Terrace::run(Server::bind(loaded.config, loaded.settings, Clock::real()).unwrap())
}

#[test]
fn config_set_changes_what_a_reload_would_change() {
    let any = "127.0.0.1:0";
    let terrace =
        start_with_settings(&[("grpc.addr", any), ("resp.addr", any), ("http.addr", any), ("l2.url", "none")]);
    let expect = |commands: &str, wanted: &str| {
        let replies = ask(&terrace, commands);
        assert!(replies.contains(wanted), "{commands}: {replies}");
    };
    expect("CONFIG GET l2.read_timeout", "$4\r\n50ms\r\n");
    let both =
        "CONFIG SET l2.read_timeout 75ms resp.serve_stale true | CONFIG GET l2.read_* | CONFIG GET resp.serve_stale";
    expect(both, "+OK\r\n*2\r\n$15\r\nl2.read_timeout\r\n$4\r\n75ms\r\n*2\r\n$16\r\nresp.serve_stale\r\n$4\r\ntrue");
    // The change takes effect, under Terrace's name and under Redis's.
    expect("CONFIG SET server.max_value 3 | SET k four", "+OK\r\n-ERR value of 4 bytes exceeds max_value (3 bytes)");
    expect("CONFIG SET proto-max-bulk-len 4 | SET k four | CONFIG GET server.max_value", "+OK\r\n+OK\r\n*2");
    // Either all changes apply or none, with the reason.
    for (refused, why) in [
        ("l2.read_timeout soon", "(possibly related to argument 'l2.read_timeout') - \"soon\" is not a duration"),
        ("l2.read_timeout 0ms", "is out of range"),
        (
            "l2.read_timeout 80ms l1.size 1GiB",
            "(possibly related to argument 'l1.size') - changing l1.size requires a restart",
        ),
        (
            "maxclients 5",
            "(possibly related to argument 'server.max_connections') - changing server.max_connections requires a restart",
        ),
        ("l2.read_timeuot 80ms", "unknown setting; did you mean l2.read_timeout?"),
        ("server.max_value 100MiB", "do not fit in grpc.max_message"),
        ("l2.read_timeout 80ms slowlog-max-len x", "couldn't be parsed into an integer"),
    ] {
        expect(&format!("CONFIG SET {refused}"), why);
        expect("CONFIG GET l2.read_timeout", "75ms");
    }
}

#[test]
fn a_transaction_over_redis_makes_no_value_too_long() {
    let redis = RedisServer::start();
    let mut over = config_patient(redis.url());
    over.server.max_value = 10;
    let mut alone = config_patient("none");
    alone.server.max_value = 10;
    let (over, alone) = (Terrace::start(over), Terrace::start(alone));
    eventually("L2 answers", || ask(&over, "DBSIZE").starts_with(':'));
    for commands in [
        "SET k 12345 | MULTI | APPEND k 67890 | APPEND k 1 | APPEND new abc | GET k | EXEC | GET k",
        "MULTI | SET k 1 | SETRANGE k 9 x | SETRANGE k 9 xy | SETRANGE k 10 '' | STRLEN k | EXEC | GET k",
        "MULTI | SETRANGE k -1 x | SETRANGE k x x | APPEND k | EXEC",
        "MULTI | SETRANGE k -1 x | SETRANGE k x x | EXEC",
    ] {
        assert_eq!(ask(&over, commands), ask(&alone, commands), "{commands}");
    }
    let replies = ask(&over, "SET k 1234567890 | MULTI | APPEND k 1 | EXEC");
    assert!(replies.contains("*1\r\n-ERR value of 11 bytes exceeds max_value (10 bytes)\r\n"), "{replies}");
    redis.run("LPUSH list 1");
    let replies = ask(&over, "MULTI | APPEND list x | EXEC");
    assert!(replies.contains("*1\r\n-WRONGTYPE Operation against a key"), "{replies}");
}
