//! Load leases over the RESP port: every reply, every option, invalid arguments, callers that wait, transactions, events.

use std::io::Write;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use terrace::proto::{
    FillRequest, FillResponse, NotFilledReason, cache_client::CacheClient, fill_request::Loaded, fill_response,
};

use crate::support::{
    eventually,
    grpc::{block_on, connect},
    node::{node, over_embedded, over_none, over_redis},
    redis::RedisServer,
    resp::{Client, ask, info_field, request},
    terrace::{Terrace, config, config_patient},
};

/// Reads one reply: the elements of an array, or one element. `nil` stands for a null; numbers are shown as text.
fn reply(client: &mut Client) -> Vec<String> {
    let line = client.line();
    let text = line[1..].trim_end().to_owned();
    match &line[..1] {
        "*" => (0..text.parse().unwrap_or(0)).flat_map(|_| reply(client)).collect(),
        "$" if text == "-1" => vec!["nil".to_owned()],
        "$" => vec![client.line().trim_end().to_owned()],
        "_" => vec!["nil".to_owned()],
        "-" => vec![line.trim_end().to_owned()],
        _ => vec![text],
    }
}

fn call(client: &mut Client, command: &str) -> Vec<String> {
    client.say(command);
    reply(client)
}

/// Calls a command whose reply must be this one; `<N` stands for a number from 0 to N, `*` for any text.
fn expect(client: &mut Client, command: &str, expected: &str) {
    let got = call(client, command);
    assert_matches(&got, expected, command);
}

fn assert_matches(got: &[String], expected: &str, command: &str) {
    let expected: Vec<&str> = expected.split(' ').collect();
    let is_same = |(got, expected): (&String, &&str)| match expected.strip_prefix('<') {
        Some(most) => got.parse::<u64>().is_ok_and(|number| number <= most.parse().unwrap()),
        None => *expected == "*" || got == expected,
    };
    assert!(
        got.len() == expected.len() && got.iter().zip(&expected).all(is_same),
        "{command}: {got:?}, expected {expected:?}"
    );
}

/// Takes the lease of an absent key and returns its token.
fn lease(client: &mut Client, command: &str) -> String {
    let got = call(client, command);
    assert!(got[0] == "load" && !got[1].is_empty(), "{command}: {got:?}");
    got[1].clone()
}

/// Waits until fills can be fenced: the first lease over a Redis creates a mark that all nodes have to see.
fn wait_until_fenced(node: &Terrace) {
    let mut client = Client::connect(node);
    let mut round = 0;
    eventually("leases have tokens", || {
        round += 1;
        let got = call(&mut client, &format!("TERRACE.LEASE warm:{round}"));
        got[0] == "load" && !got[1].is_empty()
    });
}

fn wait_until_blocked(node: &Terrace, count: usize) {
    eventually("the callers wait", || info_field(node, "blocked_clients") == count.to_string());
}

fn over_each(test: impl Fn(&Terrace)) {
    for world in [over_none(), over_embedded(), over_redis()] {
        wait_until_fenced(&world.node);
        test(&world.node);
    }
}

