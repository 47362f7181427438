//! Where the keys of a request stand among its arguments.
//!
//! A specification is Redis's: where to begin, and how to go on from there. What it cannot say (SORT) the command's own
//! function knows.

use super::frame::Args;
use crate::cache::op::parse_integer;

/// Where the first key of a specification stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// At this place.
    At(usize),
    /// After this word, looked for from this place on; a negative place counts from the end, and backwards.
    After(&'static str, i64),
    /// Only the command itself knows.
    Unknown,
}

/// Where the further keys stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Find {
    /// Place of the last (from the first, or negative from the end), step, and into how many parts of one length what
    /// follows is divided, of which the keys are the first (0: one).
    Range(i64, usize, usize),
    /// Place of their number, of the first of them (both from where the specification begins), and step.
    Counted(usize, usize, usize),
    /// Only the command itself knows.
    Unknown,
}

/// Where keys stand among the arguments.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeySpec {
    /// Where they begin.
    pub(super) begin: Begin,
    /// Where they go on.
    pub(super) find: Find,
    /// As COMMAND INFO names them, between blanks.
    pub(super) flags: &'static str,
    /// For people; may be empty.
    pub(super) notes: &'static str,
}

impl KeySpec {
    pub(super) const fn new(begin: Begin, find: Find, flags: &'static str) -> Self {
        Self { begin, find, flags, notes: "" }
    }

    pub(super) const fn notes(mut self, notes: &'static str) -> Self {
        self.notes = notes;
        self
    }

    /// Whether these keys are written.
    pub(super) fn writes(&self) -> bool {
        self.flags.split(' ').any(|flag| matches!(flag, "RW" | "OW" | "RM"))
    }

    /// Places of its keys; none where the request names none. `None` for a request that names them wrongly.
    pub(super) fn places(&self, args: Args<'_>) -> Option<Vec<usize>> {
        let Some(first) = self.first(args) else { return Some(Vec::new()) };
        let (first, last, step) = match self.find {
            Find::Range(last, step, parts) => (first, last_of_range(first, last, parts, args.len())?, step),
            Find::Counted(number, begin, step) => {
                let count = parse_integer(args.get(first + number)?).and_then(|count| usize::try_from(count).ok())?;
                let begin = first + begin;
                let last = begin.checked_add(count.checked_sub(1)?.checked_mul(step)?)?;
                (begin, last, step)
            }
            Find::Unknown => return Some(Vec::new()),
        };
        if last >= args.len() || last < first {
            return None;
        }
        Some((first..=last).step_by(step.max(1)).collect())
    }

    /// Where the specification begins in this request.
    fn first(&self, args: Args<'_>) -> Option<usize> {
        match self.begin {
            Begin::At(at) => Some(at),
            Begin::Unknown => None,
            Begin::After(word, from) => {
                let is_it = |at: &usize| args.at(*at).eq_ignore_ascii_case(word.as_bytes());
                let place = match usize::try_from(from) {
                    Ok(from) => (from..args.len().saturating_sub(1)).find(is_it),
                    Err(_negative) => {
                        let back = usize::try_from(from.unsigned_abs()).unwrap_or(usize::MAX);
                        (1..=args.len().saturating_sub(back)).rev().find(is_it)
                    }
                };
                place.map(|place| place + 1)
            }
        }
    }
}

fn last_of_range(first: usize, last: i64, parts: usize, len: usize) -> Option<usize> {
    let back = usize::try_from(last.unsigned_abs()).ok()?;
    match (last >= 0, parts) {
        (true, _) => Some(first + back),
        (false, 0) => len.checked_sub(back),
        (false, parts) => (first + len.checked_sub(first)? / parts).checked_sub(back),
    }
}

#[cfg(test)]
mod tests {
    use crate::resp::{frame::Owned, table::COMMANDS};

    fn keys(request: &str) -> Option<String> {
        let request = Owned::new(request.split(' ').map(str::as_bytes));
        let args = request.args();
        let row = COMMANDS.resolve(args).unwrap().row;
        let mut places = Vec::new();
        for spec in row.keys {
            places.extend(spec.places(args)?);
        }
        let names: Vec<_> = places.into_iter().map(|at| String::from_utf8_lossy(args.at(at)).into_owned()).collect();
        Some(names.join(" "))
    }

    #[test]
    fn keys_stand_where_redis_says() {
        for (request, wanted) in [
            ("get k", Some("k")),
            ("mset a 1 b 2", Some("a b")),
            ("del a b c", Some("a b c")),
            ("zunionstore d 2 a b weights 1 2", Some("d a b")),
            ("zunionstore d 9 a b", None),
            ("zunionstore d x a b", None),
            ("zunionstore d 0 a b", None),
            ("zinter 2 a b withscores", Some("a b")),
            ("xread count 2 streams a b 0 0", Some("a b")),
            ("xread block 0 count 2 streams a 0", Some("a")),
            ("xreadgroup group g c streams a b > >", Some("a b")),
            ("georadius k 1 2 3 m store d", Some("k d")),
            ("georadius k 1 2 3 m", Some("k")),
            ("blpop a b 0", Some("a b")),
            ("lmpop 2 a b left", Some("a b")),
            ("bitop and d a b", Some("d a b")),
            ("object encoding k", Some("k")),
        ] {
            assert_eq!(keys(request).as_deref(), wanted, "{request}");
        }
    }
}
