//! Reads of types other than strings with an L2 that stores strings only: no key has such a type, so the reply is that of
//! Redis for an absent key, or for a key of the wrong type.
//!
//! Clients look for keys before they use them, and some do not read an error in place of a list: phpredis 5.3 takes the next
//! reply for the reply of a refused HSCAN. Writes and blocking commands are refused.

use super::{integer, is, keys::check_cursor};
use crate::{
    error::{CacheError, Kind},
    model::Key,
    resp::{
        command::{Context, Row},
        frame::Args,
        reply::{Done, Refusal, Reply},
    },
};

/// Reply for an absent key.
#[derive(Clone, Copy)]
enum Absent {
    Zero,
    Null,
    NullArray,
    Array,
    Set,
    Map,
    /// A null for each argument after the key.
    Nulls,
    /// A null array for each argument after the key.
    NullArrays,
    /// 0 for each argument after the key.
    Zeros,
    /// One random element is a null, and a number of them is an array.
    NullOrArray,
    /// An array with the option COUNT, otherwise a null.
    NullOrArrayWithCount,
    /// The last page of a scan.
    LastPage,
    /// An error: the command describes a key.
    NoSuchKey,
    /// An error: the command describes a consumer group.
    NoGroup,
}

/// The reads, with their replies and the positions of arguments that must be integers, in alphabetical order. Redis checks
/// these arguments before the key.
const READS: &[(&str, Absent, &[usize])] = &[
    ("geodist", Absent::Null, &[]),
    ("geohash", Absent::Nulls, &[]),
    ("geopos", Absent::NullArrays, &[]),
    ("georadius_ro", Absent::Array, &[]),
    ("georadiusbymember_ro", Absent::Array, &[]),
    ("geosearch", Absent::Array, &[]),
    ("hexists", Absent::Zero, &[]),
    ("hget", Absent::Null, &[]),
    ("hgetall", Absent::Map, &[]),
    ("hkeys", Absent::Array, &[]),
    ("hlen", Absent::Zero, &[]),
    ("hmget", Absent::Nulls, &[]),
    ("hrandfield", Absent::NullOrArray, &[2]),
    ("hscan", Absent::LastPage, &[]),
    ("hstrlen", Absent::Zero, &[]),
    ("hvals", Absent::Array, &[]),
    ("lindex", Absent::Null, &[]),
    ("llen", Absent::Zero, &[]),
    ("lpos", Absent::NullOrArrayWithCount, &[]),
    ("lrange", Absent::Array, &[2, 3]),
    ("scard", Absent::Zero, &[]),
    ("sdiff", Absent::Set, &[]),
    ("sinter", Absent::Set, &[]),
    ("sintercard", Absent::Zero, &[]),
    ("sismember", Absent::Zero, &[]),
    ("smembers", Absent::Set, &[]),
    ("smismember", Absent::Zeros, &[]),
    ("sort_ro", Absent::Array, &[]),
    ("srandmember", Absent::NullOrArray, &[2]),
    ("sscan", Absent::LastPage, &[]),
    ("sunion", Absent::Set, &[]),
    ("xinfo|consumers", Absent::NoSuchKey, &[]),
    ("xinfo|groups", Absent::NoSuchKey, &[]),
    ("xinfo|stream", Absent::NoSuchKey, &[]),
    ("xlen", Absent::Zero, &[]),
    ("xpending", Absent::NoGroup, &[]),
    ("xrange", Absent::Array, &[]),
    ("xread", Absent::NullArray, &[]),
    ("xrevrange", Absent::Array, &[]),
    ("zcard", Absent::Zero, &[]),
    ("zcount", Absent::Zero, &[]),
    ("zdiff", Absent::Array, &[]),
    ("zinter", Absent::Array, &[]),
    ("zintercard", Absent::Zero, &[]),
    ("zlexcount", Absent::Zero, &[]),
    ("zmscore", Absent::Nulls, &[]),
    ("zrandmember", Absent::NullOrArray, &[2]),
    ("zrange", Absent::Array, &[]),
    ("zrangebylex", Absent::Array, &[]),
    ("zrangebyscore", Absent::Array, &[]),
    ("zrank", Absent::Null, &[]),
    ("zrevrange", Absent::Array, &[2, 3]),
    ("zrevrangebylex", Absent::Array, &[]),
    ("zrevrangebyscore", Absent::Array, &[]),
    ("zrevrank", Absent::Null, &[]),
    ("zscan", Absent::LastPage, &[]),
    ("zscore", Absent::Null, &[]),
    ("zunion", Absent::Array, &[]),
];