#[test]
fn each_reply_has_its_form() {
    over_each(|node| {
        let (mut first, mut second) = (Client::connect(node), Client::connect(node));
        expect(&mut first, "TERRACE.LEASE k", "load * 10000 miss");
        expect(&mut second, "TERRACE.LEASE k WAIT 0", "busy <600000 nil");
        expect(&mut first, "TERRACE.FILL k garbage v", "not_filled lease_lost");
        expect(&mut first, "TERRACE.FILL k '' v", "not_filled lease_lost");
        let token = lease(&mut first, "TERRACE.LEASE v");
        expect(&mut first, &format!("TERRACE.FILL v {token} value"), "stored");
        expect(&mut first, &format!("TERRACE.FILL v {token} other"), "not_filled lease_lost");
        expect(&mut second, "TERRACE.LEASE v", "hit value nil");
        first.ask("GET v", "$5\r\nvalue\r\n");
        first.ask("PTTL v", ":-1\r\n");
        let token = lease(&mut first, "TERRACE.LEASE a");
        expect(&mut first, &format!("TERRACE.ABSENT a {token} PX 60000"), "stored");
        expect(&mut second, "TERRACE.LEASE a", "absent <60000");
        second.ask("GET a", "$-1\r\n");
        let token = lease(&mut first, "TERRACE.LEASE f");
        expect(&mut first, &format!("TERRACE.RELEASE f {token} FAILED down RETRY 60000"), "OK");
        expect(&mut second, "TERRACE.LEASE f", "failed down <60000");
        let token = lease(&mut first, "TERRACE.LEASE r");
        expect(&mut first, &format!("TERRACE.RELEASE r {token}"), "OK");
        lease(&mut second, "TERRACE.LEASE r");
        // The first client's lease has ended already: the second client keeps its lease.
        expect(&mut first, &format!("TERRACE.RELEASE r {token}"), "OK");
        expect(&mut first, "TERRACE.LEASE r WAIT 0", "busy <600000 nil");
    });
}

#[test]
fn a_stale_value_is_returned_while_one_client_loads() {
    over_each(|node| {
        let (mut first, mut second) = (Client::connect(node), Client::connect(node));
        let token = lease(&mut first, "TERRACE.LEASE s STALE 50000");
        expect(&mut first, &format!("TERRACE.FILL s {token} old PX 10000 STALE 50000"), "stored");
        let ttl = first.number("PTTL s");
        assert!((50_000..=60_000).contains(&ttl), "{ttl}");
        expect(&mut first, "TERRACE.LEASE s STALE 50000", "hit old <10000");
        first.ask("PEXPIRE s 40000", ":1\r\n");
        let granted = call(&mut first, "TERRACE.LEASE s STALE 50000 LEASE 200000");
        assert_matches(&granted, "stale old * 200000", "the first reader");
        expect(&mut second, "TERRACE.LEASE s STALE 50000", "stale old nil nil");
        expect(&mut second, "TERRACE.LEASE s", "hit old <40000");
        expect(&mut first, &format!("TERRACE.FILL s {} new PX 90000", granted[2]), "stored");
        expect(&mut second, "TERRACE.LEASE s STALE 50000", "hit new <40000");
        // A client that requires a refresh gets the fresh value and the lease.
        let forced = call(&mut second, "TERRACE.LEASE s REFRESH");
        assert_matches(&forced, "stale new * *", "a forced refresh");
        assert!(!forced[2].is_empty());
    });
}

#[test]
fn each_option_has_its_effect() {
    over_each(|node| {
        let (mut first, mut second) = (Client::connect(node), Client::connect(node));
        let nonce = "00112233445566778899aabbccddeeff";
        let token = lease(&mut first, &format!("TERRACE.LEASE n NONCE {nonce}"));
        let again = lease(&mut second, &format!("terrace.lease n nonce {}", nonce.to_uppercase()));
        assert_eq!(token, again, "the same nonce receives the same lease");
        expect(&mut second, "TERRACE.LEASE n WAIT 0 NONCE ffffffffffffffffffffffffffffffff", "busy * *");
        expect(&mut second, &format!("TERRACE.FILL n {again} v PX 60000"), "stored");
        expect(&mut first, "TERRACE.LEASE n", "hit v <60000");
        // The short lease ends while the second client waits.
        expect(&mut first, "TERRACE.LEASE m LEASE 100", "load * 100 miss");
        expect(&mut second, "TERRACE.LEASE m WAIT 300000 LEASE 5000", "load * 5000 takeover");
        let token = lease(&mut first, "TERRACE.LEASE t TAGS 2 a b");
        let refused = call(&mut first, &format!("TERRACE.FILL t {token} v TAGS 1 a"));
        assert_eq!(refused, ["-ERR tags differ from the tags of the request that returned the token"]);
        expect(&mut first, &format!("TERRACE.FILL t {token} v TAGS 2 b a"), "stored");
        expect(&mut first, "TERRACE.TAGS t", "a b");
        expect(&mut first, "TERRACE.LEASE t TAGS 2 a b", "hit v nil");
        let token = lease(&mut first, "TERRACE.LEASE u TAGS 1 a");
        expect(&mut first, &format!("TERRACE.ABSENT u {token} PX 60000 TAGS 1 a"), "stored");
        expect(&mut first, "TERRACE.LEASE u", "absent <60000");
        first.say("TERRACE.INVALIDATE TAG a");
        reply(&mut first);
        lease(&mut first, "TERRACE.LEASE u");
        lease(&mut first, "TERRACE.LEASE t");
    });
}

