//! Command definitions: the row in the command table, the function that runs the command, and its context.

use futures_util::future::BoxFuture;

use super::{
    Edge,
    frame::Args,
    key_spec::KeySpec,
    reply::{Done, Refusal, Reply},
    session::Session,
};
use crate::clock::Tick;

/// Context of a running command.
pub(super) struct Context<'c> {
    /// The cache and the state shared by all connections.
    pub(super) edge: &'c Edge,
    /// The session of the client.
    pub(super) session: &'c mut Session,
    /// The output buffer.
    pub(super) reply: &'c mut Reply,
    /// Time when the request was received.
    pub(super) now: Tick,
    /// The row of the command.
    pub(super) row: &'static Row,
}

impl Context<'_> {
    /// Replies with the error and returns it.
    pub(super) fn refuse(&mut self, refusal: Refusal) -> Done {
        self.reply.error(&refusal.message());
        Err(refusal)
    }

    /// Counts the error reply by its code. Returns `true` if the reply was an error.
    pub(super) fn count_error(&mut self) -> bool {
        let code = self.reply.take_error();
        if let Some(code) = code {
            self.edge.shared.statistics.error(code);
        }
        code.is_some()
    }
}

/// Function that runs a command.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// Runs without waiting.
    Now(fn(&mut Context<'_>, Args<'_>) -> Done),
    /// May wait for L2.
    Later(for<'a, 'c> fn(&'a mut Context<'c>, Args<'a>) -> BoxFuture<'a, Done>),
    /// Container: only the subcommands run.
    Container,
}

/// One command of the command table.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// Name in lower case; `client|id` for a subcommand.
    pub(super) name: &'static str,
    /// Number of arguments including the name; a negative value is a minimum.
    pub(super) arity: i64,
    /// Function that runs the command.
    pub(super) run: Run,
    /// Flags as in COMMAND INFO, separated by spaces.
    pub(super) flags: &'static str,
    /// Flag: the command may wait for a client-specified time.
    pub(super) is_blocking: bool,
    /// Flag: MONITOR does not show the command.
    pub(super) is_hidden: bool,
    /// Flag: the command takes constant or logarithmic time.
    pub(super) is_fast: bool,
    /// ACL categories, separated by spaces.
    pub(super) categories: &'static str,
    /// Command tips for clients, separated by spaces.
    pub(super) tips: &'static str,
    /// Positions of the keys.
    pub(super) keys: &'static [KeySpec],
    /// Group in the command documentation.
    pub(super) group: &'static str,
    /// Redis version that introduced the command.
    pub(super) since: &'static str,
    /// Time complexity in O notation.
    pub(super) complexity: &'static str,
    /// Summary, one line.
    pub(super) summary: &'static str,
    /// Redis version that deprecated the command, and the replacement; both may be empty.
    pub(super) deprecated: (&'static str, &'static str),
    /// Arguments in the notation of `exec::docs`.
    pub(super) arguments: &'static str,
    /// Subcommands.
    pub(super) subcommands: &'static [Row],
    /// Row number of the first subcommand.
    pub(super) subcommands_base: usize,
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

    /// Sets the row number of the first subcommand.
    pub(super) const fn numbered(mut self, base: usize) -> Self {
        self.subcommands_base = base;
        self
    }

    /// Returns `true` if the command has this flag.
    pub(super) fn has(&self, flag: &str) -> bool {
        has_word(self.flags, flag)
    }

    /// Returns `true` if the command accepts this number of arguments, including the name.
    #[inline]
    pub(super) fn accepts(&self, arguments: usize) -> bool {
        let arguments = i64::try_from(arguments).unwrap_or(i64::MAX);
        if self.arity >= 0 { arguments == self.arity } else { arguments >= -self.arity }
    }

    /// Returns the name without the name of the container.
    pub(super) fn short_name(&self) -> &'static str {
        self.name.split_once('|').map_or(self.name, |(_, short)| short)
    }
}

/// Returns `true` if a list of words separated by spaces contains the word.
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

/// A row and its number. The number is the position in the table; subcommands are numbered after all commands.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) row: &'static Row,
    pub(super) number: usize,
}

/// Returns at most `max` bytes of client input, up to the first NUL, for an error message.
pub(super) fn readable(bytes: &[u8], max: usize) -> String {
    let end = memchr::memchr(0, bytes).unwrap_or(bytes.len()).min(max);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
