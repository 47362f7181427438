//! What a command is, how it is found, and what every command is checked for before it runs.

use futures_util::future::BoxFuture;

use super::{
    Edge,
    frame::Args,
    reply::{Done, Refusal, Reply},
    session::Session,
    table::{COMMANDS, REFUSED, ROWS, TABLE, name_at},
};
use crate::clock::Tick;

pub(super) use super::spec::{Begin, Find, KeySpec};

/// What a running command has at hand.
pub(super) struct Context<'c> {
    /// The facade and what all connections share.
    pub(super) edge: &'c Edge,
    /// The client.
    pub(super) session: &'c mut Session,
    /// Where the reply goes.
    pub(super) reply: &'c mut Reply,
    /// When the request was received.
    pub(super) now: Tick,
    /// The command's own row.
    pub(super) row: &'static Row,
}

impl Context<'_> {
    /// Answers with the error; returns what the command returns then.
    pub(super) fn refuse(&mut self, refusal: Refusal) -> Done {
        self.reply.error(&refusal.message());
        Err(refusal)
    }

    /// Counts the error that was just answered by its code; says whether there was one.
    pub(super) fn count_error(&mut self) -> bool {
        let code = self.reply.take_error();
        if let Some(code) = code {
            self.edge.shared.statistics.error(code);
        }
        code.is_some()
    }
}

/// How a command runs.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// At once.
    Now(fn(&mut Context<'_>, Args<'_>) -> Done),
    /// It may wait for L2.
    Later(for<'a, 'c> fn(&'a mut Context<'c>, Args<'a>) -> BoxFuture<'a, Done>),
    /// Only its subcommands run.
    Container,
}

/// One command.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// In lower case; `client|id` for a subcommand.
    pub(super) name: &'static str,
    /// Number of arguments, the name included; negative: at least so many.
    pub(super) arity: i64,
    /// How it runs.
    pub(super) run: Run,
    /// As COMMAND INFO names them, between blanks.
    pub(super) flags: &'static str,
    /// Among the flags: it may wait for as long as the client likes.
    pub(super) is_blocking: bool,
    /// Among the flags: MONITOR does not show it.
    pub(super) is_hidden: bool,
    /// Among the flags: it takes constant or logarithmic time.
    pub(super) is_fast: bool,
    /// ACL categories, between blanks.
    pub(super) categories: &'static str,
    /// Tips for clients, between blanks.
    pub(super) tips: &'static str,
    /// Where its keys stand.
    pub(super) keys: &'static [KeySpec],
    /// Group in the documentation.
    pub(super) group: &'static str,
    /// Redis version that brought it.
    pub(super) since: &'static str,
    /// In O notation.
    pub(super) complexity: &'static str,
    /// One line.
    pub(super) summary: &'static str,
    /// Redis version that deprecated it, and what to use instead; both may be empty.
    pub(super) deprecated: (&'static str, &'static str),
    /// What follows the name, in the notation of `exec::docs`.
    pub(super) arguments: &'static str,
    /// Its subcommands.
    pub(super) subcommands: &'static [Row],
    /// Number of the first subcommand.
    subcommands_base: usize,
}

impl Row {
    pub(super) const fn new(name: &'static str, arity: i64, run: Run) -> Self {
        Self {
            name,
            arity,
            run,
            flags: "",
            is_blocking: false,
            is_hidden: false,
            is_fast: false,
            categories: "",
            tips: "",
            keys: &[],
            group: "",
            since: "",
            complexity: "",
            summary: "",
            deprecated: ("", ""),
            arguments: "",
            subcommands: &[],
            subcommands_base: 0,
        }
    }

    pub(super) const fn flags(mut self, flags: &'static str) -> Self {
        self.flags = flags;
        self.is_blocking = has_word(flags, "blocking");
        self.is_hidden = has_word(flags, "admin") || has_word(flags, "skip_monitor");
        self.is_fast = has_word(flags, "fast");
        self
    }