#[test]
fn a_change_between_grant_and_fill_is_not_overwritten() {
    over_each(|node| {
        let mut client = Client::connect(node);
        for (at, change) in ["SET @ newer", "DEL @", "TERRACE.INVALIDATE PATTERN @*"].iter().enumerate() {
            let key = format!("c:{at}");
            let token = lease(&mut client, &format!("TERRACE.LEASE {key}"));
            call(&mut client, &change.replace('@', &key));
            let got = call(&mut client, &format!("TERRACE.FILL {key} {token} loaded"));
            assert!(got[0] == "not_filled" && ["lease_lost", "changed", "invalidated"].contains(&&*got[1]), "{got:?}");
            let value = call(&mut client, &format!("GET {key}"));
            assert_eq!(value, [if at == 0 { "newer" } else { "nil" }], "{change}");
        }
    });
}

#[test]
fn a_change_directly_in_redis_is_not_overwritten() {
    let redis = RedisServer::start();
    let node = node(&redis.url());
    wait_until_fenced(&node);
    let mut client = Client::connect(&node);
    let token = lease(&mut client, "TERRACE.LEASE k");
    redis.run("SET k newer");
    expect(&mut client, &format!("TERRACE.FILL k {token} loaded"), "not_filled changed");
    eventually("the newer value is read", || call(&mut client, "GET k") == ["newer"]);
}

