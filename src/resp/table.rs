//! The command table with one row per command. COMMAND, COMMAND DOCS, HELP, ACL CAT, the keys of a request and error
//! texts are derived from it.
//!
//! Flags, categories, key specifications, arguments and texts of Redis commands are those of Redis 7.0. One file per
//! command group of Redis.

mod bitmap;
mod cluster;
mod connection;
mod generic;
mod geo;
mod hash;
mod hyperloglog;
mod list;
mod pubsub;
mod refused;
mod scripting;
mod server;
mod set;
mod sorted_set;
mod stream;
mod strings;
mod terrace;
mod transactions;

use super::{
    command::{Row, Run},
    lookup::{Commands, number_of},
    permission,
};

/// A command that may wait for L2.
macro_rules! later {
    ($run:path $(, $more:expr)*) => {
        Run::Later(|cx, args| Box::pin($run(cx, args $(, $more)*)))
    };
}
use later;

/// A command on a type other than strings, which is forwarded to Redis.
const PASS: Run = Run::Later(|cx, args| Box::pin(super::exec::pass_through::pass(cx, args)));

const GROUPS: &[&[Row]] = &[
    strings::ROWS,
    generic::ROWS,
    connection::ROWS,
    server::ROWS,
    transactions::ROWS,
    pubsub::ROWS,
    terrace::ROWS,
    hash::ROWS,
    list::ROWS,
    set::ROWS,
    sorted_set::ROWS,
    stream::ROWS,
    bitmap::ROWS,
    hyperloglog::ROWS,
    geo::ROWS,
    scripting::ROWS,
    cluster::ROWS,
];

/// All commands. The row number is the position; subcommands are numbered after all commands.
pub(super) static COMMANDS: Commands = Commands::new(&NUMBERED.0, NUMBERED.1, refused::REFUSED);

/// Row number of GET, which the connection handles itself.
pub(super) const GET: usize = number_of(&NUMBERED.0, b"get");

/// Number of commands without subcommands.
const COUNT: usize = count();

const fn count() -> usize {
    let (mut group, mut count) = (0, 0);
    while group < GROUPS.len() {
        count += GROUPS[group].len();
        group += 1;
    }
    count
}

const _: () = permission::all_are_decided(&NUMBERED.0);

/// The rows and their number including subcommands.
const NUMBERED: ([Row; COUNT], usize) = numbered();

const fn numbered() -> ([Row; COUNT], usize) {
    let mut rows = [Row::new("", 0, Run::Container); COUNT];
    let (mut group, mut number, mut sub) = (0, 0, COUNT);
    while group < GROUPS.len() {
        let mut at = 0;
        while at < GROUPS[group].len() {
            rows[number] = GROUPS[group][at].numbered(sub);
            sub += rows[number].subcommands.len();
            number += 1;
            at += 1;
        }
        group += 1;
    }
    (rows, sub)
}
