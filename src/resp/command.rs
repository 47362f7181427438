//! What a command is: its row in the table, the function that runs it, and what that function has at hand.

use futures_util::future::BoxFuture;

use super::{
    Edge,
    frame::Args,
    key_spec::KeySpec,
    reply::{Done, Refusal, Reply},
    session::Session,
};
use crate::clock::Tick;

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

/// A row and its number: its place in the table; the numbers of subcommands follow those of all commands.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) row: &'static Row,
    pub(super) number: usize,
}

/// At most `max` bytes of what a client sent, up to the first NUL, for an error.
pub(super) fn readable(bytes: &[u8], max: usize) -> String {
    let end = memchr::memchr(0, bytes).unwrap_or(bytes.len()).min(max);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
