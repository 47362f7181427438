//! redis-cli: every mode on databases 0 and 1, over each store, without an error or a warning.

use std::{
    io::{Read, Write},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    command::printed,
    eventually,
    redis::RedisServer,
    terrace::{Terrace, config, config_embedded, config_patient},
};

/// Texts that no output of redis-cli may contain.
const COMPLAINTS: [&str; 6] = ["ERR ", "WARNING", "rror:", "assert", "AUTH failed", "not connect"];

fn port(terrace: &Terrace) -> &str {
    terrace.resp().rsplit_once(':').unwrap().1
}

fn redis_cli(terrace: &Terrace, args: &[&str]) -> Command {
    let mut command = Command::new("redis-cli");
    command.args(["-p", port(terrace)]).args(args).stdin(Stdio::null()).env("HOME", "/nonexistent");
    command
}

fn check(what: &str, output: &str) {
    for complaint in COMPLAINTS {
        assert!(!output.contains(complaint), "{what}: {output}");
    }
}

/// Runs a command to its end; the output must contain all of `wanted` and no complaint.
fn run(terrace: &Terrace, args: &[&str], wanted: &[&str]) -> String {
    let output = redis_cli(terrace, args).output().unwrap();
    let text = printed(&output);
    assert!(output.status.success(), "{args:?}: {text}");
    check(&format!("{args:?}"), &text);
    for part in wanted {
        assert!(text.contains(part), "{args:?} without {part}: {text}");
    }
    text
}

/// Returns `true` for text that ends as a prompt does before its `> `: with the port, `[1]`, or `(TX)`; the arrow of a map
/// ends with `=`.
fn is_prompt(before: &str) -> bool {
    before.is_empty() || before.ends_with([']', ')']) || before.ends_with(|last: char| last.is_ascii_digit())
}