/// A read whose reply is known without Redis.
#[derive(Clone, Copy)]
pub(super) struct AbsentRead {
    reply: Absent,
    integers: &'static [usize],
}

impl AbsentRead {
    /// Returns the read of a row; `None` for a write, a blocking command, and a command on strings.
    pub(super) fn of(row: &Row, args: Args<'_>) -> Option<Self> {
        let at = READS.binary_search_by_key(&row.name, |(name, ..)| name).ok()?;
        let (name, reply, integers) = READS[at];
        // XREAD with BLOCK would have to wait for a stream that cannot come.
        let waits = name == "xread" && (1..args.len()).any(|at| is(args.at(at), "block"));
        (!waits).then_some(Self { reply, integers })
    }

    /// Replies as Redis does if none of the keys exists, or as it does for strings.
    ///
    /// # Errors
    /// WRONGTYPE, an argument that is not an integer, or a failure of the store.
    pub(super) async fn answer(self, cx: &mut Context<'_>, args: Args<'_>, keys: Vec<Key>) -> Done {
        for at in self.integers {
            if let Some(text) = args.get(*at) {
                integer(text)?;
            }
        }
        if matches!(self.reply, Absent::LastPage) {
            check_cursor(args.at(2))?;
        }
        if keys.is_empty() {
            // The number of keys is larger than the number of arguments.
            let is_sintercard = cx.row.name == "sintercard";
            let text =
                if is_sintercard { "Number of keys can't be greater than number of args" } else { "syntax error" };
            return Err(Refusal::text(format!("ERR {text}")));
        }
        if cx.describe_many(keys).await?.iter().any(Option::is_some) {
            return Err(CacheError::new(Kind::WrongType, "the key holds a string").into());
        }
        self.reply.write(cx.reply, args)
    }
}

impl Absent {
    fn write(self, reply: &mut Reply, args: Args<'_>) -> Done {
        let rest = args.len().saturating_sub(2);
        match self {
            Self::Zero => reply.integer(0),
            Self::Null => reply.null(),
            Self::NullArray => reply.null_array(),
            Self::Array => reply.array(0),
            Self::Set => reply.set(0),
            Self::Map => reply.map(0),
            Self::Nulls => {
                reply.array(rest);
                (0..rest).for_each(|_| reply.null());
            }
            Self::NullArrays => {
                reply.array(rest);
                (0..rest).for_each(|_| reply.null_array());
            }
            Self::Zeros => {
                reply.array(rest);
                (0..rest).for_each(|_| reply.integer(0));
            }
            Self::NullOrArray if rest > 0 => reply.array(0),
            Self::NullOrArrayWithCount if (3..args.len()).any(|at| is(args.at(at), "count")) => reply.array(0),
            Self::NullOrArray | Self::NullOrArrayWithCount => reply.null(),
            Self::LastPage => {
                reply.array(2);
                reply.bulk(b"0");
                reply.array(0);
            }
            Self::NoSuchKey => return Err(Refusal::text("ERR no such key")),
            Self::NoGroup => {
                let show = |at| String::from_utf8_lossy(args.at(at)).into_owned();
                let text = format!("NOGROUP No such key '{}' or consumer group '{}'", show(1), show(2));
                return Err(Refusal::text(text));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::table::COMMANDS;

    #[test]
    fn reads_are_sorted_and_change_nothing() {
        assert!(READS.is_sorted_by_key(|(name, ..)| *name));
        for (name, ..) in READS {
            let words: Vec<&[u8]> = name.split('|').map(str::as_bytes).collect();
            let request = crate::resp::frame::Owned::new(words.into_iter());
            let row = COMMANDS.resolve(request.args()).unwrap().row;
            assert!(row.name == *name && row.flags.split(' ').any(|flag| flag == "readonly"), "{name}");
        }
    }
}