#[test]
fn invalid_arguments_name_what_was_seen_and_what_is_accepted() {
    let node = Terrace::start(config());
    let mut client = Client::connect(&node);
    let (long, odd) = ("x".repeat(257), "0".repeat(31));
    let tags = |count: usize| (0..count).map(|tag| format!(" t{tag}")).collect::<String>();
    for (command, error) in [
        ("TERRACE.LEASE".to_owned(), "-ERR wrong number of arguments for 'terrace.lease' command"),
        ("TERRACE.FILL k t".to_owned(), "-ERR wrong number of arguments for 'terrace.fill' command"),
        (
            "TERRACE.LEASE k PX 5".to_owned(),
            "-ERR syntax error in TERRACE.LEASE at 'PX'; expected one of STALE, WAIT, LEASE, TAGS, REFRESH, NONCE",
        ),
        (
            "TERRACE.FILL k t v WAIT 5".to_owned(),
            "-ERR syntax error in TERRACE.FILL at 'WAIT'; expected one of PX, STALE, TAGS",
        ),
        (
            "TERRACE.ABSENT k t STALE 5".to_owned(),
            "-ERR syntax error in TERRACE.ABSENT at 'STALE'; expected one of PX, TAGS",
        ),
        ("TERRACE.LEASE k WAIT".to_owned(), "-ERR WAIT has no value; expected an argument after WAIT"),
        ("TERRACE.LEASE k WAIT x".to_owned(), "-ERR WAIT is 'x'; expected 0 to 300000 milliseconds"),
        ("TERRACE.LEASE k WAIT 300001".to_owned(), "-ERR WAIT is 300001; expected 0 to 300000 milliseconds"),
        ("TERRACE.LEASE k LEASE 99".to_owned(), "-ERR LEASE is 99; expected 100 to 300000 milliseconds"),
        ("TERRACE.LEASE k STALE -1".to_owned(), "-ERR STALE is -1; expected 0 to 3153600000000 milliseconds"),
        ("TERRACE.FILL k t v PX 0".to_owned(), "-ERR PX is 0; expected 1 to 3153600000000 milliseconds"),
        ("TERRACE.LEASE k REFRESH refresh".to_owned(), "-ERR REFRESH occurs twice; expected each option at most once"),
        (
            format!("TERRACE.LEASE k NONCE {odd}"),
            "-ERR NONCE is '0000000000000000000000000000000' (31 bytes); expected 32 hexadecimal digits",
        ),
        (
            "TERRACE.LEASE k TAGS 2 a".to_owned(),
            "-ERR TAGS is '2' with 1 arguments after it; expected the number of tags that follow",
        ),
        (
            "TERRACE.LEASE k TAGS -1 a".to_owned(),
            "-ERR TAGS is '-1' with 1 arguments after it; expected the number of tags that follow",
        ),
        (format!("TERRACE.LEASE k TAGS 17{}", tags(17)), "-ERR the request has 17 tags; an entry has at most 16"),
        (
            format!("TERRACE.FILL k {} v", "A".repeat(700)),
            "-ERR the token has 525 bytes; a token has at most 512 bytes",
        ),
        (
            "TERRACE.RELEASE k t BROKEN".to_owned(),
            "-ERR syntax error in TERRACE.RELEASE at 'BROKEN'; expected no option or FAILED message [RETRY ms]",
        ),
        (
            "TERRACE.RELEASE k t FAILED".to_owned(),
            "-ERR syntax error in TERRACE.RELEASE at 'FAILED'; expected no option or FAILED message [RETRY ms]",
        ),
        (
            "TERRACE.RELEASE k t FAILED m RETRY".to_owned(),
            "-ERR syntax error in TERRACE.RELEASE at 'FAILED'; expected no option or FAILED message [RETRY ms]",
        ),
        (
            "TERRACE.RELEASE k t FAILED m RETRY 3600001".to_owned(),
            "-ERR RETRY is 3600001; expected 0 to 3600000 milliseconds",
        ),
        (
            format!("TERRACE.RELEASE k t FAILED {long}"),
            "-ERR the message has 257 bytes; a message has at most 256 bytes",
        ),
    ] {
        assert_eq!(call(&mut client, &command), [error], "{command}");
    }
    let error = &call(&mut client, "TERRACE.RELEASE k t FAILED a\\nb")[0];
    assert!(error.starts_with("-ERR the message has a control character at byte 1"), "{error}");
    let error = &call(&mut client, "TERRACE.ABSENT k t")[0];
    assert!(error.starts_with("-ERR a negative answer requires "), "{error}");
    expect(&mut client, "TERRACE.LEASE __terrace:x", "*");
    for (db, shown) in [(1, "L1"), (2, "the learned state")] {
        client.ask(&format!("SELECT {db}"), "+OK\r\n");
        for (command, arguments) in [("LEASE", "k"), ("FILL", "k t v"), ("ABSENT", "k t"), ("RELEASE", "k t")] {
            let error = format!("-ERR TERRACE.{command} is only available in db 0; db {db} shows {shown}");
            assert_eq!(call(&mut client, &format!("TERRACE.{command} {arguments}")), [error]);
        }
    }
}

#[test]
fn a_waiting_caller_receives_the_result_of_the_load() {
    over_each(|node| {
        let (mut leader, mut waiting) = (Client::connect(node), Client::connect(node));
        for (end, expected) in [
            ("TERRACE.FILL @ value PX 60000", "hit value <60000"),
            ("TERRACE.ABSENT @ PX 60000", "absent <60000"),
            ("TERRACE.RELEASE @ FAILED down", "failed down <2000"),
            ("TERRACE.RELEASE @", "load * * miss"),
        ] {
            let key = format!("w:{}", expected.split(' ').next().unwrap());
            let token = lease(&mut leader, &format!("TERRACE.LEASE {key} LEASE 300000"));
            waiting.say(&format!("TERRACE.LEASE {key} WAIT 300000"));
            wait_until_blocked(node, 1);
            expect(&mut leader, &end.replace('@', &format!("{key} {token}")), "*");
            assert_matches(&reply(&mut waiting), expected, end);
        }
    });
}

