//! Generates the reference of RESP commands from a running server.
//!
//! `COMMAND DOCS` lists the commands. A server without L2 refuses the commands that are passed through to Redis;
//! Terrace serves all others itself. The page also lists the commands of a real Redis that the server refuses by name.

use std::collections::BTreeMap;

use redis::{Connection, Value};

use super::{assert_generated, cell};
use crate::support::{
    redis::RedisServer,
    terrace::{Terrace, config},
};

/// How the RESP port serves a command.
#[derive(Debug, PartialEq)]
enum Served {
    /// Terrace serves it, with every L2.
    Terrace,
    /// Redis serves it: the command passes through.
    Redis,
    /// Redis serves it. With another L2, the reply is that for an absent key.
    RedisOrAbsent,
    /// It is refused, for this reason.
    Refused(String),
}

struct Command {
    name: String,
    arity: i64,
    since: String,
    group: String,
    summary: String,
    served: Served,
}

fn connect(url: &str) -> Connection {
    redis::Client::open(url).unwrap().get_connection().unwrap()
}

fn text(value: &Value) -> String {
    redis::from_redis_value(value.clone()).unwrap()
}

fn number(value: &Value) -> i64 {
    redis::from_redis_value(value.clone()).unwrap()
}

/// A map in RESP2: names and values alternate.
fn map(value: &Value) -> BTreeMap<String, Value> {
    let Value::Array(items) = value else { panic!("{value:?} is no map") };
    items.chunks(2).map(|pair| (text(&pair[0]), pair[1].clone())).collect()
}

/// Returns the names and arities of the commands of a server; of a container, only its subcommands.
fn arities(connection: &mut Connection) -> Vec<(String, i64)> {
    let rows: Vec<Vec<Value>> = redis::cmd("COMMAND").query(connection).unwrap();
    let mut found = Vec::new();
    for row in rows {
        let (name, arity) = (text(&row[0]), number(&row[1]));
        let Value::Array(subcommands) = &row[9] else { panic!("{name}: no list of subcommands") };
        // Of the containers, only COMMAND is a command itself.
        if subcommands.is_empty() || arity == -1 {
            found.push((name, arity));
        }
        for subcommand in subcommands {
            let Value::Array(row) = subcommand else { panic!("{subcommand:?}") };
            found.push((text(&row[0]), number(&row[1])));
        }
    }
    found
}

/// Calls a command with the number of arguments that it requires.
fn served(url: &str, name: &str, arity: i64) -> Served {
    let mut connection = connect(url);
    let mut words = name.split('|');
    let mut call = redis::cmd(words.next().unwrap());
    let subcommand = words.next();
    let given = 1 + usize::from(subcommand.is_some());
    call.arg(subcommand.into_iter().collect::<Vec<_>>());
    for _ in given..usize::try_from(arity.abs()).unwrap() {
        call.arg("1");
    }
    let () = redis::cmd("SET").arg("1").arg("text").query(&mut connection).unwrap();
    let error = match call.query::<Value>(&mut connection) {
        Ok(_) => return Served::Terrace,
        Err(error) => error.to_string(),
    };
    if error.contains("requires Redis as L2") {
        return Served::Redis;
    }
    // No command on strings has the wrong type here: the key is a string.
    if error.contains("WRONGTYPE") {
        return Served::RedisOrAbsent;
    }
    for mark in [" is refused: ", " is not supported: ", "This instance has "] {
        if let Some(at) = error.find(mark) {
            let reason = if mark.starts_with("This") { &error[at..] } else { &error[at + mark.len()..] };
            return Served::Refused(reason.to_owned());
        }
    }
    Served::Terrace
}

/// Commands that would stop this test: they end or occupy the connection, or block.
const NOT_CALLED: [&str; 6] = ["client|pause", "client|reply", "monitor", "psubscribe", "quit", "subscribe"];

fn commands(url: &str) -> Vec<Command> {
    let mut connection = connect(url);
    let docs: Value = redis::cmd("COMMAND").arg("DOCS").query(&mut connection).unwrap();
    let mut docs = map(&docs);
    for row in docs.clone().values().map(map) {
        if let Some(subcommands) = row.get("subcommands") {
            docs.extend(map(subcommands));
        }
    }
    let command = |(name, arity): (String, i64)| {
        let doc = map(&docs[&name]);
        let field = |field: &str| doc.get(field).map(text).unwrap_or_default();
        let served = if NOT_CALLED.contains(&&*name) { Served::Terrace } else { served(url, &name, arity) };
        Command { since: field("since"), group: field("group"), summary: field("summary"), name, arity, served }
    };
    arities(&mut connection).into_iter().map(command).collect()
}

fn table(commands: &[Command]) -> String {
    let mut text = String::new();
    let mut groups: Vec<&str> = Vec::new();
    for command in commands {
        if !groups.contains(&&*command.group) {
            groups.push(&command.group);
        }
    }
    for group in groups {
        text += &format!("### {group}\n\n| command | arity | served by | since | summary |\n|---|---|---|---|---|\n");
        for command in commands.iter().filter(|command| command.group == group) {
            let name = command.name.replace('|', " ").to_uppercase();
            let served = match &command.served {
                Served::Terrace => "Terrace".to_owned(),
                Served::Redis => "Redis".to_owned(),
                Served::RedisOrAbsent => "Redis, or as absent".to_owned(),
                Served::Refused(reason) => format!("refused: {}", cell(reason)),
            };
            let since = if group == "terrace" { "Terrace" } else { &command.since };
            text += &format!("| `{name}` | {} | {served} | {since} | {} |\n", command.arity, cell(&command.summary));
        }
        text.push('\n');
    }
    text
}

/// Commands of Redis that Terrace refuses by name.
fn refused(url: &str) -> String {
    let redis = RedisServer::start();
    let mut table = String::from("| command | reason |\n|---|---|\n");
    let mut rows: Vec<(String, i64)> = arities(&mut connect(&redis.url()));
    for (name, _) in &mut rows {
        name.truncate(name.find('|').unwrap_or(name.len()));
    }
    rows.sort();
    rows.dedup_by(|left, right| left.0 == right.0);
    for (name, _) in rows {
        let mut connection = connect(url);
        let Err(error) = redis::cmd(&name).query::<Value>(&mut connection) else { continue };
        if let Some((_, reason)) = error.to_string().split_once(&format!("{} is refused: ", name.to_uppercase())) {
            table += &format!("| `{}` | {} |\n", name.to_uppercase(), cell(reason));
        }
    }
    table
}

#[test]
fn commands_are_up_to_date() {
    let terrace = Terrace::start(config());
    let url = format!("redis://{}", terrace.resp());
    let commands = commands(&url);
    assert!(commands.len() > 250, "{} commands", commands.len());
    assert!(commands.iter().any(|command| command.name == "lpush" && command.served == Served::Redis));
    assert!(commands.iter().any(|command| command.name == "get" && command.served == Served::Terrace));
    assert_generated("docs/reference/resp-commands.md", "commands", &table(&commands));
    assert_generated("docs/reference/resp-commands.md", "refused", &refused(&url));
}
