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

use super::command::{Row, Run};

pub(super) use refused::REFUSED;

/// A command that may wait for L2.
macro_rules! later {
    ($run:path $(, $more:expr)*) => {
        Run::Later(|cx, args| Box::pin($run(cx, args $(, $more)*)))
    };
}
use later;

/// A command on another type than strings: Redis answers it.
const PASS: Run = Run::Later(|cx, args| Box::pin(super::exec::pass::pass(cx, args)));

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

/// How many commands there are, subcommands not counted.
pub(super) const COMMANDS: usize = count();

const fn count() -> usize {
    let (mut group, mut count) = (0, 0);
    while group < GROUPS.len() {
        count += GROUPS[group].len();
        group += 1;
    }
    count
}

/// All commands. Their numbers are their places; those of the subcommands follow them in order.
pub(super) static TABLE: &[Row; COMMANDS] = &NUMBERED.0;

/// How many rows there are, subcommands included.
pub(super) const ROWS: usize = NUMBERED.1;

const NUMBERED: ([Row; COMMANDS], usize) = numbered();

const fn numbered() -> ([Row; COMMANDS], usize) {
    let mut rows = [Row::new("", 0, Run::Container); COMMANDS];
    let (mut group, mut number, mut sub) = (0, 0, COMMANDS);
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

/// Name of a row at compile time, for the numbers of the few commands that code names.
pub(super) const fn name_at(number: usize) -> &'static str {
    NUMBERED.0[number].name
}