/// A redis-cli that runs until it is interrupted.
struct Running {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for mut stream in streams {
            let output = Arc::clone(&output);
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut bytes) {
                    output.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
                }
            });
        }
        Self { child, output }
    }

    fn text(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    fn until(&self, what: &str, wanted: &str) {
        let seen = std::panic::catch_unwind(|| eventually(what, || self.text().contains(wanted)));
        assert!(seen.is_ok(), "{what}: no {wanted} in {}", self.text().escape_debug());
    }

    /// Waits until `wanted` and the next prompt are printed after the first `from` bytes. redis-cli discards what is
    /// typed before the prompt.
    fn answered(&self, what: &str, from: usize, wanted: &str) {
        let is_done = || {
            let text = self.text();
            let later = text.get(from..).and_then(|text| text.split_once(wanted));
            later.is_some_and(|(_, rest)| rest.match_indices("> ").any(|(at, _)| is_prompt(&rest[..at])))
        };
        let seen = std::panic::catch_unwind(|| eventually(what, is_done));
        assert!(seen.is_ok(), "{what}: no {wanted} and prompt in {}", self.text().escape_debug());
    }

    /// Interrupts it as Ctrl-C does.
    fn interrupt(mut self, what: &str) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.child.wait().unwrap();
        check(what, &self.text());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Twenty keys, half of them read, so that L1 holds them.
fn fill(terrace: &Terrace) {
    for number in 0..20 {
        run(terrace, &["SET", &format!("key:{number}"), &"x".repeat(number + 1)], &["OK"]);
    }
    for number in 0..10 {
        run(terrace, &["GET", &format!("key:{number}")], &["x"]);
    }
}

fn every_mode(terrace: &Terrace) {
    fill(terrace);
    for db in ["0", "1"] {
        let on = |args: &[&str], wanted: &[&str]| {
            let all: Vec<&str> = ["-n", db].iter().chain(args).copied().collect();
            run(terrace, &all, wanted)
        };
        on(&["GET", "key:3"], &["xxxx"]);
        on(&["-3", "CONFIG", "GET", "databases"], &["databases", "3"]);
        let keys = on(&["--scan"], &["key:0"]);
        assert!(keys.lines().count() >= 10, "{keys}");
        on(&["--scan", "--pattern", "*:7"], &["key:7"]);
        on(&["--bigkeys"], &["Biggest string found", "strings with"]);
        on(&["--memkeys"], &["Biggest string found"]);
        on(&["--hotkeys"], &["hot key found with counter:", "Sampled"]);
        on(&["INFO"], &["# Keyspace", "redis_version:7.0.15", "db0:keys=", "db1:keys="]);
        stat(terrace, db);
        latency(terrace, db);
        monitor(terrace, db);
    }
    pipe(terrace);
    interactive(terrace);
    events(terrace);
}

fn stat(terrace: &Terrace, db: &str) {
    let stat = Running::start(redis_cli(terrace, &["-n", db, "--stat", "-i", "0.01"]));
    let numbers = |line: &&str| line.split_whitespace().next().is_some_and(|word| word.parse::<u64>().is_ok());
    eventually("--stat prints lines", || stat.text().lines().filter(numbers).count() >= 3);
    assert!(stat.text().contains("keys") && stat.text().contains("clients"), "{}", stat.text());
    stat.interrupt("--stat");
}

fn latency(terrace: &Terrace, db: &str) {
    let raw = Running::start(redis_cli(terrace, &["-n", db, "--latency", "--raw", "-i", "0.05"]));
    eventually("--latency prints", || raw.text().split_whitespace().count() >= 4);
    raw.interrupt("--latency");
    let history = Running::start(redis_cli(terrace, &["-n", db, "--latency-history", "-i", "0.05"]));
    eventually("--latency-history prints", || history.text().split_whitespace().count() >= 8);
    history.interrupt("--latency-history");
}

fn monitor(terrace: &Terrace, db: &str) {
    let monitor = Running::start(redis_cli(terrace, &["-n", db, "monitor"]));
    monitor.until("MONITOR begins", "OK");
    run(terrace, &["-n", db, "GET", "key:1"], &["xx"]);
    monitor.until("MONITOR shows what others ask", "\"GET\" \"key:1\"");
    let shown = monitor.text();
    assert!(shown.contains(&format!(" [{db} 127.0.0.1:")), "{shown}");
    monitor.interrupt("monitor");
}

fn pipe(terrace: &Terrace) {
    let mut command = redis_cli(terrace, &["--pipe"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let requests: String = (0..1000).map(|number| format!("SET pipe:{number} {number}\r\n")).collect();
    child.stdin.take().unwrap().write_all(requests.as_bytes()).unwrap();
    let output = printed(&child.wait_with_output().unwrap());
    assert!(output.contains("errors: 0, replies: 1000"), "{output}");
    run(terrace, &["GET", "pipe:999"], &["999"]);
}

/// An interactive session: hints, help, another database, a transaction, subscriptions, the other protocol.
fn interactive(terrace: &Terrace) {
    // redis-cli would query the size of a terminal that has none.
    let command_line = format!("stty rows 50 cols 120; redis-cli -p {}", port(terrace));
    let mut command = Command::new("script");
    command.args(["-qec", &command_line, "/dev/null"]).env("TERM", "xterm").env("HOME", "/nonexistent");
    let mut session = Running::start({
        command.stdin(Stdio::piped());
        command
    });
    let mut keys = session.child.stdin.take().unwrap();
    let mut press = |bytes: &str| {
        let printed = session.text().len();
        keys.write_all(bytes.as_bytes()).unwrap();
        printed
    };
    session.until("the prompt comes", "> ");
    press("set ");
    session.until("SET is hinted", "key value [NX|XX] [GET]");
    let from = press("cli v\r");
    session.answered("SET is answered", from, "OK");
    press("terrace.top ");
    session.until("TERRACE.TOP is hinted", "[READS|BYTES|MISSES|TIME|HELP] [count]");
    let from = press("\u{15}help terrace.info\r");
    session.answered("help knows our commands", from, "Show the tiers that hold a key");
    let from = press("help getset\r");
    session.answered("help knows Redis's commands", from, "Set the string value of a key and return its old value");
    let from = press("multi\r");
    session.answered("the prompt shows the transaction", from, "(TX)");
    let from = press("incr counter\r");
    session.answered("INCR is queued", from, "QUEUED");
    let from = press("exec\r");
    session.answered("EXEC is answered", from, "(integer) 1");
    let from = press("select 1\r");
    session.answered("the prompt shows the database", from, "[1]");
    let from = press("hello 3\r");
    session.answered("RESP3 is spoken", from, "\"proto\" => (integer) 3");
    let from = press("terrace.tiers\r");
    session.answered("a map is shown", from, "\"capacity_bytes\" =>");
    press("quit\r");
    eventually("it ends", || session.child.try_wait().unwrap().is_some());
    check("interactive", &session.text());
}

/// Keyspace events of a write through this node.
fn events(terrace: &Terrace) {
    let command = redis_cli(terrace, &["--csv", "PSUBSCRIBE", "__key*@0__:*"]);
    let listener = Running::start(command);
    listener.until("the subscription is confirmed", "psubscribe");
    run(terrace, &["SET", "event:1", "v", "EX", "100"], &["OK"]);
    listener.until("the key tells its event", "\"__keyspace@0__:event:1\",\"set\"");
    listener.until("the event tells its key", "\"__keyevent@0__:expire\",\"event:1\"");
    run(terrace, &["DEL", "event:1"], &["1"]);
    listener.until("DEL is told", "\"__keyevent@0__:del\",\"event:1\"");
    listener.interrupt("psubscribe");
}

#[test]
fn every_mode_works_over_the_embedded_store() {
    let dir = tempfile::tempdir().unwrap();
    every_mode(&Terrace::start(config_embedded(dir.path())));
}

#[test]
fn every_mode_works_over_redis() {
    let redis = RedisServer::start();
    let terrace = Terrace::start(config_patient(redis.url()));
    eventually("L1 is open", || {
        let output = redis_cli(&terrace, &["INFO", "coherence"]).output().unwrap();
        printed(&output).contains("coherence_l1_open:1")
    });
    redis.run("RPUSH list a b c");
    redis.run("HSET hash f v");
    every_mode(&terrace);
    run(&terrace, &["--bigkeys"], &["Biggest   list found", "Biggest   hash found"]);
    run(&terrace, &["LRANGE", "list", "0", "-1"], &["a\nb\nc"]);
}

#[test]
fn redis_benchmark_finds_nothing_to_warn_of() {
    let terrace = Terrace::start(config());
    let output = Command::new("redis-benchmark")
        .args(["-p", port(&terrace), "-t", "get,set,incr,mset,ping", "-n", "2000", "-c", "10", "-P", "16", "-q"])
        .output()
        .unwrap();
    let text = printed(&output);
    assert!(output.status.success() && !text.contains("WARNING") && !text.contains("rror"), "{text}");
    for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"] {
        assert!(text.contains(&format!("{test}: ")), "{text}");
    }
}