/// Each client waits on its own connection, and a lost connection of the leader hands the lease over.
#[test]
fn connections_that_end_leave_nothing_behind() {
    over_each(|node| {
        let (mut leader, mut waiting) = (Client::connect(node), Client::connect(node));
        lease(&mut leader, "TERRACE.LEASE k LEASE 300000");
        waiting.say("TERRACE.LEASE k WAIT 300000");
        wait_until_blocked(node, 1);
        // The commands behind the one that waits are answered after it.
        waiting.say("PING");
        drop(leader);
        let got = reply(&mut waiting);
        assert!(got[0] == "load" && !got[1].is_empty(), "{got:?}");
        waiting.expect("+PONG\r\n");
        let mut other = Client::connect(node);
        other.say("TERRACE.LEASE k WAIT 300000");
        wait_until_blocked(node, 1);
        drop(other);
        wait_until_blocked(node, 0);
    });
}

#[test]
fn a_waiting_caller_can_be_unblocked_and_is_answered_at_the_drain() {
    let mut node = Terrace::start(config());
    let (mut leader, mut waiting, mut third) = (Client::connect(&node), Client::connect(&node), Client::connect(&node));
    let id = waiting.number("CLIENT ID");
    lease(&mut leader, "TERRACE.LEASE k LEASE 300000");
    for (word, expected) in [("", "*-1\r\n"), (" ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")] {
        waiting.say("TERRACE.LEASE k WAIT 300000");
        wait_until_blocked(&node, 1);
        third.ask(&format!("CLIENT UNBLOCK {id}{word}"), ":1\r\n");
        waiting.expect(expected);
    }
    waiting.say("TERRACE.LEASE k WAIT 300000");
    wait_until_blocked(&node, 1);
    node.begin_stop();
    assert_matches(&reply(&mut waiting), "busy <600000 nil", "a waiting caller");
    waiting.expect_end();
}

#[test]
fn a_transaction_may_fill_and_not_lease() {
    over_each(|node| {
        let mut client = Client::connect(node);
        client.ask("MULTI", "+OK\r\n");
        client.ask("TERRACE.LEASE k", "-ERR Command not allowed inside a transaction\r\n");
        client.ask("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n");
        let (filled, released) = (lease(&mut client, "TERRACE.LEASE k"), lease(&mut client, "TERRACE.LEASE r"));
        client.ask("MULTI", "+OK\r\n");
        for command in [
            &format!("TERRACE.FILL k {filled} v PX 60000"),
            "SET other v",
            &format!("TERRACE.RELEASE r {released}"),
            "TERRACE.FILL x token v",
        ] {
            client.ask(command, "+QUEUED\r\n");
        }
        assert_eq!(call(&mut client, "EXEC"), ["stored", "OK", "OK", "not_filled", "lease_lost"]);
        client.ask("GET k", "$1\r\nv\r\n");
        lease(&mut client, "TERRACE.LEASE r");
    });
}

