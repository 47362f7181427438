//! Key extraction: COMMAND GETKEYSANDFLAGS of Terrace and of a real redis-server give the same reply for random requests.
//!
//! The number of requests is 10,000; with `TERRACE_CHECK_FULL=1`, 100,000.

use std::collections::BTreeMap;

use ::redis::{Connection, Pipeline, RedisResult, Value, cmd};
use fastrand::Rng;

use crate::support::{node::over_none, redis::RedisServer, resp::connection, setting_from_environment};

/// Options of all commands, numbers of keys, and names: each may stand anywhere.
const WORDS: &str = "store STORE storedist store by get limit asc alpha count block streams STREAMS group nx xx ex px \
                     keepttl get GET set incrby overflow wrap 0 1 2 3 2x -1 10 u8 i5 k a b # * weights aggregate max \
                     withscores left right ANY replace db keys auth auth2 migrate copy";
const AT_ONCE: usize = 200;

/// A command with keys, by its words, and its arity.
type Command = (Vec<String>, i64);

/// Returns the commands with keys that both servers have.
fn commands(terrace: &mut Connection, redis: &mut Connection) -> Vec<Command> {
    let ours: Vec<String> = cmd("COMMAND").arg("LIST").query(terrace).unwrap();
    let theirs: Vec<String> = cmd("COMMAND").arg("LIST").query(redis).unwrap();
    let mut found = Vec::new();
    for name in theirs.into_iter().filter(|name| ours.contains(name)) {
        let info: Vec<Value> = cmd("COMMAND").arg("INFO").arg(&name).query(redis).unwrap();
        let Some(Value::Array(fields)) = info.into_iter().next() else { panic!("COMMAND INFO {name}") };
        let Value::Int(arity) = fields[1] else { panic!("the arity of {name}") };
        if fields[3] != Value::Int(0) || fields[8] != Value::Array(Vec::new()) {
            found.push((name.split('|').map(str::to_owned).collect(), arity));
        }
    }
    assert!(found.len() > 150, "{} commands with keys", found.len());
    found.sort();
    found
}

fn request(rng: &mut Rng, commands: &[Command], words: &[&str]) -> Vec<String> {
    // Requests with destinations have the most ways to hide a key.
    let storing = |(name, _): &&Command| name[0] == "sort" || name[0].starts_with("georadius");
    let (name, arity) = match rng.u8(..8) {
        0 => rng.choice(commands.iter().filter(storing).collect::<Vec<_>>()).unwrap(),
        _ => rng.choice(commands).unwrap(),
    };
    let least = (arity.unsigned_abs() as usize).saturating_sub(name.len());
    let count = if rng.u8(..10) == 0 { rng.usize(..10) } else { rng.usize(least..=least + 6) };
    let word = |_| match rng.u8(..5) {
        0 => rng.i8(-2..6).to_string(),
        _ => (*rng.choice(words).unwrap()).to_owned(),
    };
    name.iter().cloned().chain((0..count).map(word)).collect()
}

fn ask(server: &mut Connection, requests: &[Vec<String>]) -> Vec<String> {
    let mut pipe = Pipeline::new();
    pipe.ignore_errors();
    for request in requests {
        pipe.cmd("COMMAND").arg("GETKEYSANDFLAGS").arg(request);
    }
    let replies: Vec<RedisResult<Value>> = pipe.query(server).unwrap();
    replies.into_iter().map(|reply| reply.map_or_else(|error| error.to_string(), shown)).collect()
}

/// The order of the flags of a key does not matter.
fn shown(reply: Value) -> String {
    let Value::Array(keys) = reply else { return format!("{reply:?}") };
    let each = keys.into_iter().map(|key| {
        let Value::Array(parts) = key else { panic!("a key {key:?}") };
        let [name, Value::Array(flags) | Value::Set(flags)] = &parts[..] else { panic!("a key {parts:?}") };
        let mut flags: Vec<String> = flags.iter().map(|flag| format!("{flag:?}")).collect();
        flags.sort();
        format!("{name:?} {flags:?}")
    });
    each.collect::<Vec<_>>().join(", ")
}

#[test]
fn keys_of_random_requests_are_those_of_redis() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let (server, world) = (RedisServer::start(), over_none());
    let (mut terrace, mut redis) = (connection(world.node.resp()), server.connect());
    let commands = commands(&mut terrace, &mut redis);
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let is_full = setting_from_environment("TERRACE_CHECK_FULL", 0) == 1;
    let count = if is_full { 100_000 } else { 10_000 };
    let mut with_keys: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..count / AT_ONCE {
        let requests: Vec<Vec<String>> = (0..AT_ONCE).map(|_| request(&mut rng, &commands, &words)).collect();
        let (ours, theirs) = (ask(&mut terrace, &requests), ask(&mut redis, &requests));
        for ((request, ours), theirs) in requests.iter().zip(ours).zip(theirs) {
            assert_eq!(ours, theirs, "{}", request.join(" "));
            *with_keys.entry(request[0].clone()).or_default() += usize::from(theirs.contains('['));
        }
    }
    let never: Vec<_> = with_keys.iter().filter(|(_, count)| **count == 0).map(|(name, _)| name).collect();
    assert!(never.len() < 10, "no request of these commands had keys: {never:?}");
}
