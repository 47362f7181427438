//! The RESP port apart from single replies: split input, limits, AUTH, both databases, counters, slow readers, the
//! drain.

use std::{
    io::{Read, Write},
    net::Shutdown,
    process::Command,
};

use crate::support::{
    eventually,
    node::over_none,
    redis::RedisServer,
    resp::{Client, ask, connection, converse, info_field, request},
    terrace::{Terrace, config, config_embedded, config_patient},
};

fn over(redis: &RedisServer) -> Terrace {
    let terrace = Terrace::start(config_patient(redis.url()));
    eventually("L1 is open", || info_field(&terrace, "coherence_l1_open") == "1");
    terrace
}

#[test]
fn every_split_gives_the_same_replies() {
    let terrace = Terrace::start(config());
    let commands =
        "SET k \\r\\n\\0 | GET k | MGET k none k | PING | FOO bar | INCR k | GETRANGE k 0 0 | SET n 1 | INCR n | QUIT";
    let mut bytes: Vec<u8> = b"ping\r\nset i \"a b\"\r\n".to_vec();
    bytes.extend(commands.split(" | ").flat_map(request));
    let whole = converse(terrace.resp(), &bytes);
    assert!(whole.ends_with(b":2\r\n+OK\r\n"), "{}", whole.escape_ascii());
    for at in 1..bytes.len() {
        let mut client = Client::connect(&terrace);
        client.send(&bytes[..at]);
        client.send(&bytes[at..]);
        let mut replies = Vec::new();
        client.0.read_to_end(&mut replies).unwrap();
        assert_eq!(replies.escape_ascii().to_string(), whole.escape_ascii().to_string(), "split at {at}");
    }
    let mut client = Client::connect(&terrace);
    bytes.iter().for_each(|byte| client.send(&[*byte]));
    let mut replies = Vec::new();
    client.0.read_to_end(&mut replies).unwrap();
    assert_eq!(replies, whole);
}

#[test]
fn what_is_too_large_is_refused_and_the_connection_goes_on() {
    let terrace = Terrace::start(config());
    let mut client = Client::connect(&terrace);
    let max = 8 << 20;
    let set = |length: usize| {
        let mut bytes = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${length}\r\n").into_bytes();
        bytes.resize(bytes.len() + length, b'x');
        bytes.extend(b"\r\n");
        bytes
    };
    client.send(&set(max));
    client.expect("+OK\r\n");
    client.send(&set(max + 1));
    client.expect("-ERR value of 8388609 bytes exceeds max_value (8388608 bytes)\r\n");
    client.ask("STRLEN k", ":8388608\r\n");
    client.ask("APPEND k x", "-ERR value of 8388609 bytes exceeds max_value (8388608 bytes)\r\n");
    // Nine values of 8 MiB exceed the limit of a request.
    client.send(b"*9\r\n");
    (0..9).for_each(|_| client.send(&set(max)[20..]));
    client.send(b"*1\r\n$4\r\nPING\r\n");
    client.expect("-ERR the request exceeds 67108864 bytes\r\n+PONG\r\n");
    client.ask("PING", "+PONG\r\n");
    let key = "k".repeat(65537);
    client.ask(&format!("GET {key}"), "-ERR the key has 65537 bytes; a key has 1 to 65536 bytes\r\n");
    client.ask("GET __terrace:x", "-ERR reserved prefix: keys that start with __terrace: are internal to Terrace\r\n");
    client
        .ask("SET __terrace:x 1", "-ERR reserved prefix: keys that start with __terrace: are internal to Terrace\r\n");
}

#[test]
fn a_protocol_error_ends_its_connection_and_no_other() {
    let terrace = Terrace::start(config());
    let mut other = Client::connect(&terrace);
    let mut client = Client::connect(&terrace);
    client.send(b"PING\r\n*65537\r\n");
    client.expect("+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n");
    client.expect_end();
    let mut client = Client::connect(&terrace);
    client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.expect_end();
    // HTTP/1.0 needs no Host line; the body is not executed.
    for line in ["PUT / HTTP/1.0", "DELETE /x HTTP/1.0", "patch / HTTP/1.1", "OPTIONS * HTTP/1.1"] {
        let mut client = Client::connect(&terrace);
        client.send(format!("{line}\r\n\r\nSET forged 1\r\n").as_bytes());
        client.expect_end();
    }
    other.ask("GET forged", "$-1\r\n");
    other.ask("PING", "+PONG\r\n");
}

