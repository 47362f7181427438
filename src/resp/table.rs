//! Every command, one row each: the only list there is. COMMAND, COMMAND DOCS, HELP, ACL CAT, the keys of a request
//! and the errors are made from it.
//!
//! Flags, categories, key specifications, arguments and texts are those of Redis 7.0 for the commands it has. One file
//! for each of Redis's groups.

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
};

/// A command that may wait for L2.
macro_rules! later {
    ($run:path $(, $more:expr)*) => {
        Run::Later(|cx, args| Box::pin($run(cx, args $(, $more)*)))
    };
}
use later;

/// A command on another type than strings: Redis answers it.
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

/// All commands. Their numbers are their places; the numbers of subcommands follow in order.
pub(super) static COMMANDS: Commands = Commands::new(&NUMBERED.0, NUMBERED.1, refused::REFUSED);

/// Number of GET, which the connection answers without running it.
pub(super) const GET: usize = number_of(&NUMBERED.0, b"get");

/// Number of commands, subcommands not counted.
const COUNT: usize = count();

const fn count() -> usize {
    let (mut group, mut count) = (0, 0);
    while group < GROUPS.len() {
        count += GROUPS[group].len();
        group += 1;
    }
    count
}

/// The rows, and how many there are with subcommands.
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
