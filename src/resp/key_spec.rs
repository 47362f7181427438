//! Positions of the keys of a request among its arguments.
//!
//! Specifications have the format of Redis: where the keys begin, and how to find the others. The implementation of
//! SORT handles the keys that this format cannot describe.

use super::frame::Args;
use crate::cache::op::parse_integer;

/// Position of the first key of a specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// At this position.
    At(usize),
    /// After this keyword, searched from this position; a negative position counts from the end and searches backwards.
    After(&'static str, i64),
    /// Not described by the specification.
    Unknown,
}

/// Positions of the other keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Find {
    /// Position of the last key (relative to the first, or negative from the end), step, and the number of equal parts
    /// of the remaining arguments, of which the first part contains the keys (0: one part).
    Range(i64, usize, usize),
    /// Position of the number of keys and of the first key (both relative to the start), and step.
    Counted(usize, usize, usize),
    /// Not described by the specification.
    Unknown,
}

/// Positions of keys among the arguments.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeySpec {
    /// Position of the first key.
    pub(super) begin: Begin,
    /// Positions of the other keys.
    pub(super) find: Find,
    /// Flags as in COMMAND INFO, separated by spaces.
    pub(super) flags: &'static str,
    /// Notes for users; may be empty.
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

    /// Returns `true` if the command writes these keys.
    pub(super) fn writes(&self) -> bool {
        self.flags.split(' ').any(|flag| matches!(flag, "RW" | "OW" | "RM"))
    }

    /// Returns the positions of the keys of a request, possibly none. Returns `None` for malformed arguments.
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

    /// Returns the start of the specification in a request.
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

/// Returns the keys of a request that a specification does not fit, as the functions for movable keys of Redis find them:
/// for a number of keys such as `2x`, Redis takes the leading digits. Redis gives these keys no flags.
pub(super) fn places_without_specs(specs: &[KeySpec], args: Args<'_>) -> Vec<usize> {
    let mut places = Vec::new();
    for spec in specs {
        match (spec.begin, spec.find) {
            (Begin::After("STREAMS", _), _) => return places_of_streams(args),
            (Begin::At(at), Find::Counted(number, begin, _)) => {
                let (first, count) = (at + begin, args.get(at + number).map_or(0, leading_number));
                let room = args.len().saturating_sub(first);
                let Some(count) = usize::try_from(count).ok().filter(|count| (1..=room).contains(count)) else {
                    return Vec::new();
                };
                // The destination follows.
                places.splice(0..0, first..first + count);
            }
            (Begin::At(at), Find::Range(0, ..)) => places.push(at),
            (..) => return Vec::new(),
        }
    }
    places
}

/// Returns the keys of XREAD or XREADGROUP, parsed as Redis parses the options when it runs the command: a group or a
/// consumer may have the name of an option. Empty for malformed arguments.
pub(super) fn places_of_streams(args: Args<'_>) -> Vec<usize> {
    let mut at = 1;
    while at < args.len() {
        let word = args.at(at);
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        at += match () {
            () if is("streams") => {
                let streams = args.len() - at - 1;
                // As many IDs as keys follow.
                return if streams.is_multiple_of(2) { (at + 1..=at + streams / 2).collect() } else { Vec::new() };
            }
            () if is("block") || is("count") => 2,
            () if is("group") => 3,
            () if is("noack") => 1,
            () => return Vec::new(),
        };
    }
    Vec::new()
}

/// Parses the number at the beginning of a text like `atoi` of C; 0 if there is none. The result is cut to 32 bits, as
/// on Linux.
#[expect(clippy::cast_possible_truncation, reason = "as atoi does")]
fn leading_number(text: &[u8]) -> i32 {
    let text = text.trim_ascii_start();
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let mut number = 0_i64;
    for digit in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        let digit = i64::from(digit - b'0');
        number = number.saturating_mul(10).saturating_add(if is_negative { -digit } else { digit });
    }
    number as i32
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
    use super::*;
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
    /// The first request was found by a random test. Replies of redis-server 7.0.15 to COMMAND GETKEYSANDFLAGS.
    #[test]
    fn keys_without_fitting_specifications_are_those_of_redis() {
        for (request, wanted) in [
            ("xreadgroup STREAMS store -2 ANY withscores block get streams nx", "store -2 ANY withscores"),
            ("xreadgroup streams a b c d streams e", "a b c"),
            ("xreadgroup streams a b c streams d", ""),
            ("zunionstore d 2x a b", "a b d"),
            ("zunionstore d x a b", ""),
            ("zunionstore d 3x a b", ""),
            ("zunionstore d -1 a b", ""),
            ("zunionstore d 99999999999999999999 a b", ""),
            ("lmpop +1 a left", "a"),
            ("sintercard 1x a", "a"),
            ("bzmpop 0 1x a min", "a"),
        ] {
            let owned = Owned::new(request.split(' ').map(str::as_bytes));
            let args = owned.args();
            let specs = COMMANDS.resolve(args).unwrap().row.keys;
            assert!(specs.iter().any(|spec| spec.places(args).is_none()), "{request}");
            let places = places_without_specs(specs, args);
            let names: Vec<_> = places.into_iter().map(|at| String::from_utf8_lossy(args.at(at))).collect();
            assert_eq!(names.join(" "), wanted, "{request}");
        }
    }
}