    pub(super) const fn categories(mut self, categories: &'static str) -> Self {
        self.categories = categories;
        self
    }

    pub(super) const fn tips(mut self, tips: &'static str) -> Self {
        self.tips = tips;
        self
    }

    pub(super) const fn keys(mut self, keys: &'static [KeySpec]) -> Self {
        self.keys = keys;
        self
    }

    pub(super) const fn doc(
        mut self,
        group: &'static str,
        since: &'static str,
        complexity: &'static str,
        summary: &'static str,
    ) -> Self {
        self.group = group;
        self.since = since;
        self.complexity = complexity;
        self.summary = summary;
        self
    }

    pub(super) const fn deprecated(mut self, since: &'static str, instead: &'static str) -> Self {
        self.deprecated = (since, instead);
        self
    }

    pub(super) const fn arguments(mut self, arguments: &'static str) -> Self {
        self.arguments = arguments;
        self
    }

    pub(super) const fn subcommands(mut self, rows: &'static [Row]) -> Self {
        self.subcommands = rows;
        self
    }

    /// With the number of its first subcommand.
    pub(super) const fn numbered(mut self, base: usize) -> Self {
        self.subcommands_base = base;
        self
    }

    /// Whether it has this flag.
    pub(super) fn has(&self, flag: &str) -> bool {
        has_word(self.flags, flag)
    }

    /// Whether so many arguments, the name included, are acceptable.
    #[inline]
    pub(super) fn accepts(&self, arguments: usize) -> bool {
        let arguments = i64::try_from(arguments).unwrap_or(i64::MAX);
        if self.arity >= 0 { arguments == self.arity } else { arguments >= -self.arity }
    }

    /// The name without that of its container.
    pub(super) fn short_name(&self) -> &'static str {
        self.name.split_once('|').map_or(self.name, |(_, short)| short)
    }
}

/// Whether a list of words between blanks has this one.
const fn has_word(list: &str, word: &str) -> bool {
    let (list, word) = (list.as_bytes(), word.as_bytes());
    let mut begin = 0;
    while begin + word.len() <= list.len() {
        let mut same = 0;
        while same < word.len() && list[begin + same] == word[same] {
            same += 1;
        }
        let end = begin + word.len();
        if same == word.len() && (begin == 0 || list[begin - 1] == b' ') && (end == list.len() || list[end] == b' ') {
            return true;
        }
        begin += 1;
    }
    false
}

/// A row and its number among [`ROWS`].
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) row: &'static Row,
    pub(super) number: usize,
}

/// Places of the table by hash of the name; one more than the row, 0 for none. A quarter full.
const SLOTS: usize = 1024;
static PLACES: [u16; SLOTS] = places();

const fn hash(name: &[u8]) -> usize {
    let mut hash = name.len();
    let mut at = 0;
    while at < name.len() {
        // Folds case; two different bytes that fold to one are told apart by the comparison.
        hash = hash.wrapping_mul(31).wrapping_add((name[at] | 0x20) as usize);
        at += 1;
    }
    (hash ^ (hash >> 8)) % SLOTS
}