#[test]
fn a_password_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    let mut config = config();
    config.resp.password_file = Some(file);
    let terrace = Terrace::start(config);
    let mut client = Client::connect(&terrace);
    client.ask("GET k", "-NOAUTH Authentication required.\r\n");
    client.ask("PING", "-NOAUTH Authentication required.\r\n");
    client.ask("FOO", "-ERR unknown command 'FOO', with args beginning with: \r\n");
    client.ask("AUTH wrong", "-WRONGPASS invalid username-password pair or user is disabled.\r\n");
    client.ask("AUTH default secret", "+OK\r\n");
    client.ask("SET k v", "+OK\r\n");
    client.ask("RESET", "+RESET\r\n");
    client.ask("GET k", "-NOAUTH Authentication required.\r\n");
    client.ask("AUTH secret", "+OK\r\n");
    client.ask("GET k", "$1\r\nv\r\n");

    let hello = ask(&terrace, "HELLO 3");
    assert!(hello.starts_with("-NOAUTH HELLO must be called with the client already authenticated"), "{hello}");
    let hello = ask(&terrace, "HELLO 3 AUTH default secret SETNAME me | CLIENT GETNAME");
    assert!(hello.starts_with("%7\r\n") && hello.ends_with("$2\r\nme\r\n+OK\r\n"), "{hello}");

    let fault = |bytes: &[u8]| String::from_utf8_lossy(&converse(terrace.resp(), bytes)).into_owned();
    assert_eq!(fault(b"*11\r\n"), "-ERR Protocol error: unauthenticated multibulk length\r\n");
    assert_eq!(fault(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n"), "-ERR Protocol error: unauthenticated bulk length\r\n");
    // An idle connection is closed.
    Client::connect(&terrace).expect_end();
}

#[test]
fn db_1_shows_what_l1_holds() {
    let dir = tempfile::tempdir().unwrap();
    let terrace = Terrace::start(config_embedded(dir.path()));
    let mut client = Client::connect(&terrace);
    client.ask("SET a 1 EX 1000", "+OK\r\n");
    client.ask("SET b 2", "+OK\r\n");
    client.ask("GET a", "$1\r\n1\r\n");
    client.ask("SELECT 1", "+OK\r\n");
    client.ask("GET a", "$1\r\n1\r\n");
    client.ask("GET b", "$-1\r\n");
    client.ask("MGET a b", "*2\r\n$1\r\n1\r\n$-1\r\n");
    client.ask("EXISTS a b", ":1\r\n");
    client.ask("DBSIZE", ":1\r\n");
    client.ask("TYPE a", "+string\r\n");
    client.ask("STRLEN a", ":1\r\n");
    client.ask("GETRANGE a 0 -1", "$1\r\n1\r\n");
    client.ask("KEYS *", "*1\r\n$1\r\na\r\n");
    client.ask("SCAN 0 COUNT 100", "*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n");
    client.ask("SCAN 0 TYPE hash", "*2\r\n$1\r\n0\r\n*0\r\n");
    client.ask("RANDOMKEY", "$1\r\na\r\n");
    client.ask("TTL b", ":-2\r\n");
    for command in ["SET a 2", "INCR a", "APPEND a x", "EXPIRE a 1", "PERSIST a", "GETDEL a", "GETEX a", "MSET a 1"] {
        client.ask(command, "-ERR cannot write to db 1, which shows L1; use db 0\r\n");
    }
    client.ask("DEL a b", ":1\r\n");
    client.ask("GET a", "$-1\r\n");
    client.ask("SELECT 0", "+OK\r\n");
    client.ask("MGET a b", "*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
    client.ask("SELECT 1", "+OK\r\n");
    client.ask("DBSIZE", ":2\r\n");
    client.ask("FLUSHDB", "+OK\r\n");
    client.ask("DBSIZE", ":0\r\n");
    client.ask("SELECT 0", "+OK\r\n");
    client.ask("DBSIZE", ":2\r\n");
    let none = Terrace::start(config());
    let refused = ask(&none, "SET k v | SELECT 1 | DEL k | FLUSHDB | GET k");
    assert_eq!(
        refused.matches("-ERR l2.url is \"none\", so L1 has the only copy; delete keys in db 0\r\n").count(),
        2,
        "{refused}"
    );
    assert!(refused.ends_with("$1\r\nv\r\n+OK\r\n"), "{refused}");
    client.ask("SELECT 3", "-ERR DB index is out of range\r\n");
}

#[test]
fn each_key_of_a_user_read_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let terrace = Terrace::start(config_embedded(dir.path()));
    let counts = || ["l1_hits", "l2_hits", "l2_misses"].map(|name| info_field(&terrace, name).parse::<u64>().unwrap());
    ask(&terrace, "MSET a 1 b 2 c 3 d 4");
    for (commands, wanted) in [
        ("GET a", [0, 1, 0]),
        ("GET a | GET a", [2, 0, 0]),
        ("GET none", [0, 0, 1]),
        ("MGET a b b none", [1, 2, 1]),
        ("GETRANGE a 0 0 | GETRANGE none 0 0", [1, 0, 1]),
        ("GETEX c EX 100 | GETEX none", [0, 1, 1]),
        ("GETDEL d | GETDEL d", [0, 1, 1]),
        ("EXISTS a none | STRLEN a | TTL a | TYPE a | SCAN 0 | KEYS * | SET a 1 | SET a 1 GET", [0, 0, 0]),
        ("SELECT 1 | GET a | GET b | MGET a b", [0, 0, 0]),
        ("CLIENT NO-TOUCH on | GET b | GET none | MGET b | GETEX b", [0, 0, 0]),
    ] {
        let before = counts();
        ask(&terrace, commands);
        let after = counts();
        let added: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        assert_eq!(added, wanted, "hits in L1, hits in L2, misses of {commands}");
    }
    let [l1, l2, misses] = counts();
    assert_eq!(info_field(&terrace, "keyspace_hits"), (l1 + l2).to_string());
    assert_eq!(info_field(&terrace, "keyspace_misses"), misses.to_string());
}

#[test]
fn gets_in_a_row_are_one_read_below() {
    let redis = RedisServer::start();
    let terrace = over(&redis);
    let keys = 200;
    let reads = || {
        let info: String = redis.ask(&[b"INFO", b"stats"]);
        let line = info.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    for number in 0..keys {
        redis.ask::<()>(&[b"SET", format!("k{number}").as_bytes(), number.to_string().as_bytes()]);
    }
    let gets: Vec<String> = (0..keys).map(|number| format!("GET k{number}")).collect();
    let before = reads();
    let replies = ask(&terrace, &gets.join(" | "));
    let added = reads() - before;
    let wanted: String =
        (0..keys).map(|number| number.to_string()).map(|text| format!("${}\r\n{text}\r\n", text.len())).collect();
    assert_eq!(replies, wanted + "+OK\r\n");
    assert!(added < keys / 2, "{added} reads of Redis for {keys} GETs in one pipeline");
}

#[test]
fn who_reads_late_gets_everything_in_order() {
    let terrace = Terrace::start(config());
    let mut client = Client::connect(&terrace);
    let (length, gets) = (1 << 20, 48);
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${length}\r\n").as_bytes());
    client.send(&vec![b'x'; length]);
    client.send(b"\r\n");
    client.expect("+OK\r\n");
    for number in 0..gets {
        client.send(&request("GET k"));
        client.send(&request(&format!("ECHO {number}")));
    }
    for number in 0..gets {
        client.expect(&format!("${length}\r\n"));
        let mut value = vec![0; length + 2];
        client.0.read_exact(&mut value).unwrap();
        assert!(value[..length].iter().all(|byte| *byte == b'x'));
        let text = number.to_string();
        client.expect(&format!("${}\r\n{text}\r\n", text.len()));
    }
    client.ask("PING", "+PONG\r\n");
}

#[test]
fn a_client_that_sends_all_and_closes_its_side_is_answered() {
    let terrace = Terrace::start(config());
    let mut client = Client::connect(&terrace);
    client.send(&"SET k v\r\nGET k\r\n".repeat(5_000).into_bytes());
    client.0.shutdown(Shutdown::Write).unwrap();
    let mut replies = String::new();
    client.0.read_to_string(&mut replies).unwrap();
    assert_eq!(replies, "+OK\r\n$1\r\nv\r\n".repeat(5_000));
}

#[test]
fn the_drain_answers_what_was_received_and_closes() {
    let mut terrace = Terrace::start(config());
    let mut idle = Client::connect(&terrace);
    idle.ask("PING", "+PONG\r\n");
    let mut busy = Client::connect(&terrace);
    busy.ask("SET k v", "+OK\r\n");
    busy.send(&"GET k\r\n".repeat(2_000).into_bytes());
    busy.expect("$1\r\nv\r\n");
    terrace.begin_stop();
    busy.expect(&"$1\r\nv\r\n".repeat(1_999));
    busy.expect_end();
    idle.expect_end();
    terrace.stop();
}

#[test]
fn a_client_that_never_pauses_does_not_hold_the_drain_up() {
    let mut terrace = Terrace::start(config());
    let mut client = Client::connect(&terrace);
    client.ask("PING", "+PONG\r\n");
    terrace.begin_stop();
    eventually("the connection ends", || {
        let sent = client.0.write_all(&request("PING"));
        sent.is_err() || client.0.read(&mut [0; 64]).is_ok_and(|read| read == 0)
    });
    terrace.stop();
}

#[test]
fn who_never_reads_is_closed() {
    let terrace = Terrace::start(config());
    let mut client = Client::connect(&terrace);
    let (length, gets) = (1 << 20, 60);
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${length}\r\n").as_bytes());
    client.send(&vec![b'x'; length]);
    client.send(b"\r\n");
    client.expect("+OK\r\n");
    (0..gets).for_each(|_| client.send(&request("GET k")));
    eventually("the client is closed", || {
        let budget = terrace.node.in_flight.figures();
        budget.reset_full + budget.reset_stalled == 1 && !ask(&terrace, "CLIENT LIST").contains("cmd=get ")
    });
    let mut rest = Vec::new();
    let _read = client.0.read_to_end(&mut rest);
    assert!(rest.len() < gets * length, "everything came");
}

#[test]
fn over_the_limit_requests_wait_and_the_largest_holder_is_reset() {
    let mut config = config();
    config.server.max_in_flight = 1 << 20;
    let terrace = Terrace::start(config);
    let mut small = Client::connect(&terrace);
    small.ask("PING", "+PONG\r\n");
    let mut large = Client::connect(&terrace);
    large.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4000000\r\n");
    large.send(&vec![b'x'; 2_000_000]);
    // On a busy machine, the reset may come before a look at the budget.
    let budget = &terrace.node.in_flight;
    eventually("the budget is nearly full", || budget.bytes() > 3 << 18 || budget.figures().reset_full == 1);
    // The request of the other client is answered after the client that stalls was reset.
    let mut other = Client::connect(&terrace);
    other.send(b"*3\r\n$3\r\nSET\r\n$1\r\no\r\n$100000\r\n");
    other.send(&vec![b'x'; 100_000]);
    other.send(b"\r\n");
    other.expect("+OK\r\n");
    small.ask("SET s v", "+OK\r\n");
    large.expect_end();
    assert_eq!(terrace.node.in_flight.figures().reset_full, 1);
    eventually("all is released", || terrace.node.in_flight.bytes() == 0);
}

#[test]
fn clients_are_listed_by_their_names() {
    let terrace = Terrace::start(config());
    let mut other = Client::connect(&terrace);
    other.ask("CLIENT SETNAME other", "+OK\r\n");
    other.ask("CLIENT SETINFO LIB-NAME tests", "+OK\r\n");
    other.ask("CLIENT SETINFO LIB-VER 1.2", "+OK\r\n");
    other.ask("SELECT 1", "+OK\r\n");
    let list = ask(&terrace, "CLIENT LIST");
    assert_eq!(list.lines().filter(|line| line.starts_with("id=")).count(), 2, "{list}");
    let line = list.lines().find(|line| line.contains("name=other ")).unwrap();
    assert!(line.contains(" db=1 ") && line.contains(" cmd=select ") && line.ends_with("lib-name=tests lib-ver=1.2"));
    assert!(ask(&terrace, "CLIENT INFO").contains("cmd=client|info"));
    drop(other);
    eventually("the client is gone", || ask(&terrace, "CLIENT LIST").matches("\nid=").count() == 1);
    let refused = ask(&terrace, "CLIENT TRACKING ON | CLIENT MAINT_NOTIFICATIONS ON | CLIENT TRACKING OFF");
    assert!(refused.contains("-ERR CLIENT TRACKING is not supported"), "{refused}");
    assert!(refused.contains("-ERR CLIENT MAINT_NOTIFICATIONS is not supported"), "{refused}");
}

#[test]
fn info_counts_commands_errors_and_bytes() {
    let terrace = Terrace::start(config());
    ask(&terrace, "SET k v | GET k | GET k | INCR k | FOO | GET");
    let info = ask(&terrace, "INFO everything");
    assert!(info.contains("cmdstat_get:calls=2,") && info.contains("cmdstat_incr:calls=1,"), "{info}");
    assert!(info.contains("errorstat_ERR:count=3\r\n"), "{info}");
    assert!(info.contains(",rejected_calls=1,failed_calls=0\r\n"), "{info}");
    assert!(info.contains("db0:keys=1,"), "{info}");
    for field in ["used_memory", "used_memory_rss", "total_net_input_bytes", "total_commands_processed", "tcp_port"] {
        assert!(info_field(&terrace, field).parse::<u64>().unwrap() > 0, "{field}");
    }
    let sections = |which: &str| {
        let info = ask(&terrace, which);
        info.lines().filter_map(|line| line.strip_prefix("# ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(sections("INFO keyspace CPU tier_l1"), ["CPU", "Keyspace", "Tier_l1"]);
    assert_eq!(sections("INFO nosuch"), Vec::<String>::new());
    assert!(!sections("INFO").contains(&"Commandstats".to_owned()));
    assert!(sections("INFO all").contains(&"Commandstats".to_owned()));
    assert!(!sections("INFO all").contains(&"Coherence".to_owned()));
}

#[test]
fn a_flush_over_redis_must_be_allowed() {
    let redis = RedisServer::start();
    let terrace = over(&redis);
    let refused = ask(&terrace, "SET k v | FLUSHALL | FLUSHDB | GET k");
    assert!(
        refused.contains(
            "-ERR FLUSHALL is refused by the setting resp.flush; set it to \"allow\" to permit the command\r\n"
        ),
        "{refused}"
    );
    assert!(refused.contains("-ERR FLUSHDB is refused") && refused.contains("$1\r\nv\r\n"), "{refused}");
}

#[test]
fn a_lost_l2_is_an_error_and_no_miss() {
    let mut redis = RedisServer::start();
    let terrace = over(&redis);
    ask(&terrace, "SET k v");
    redis.kill();
    let mut client = Client::connect(&terrace);
    eventually("the loss is noticed", || ask(&terrace, "GET other").starts_with("-UNAVAILABLE "));
    client.ask("PING", "+PONG\r\n");
    assert!(ask(&terrace, "SET k v").starts_with("-UNAVAILABLE "));
    assert!(ask(&terrace, "INFO").contains("# Server"));
}

#[test]
fn redis_cli_finds_its_way() {
    let terrace = Terrace::start(config());
    let port = terrace.resp().rsplit_once(':').unwrap().1;
    let cli = |arguments: &[&str]| {
        let output = Command::new("redis-cli").args(["-p", port]).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}");
        text
    };
    assert_eq!(cli(&["SET", "user:1", "ann"]), "OK\n");
    assert_eq!(cli(&["-3", "GET", "user:1"]), "ann\n");
    assert_eq!(cli(&["--scan", "--pattern", "user:*"]), "user:1\n");
    assert!(cli(&["--bigkeys"]).contains("1 strings with 3 bytes"));
    assert!(cli(&["-n", "1", "--scan"]).contains("user:1"));
}

#[test]
fn info_counts_the_keys_that_expire_without_l2() {
    let world = over_none();
    let mut client = connection(world.node.resp());
    let mut shows = |command: &str, expected: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        ::redis::cmd(words[0]).arg(&words[1..]).exec(&mut client).unwrap();
        for database in ["db0", "db1"] {
            assert_eq!(info_field(&world.node, database), format!("{expected},avg_ttl=0"), "{command}, {database}");
        }
    };
    shows("SET a 1 EX 1000", "keys=1,expires=1");
    shows("SET b 1", "keys=2,expires=1");
    shows("EXPIRE b 1000", "keys=2,expires=2");
    shows("PERSIST a", "keys=2,expires=1");
    shows("SET b 2", "keys=2,expires=0");
    shows("PEXPIREAT b 9223372036854770000", "keys=2,expires=1");
    shows("DEL b", "keys=1,expires=0");
}