#[test]
fn the_commands_appear_in_events_monitor_slowlog_and_the_catalog() {
    let node = Terrace::start(config_patient("none"));
    let (mut client, mut events, mut monitor) =
        (Client::connect(&node), Client::connect(&node), Client::connect(&node));
    let token = lease(&mut client, "TERRACE.LEASE k");
    events.ask("SUBSCRIBE __keyspace@0__:k", "*3\r\n$9\r\nsubscribe\r\n$16\r\n__keyspace@0__:k\r\n:1\r\n");
    monitor.ask("MONITOR", "+OK\r\n");
    expect(&mut client, &format!("TERRACE.FILL k {token} v"), "stored");
    assert_eq!(reply(&mut events), ["message", "__keyspace@0__:k", "set"]);
    assert!(monitor.line().contains(&format!("\"TERRACE.FILL\" \"k\" \"{token}\" \"v\"")));
    client.ask("CONFIG SET slowlog-log-slower-than 0", "+OK\r\n");
    expect(&mut client, "TERRACE.LEASE k", "hit v nil");
    let slow = call(&mut client, "SLOWLOG GET 1");
    assert!(slow.contains(&"TERRACE.LEASE".to_owned()), "{slow:?}");
    for command in ["LEASE k", "FILL k t v", "ABSENT k t", "RELEASE k t"] {
        assert_eq!(call(&mut client, &format!("COMMAND GETKEYS TERRACE.{command}")), ["k"]);
    }
    let docs = call(&mut client, "COMMAND DOCS TERRACE.LEASE");
    for word in ["STALE", "WAIT", "LEASE", "TAGS", "REFRESH", "NONCE"] {
        assert!(docs.contains(&word.to_owned()), "{word} in {docs:?}");
    }
    let info = call(&mut client, "COMMAND INFO TERRACE.LEASE");
    assert!(info.contains(&"blocking".to_owned()) && info.contains(&"no_multi".to_owned()), "{info:?}");
    assert!(ask(&node, "TERRACE.HELP").contains("+TERRACE.RELEASE\r\n"));
}

#[test]
fn nulls_are_those_of_the_protocol() {
    let node = Terrace::start(config());
    let mut client = Client::connect(&node);
    client.ask("SET k v", "+OK\r\n");
    client.ask("TERRACE.LEASE k", "*3\r\n$3\r\nhit\r\n$1\r\nv\r\n$-1\r\n");
    client.send(&request("HELLO 3"));
    while client.line() != "*0\r\n" {}
    client.ask("TERRACE.LEASE k", "*3\r\n$3\r\nhit\r\n$1\r\nv\r\n_\r\n");
}

#[test]
fn a_lease_of_one_port_is_filled_on_the_other() {
    over_each(|node| {
        let mut client = Client::connect(node);
        let token = lease(&mut client, "TERRACE.LEASE k");
        let token: bytes::Bytes = BASE64_URL_SAFE_NO_PAD.decode(token).unwrap().into();
        let request =
            FillRequest { key: "k".into(), token, loaded: Some(Loaded::Value("v".into())), ..FillRequest::default() };
        let fill = |request: FillRequest| -> FillResponse {
            block_on(async { CacheClient::new(connect(node.grpc()).await).fill(request).await }).unwrap().into_inner()
        };
        assert!(matches!(fill(request.clone()).result, Some(fill_response::Result::Stored(_))));
        let Some(fill_response::Result::NotFilled(not)) = fill(request).result else { panic!("it is filled already") };
        assert_eq!(not.reason(), NotFilledReason::LeaseLost);
        expect(&mut client, "TERRACE.LEASE k", "hit v nil");
    });
}

/// Random arguments never stop the server, and each request has one reply.
#[test]
fn random_arguments_are_answered() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let node = Terrace::start(config());
    let mut client = Client::connect(&node);
    let words = [
        "k", "STALE", "WAIT", "0", "LEASE", "100", "TAGS", "1", "2", "REFRESH", "NONCE", "PX", "FAILED", "RETRY", "''",
        "\\xff",
    ];
    for round in 0..2_000 {
        let command = ["LEASE", "FILL", "ABSENT", "RELEASE"][random.usize(..4)];
        let mut line = format!("TERRACE.{command} k");
        (0..random.usize(..8)).for_each(|_| {
            line.push(' ');
            line.push_str(words[random.usize(..words.len())]);
        });
        // An accepted lease without WAIT 0 would wait for the previous one.
        if command == "LEASE" && !line.contains("WAIT") {
            line.push_str(" WAIT 0");
        }
        client.0.write_all(&request(&line)).unwrap();
        assert!(!reply(&mut client).is_empty(), "seed {seed}: {line}");
        client.ask(&format!("ECHO {round:04}"), &format!("$4\r\n{round:04}\r\n"));
    }
}