const fn places() -> [u16; SLOTS] {
    let mut places = [0; SLOTS];
    let mut row = 0;
    while row < COMMANDS {
        let mut slot = hash(name_at(row).as_bytes());
        while places[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        row += 1;
        assert!(row < SLOTS / 2, "the table outgrew its places");
        places[slot] = row as u16;
    }
    places
}

/// Longest name that is looked for: bounds the work for a name that is none.
const NAME_MAX_BYTES: usize = 32;

/// The row of a name, in any case.
#[inline]
pub(super) fn find(name: &[u8]) -> Option<Found> {
    if name.len() > NAME_MAX_BYTES {
        return None;
    }
    let mut slot = hash(name);
    loop {
        let place = usize::from(PLACES[slot]);
        let number = place.checked_sub(1)?;
        let row = &TABLE[number];
        if row.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(Found { row, number });
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// The row of a request: that of the subcommand, where there is one.
///
/// # Errors
/// Unknown command or subcommand, in Redis's words.
#[inline]
pub(super) fn resolve(args: Args<'_>) -> Result<Found, Refusal> {
    let Some(found) = find(args.at(0)) else { return Err(unknown(args)) };
    if found.row.subcommands.is_empty() { Ok(found) } else { resolve_subcommand(found, args) }
}

fn resolve_subcommand(container: Found, args: Args<'_>) -> Result<Found, Refusal> {
    let Some(name) = args.get(1) else { return Ok(container) };
    find_subcommand(container.row, name).ok_or_else(|| {
        let (name, upper) = (readable(name, 128), container.row.name.to_ascii_uppercase());
        Refusal::text(format!("ERR unknown subcommand '{name}'. Try {upper} HELP."))
    })
}

/// The subcommand of this name, in any case.
pub(super) fn find_subcommand(container: &'static Row, name: &[u8]) -> Option<Found> {
    let is_it = |row: &Row| row.short_name().as_bytes().eq_ignore_ascii_case(name);
    let at = container.subcommands.iter().position(is_it)?;
    Some(Found { row: &container.subcommands[at], number: container.subcommands_base + at })
}

/// Name of a row by its number.
pub(super) fn name_of(number: usize) -> &'static str {
    let subcommands = || TABLE.iter().flat_map(|row| row.subcommands);
    let row = TABLE.get(number).or_else(|| subcommands().nth(number - TABLE.len()));
    row.map_or("", |row| row.name)
}

/// Number of GET, which the connection answers without running it.
pub(super) const GET: usize = number_of(b"get");

const fn number_of(name: &[u8]) -> usize {
    let mut number = 0;
    loop {
        if name_at(number).as_bytes().eq_ignore_ascii_case(name) {
            return number;
        }
        number += 1;
    }
}

/// Numbers of all rows.
pub(super) fn numbers() -> std::ops::Range<usize> {
    0..ROWS
}

#[cold]
fn unknown(args: Args<'_>) -> Refusal {
    if let Some((name, reason)) = REFUSED.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(args.at(0))) {
        return Refusal::text(format!("ERR {} is refused: {reason}", name.to_ascii_uppercase()));
    }
    let name = readable(args.at(0), 128);
    let mut beginning = String::new();
    for arg in args.from(1).iter() {
        if beginning.len() >= 128 {
            break;
        }
        let left = 128 - beginning.len();
        beginning.push('\'');
        beginning.push_str(&readable(arg, left));
        beginning.push_str("' ");
    }
    Refusal::text(format!("ERR unknown command '{name}', with args beginning with: {beginning}"))
}

/// At most `max` bytes of what a client sent, up to the first NUL, for an error.
pub(super) fn readable(bytes: &[u8], max: usize) -> String {
    let end = memchr::memchr(0, bytes).unwrap_or(bytes.len()).min(max);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_found_in_any_case_under_its_number() {
        for (number, row) in TABLE.iter().enumerate() {
            let found = find(row.name.to_ascii_uppercase().as_bytes()).unwrap();
            assert_eq!((found.number, found.row.name), (number, row.name));
        }
        assert!(find(b"").is_none());
        assert!(find(b"GETT").is_none());
        assert!(find(&[b'a'; 100]).is_none());
    }

    #[test]
    fn each_subcommand_has_a_number_of_its_own() {
        let mut seen = std::collections::HashSet::new();
        for row in TABLE.iter().flat_map(|container| container.subcommands.iter().map(move |row| (container, row))) {
            let found = find_subcommand(row.0, row.1.short_name().as_bytes()).unwrap();
            assert_eq!(name_of(found.number), row.1.name);
            assert!(seen.insert(found.number));
        }
        assert_eq!(seen.len() + TABLE.len(), ROWS);
    }
}
