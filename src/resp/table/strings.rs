//! Rows of the string commands.

use crate::resp::{
    command::{Row, Run},
    exec::{expiry::Unit, lcs, multi_key, numbers, strings},
    key_spec::{Begin, Find, KeySpec},
    table::later,
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("append", 3, later!(strings::append))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW insert")])
        .doc("string", "2.0.0", "O(1). The amortized time complexity is O(1) assuming the appended value is small and the already present value is of any size, since the dynamic string library used by Redis will double the free space available on every reallocation.", "Append a value to a key")
        .arguments("key:key#0 value"),
    Row::new("decr", 2, later!(numbers::incr, -1))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access update")])
        .doc("string", "1.0.0", "O(1)", "Decrement the integer value of a key by one")
        .arguments("key:key#0"),
    Row::new("decrby", 3, later!(numbers::decrby))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access update")])
        .doc("string", "1.0.0", "O(1)", "Decrement the integer value of a key by the given number")
        .arguments("key:key#0 decrement:integer"),
    // GET has three paths. The first two require a client in db 0, authenticated, without a transaction, and no feature
    // that has to see single commands: no MONITOR, a SLOWLOG threshold of at least 1 ms (`Session::reads_plainly`).
    // 1. `Connection::answer_hits`: L1 has the value. The connection replies at once, without an allocation.
    // 2. `Connection::read_gets`, which calls `strings::get_pipelined`: L1 does not have the value. This GET and the
    //   next GETs of the pipeline use one call of the cache, so that L2 receives one request.
    // 3. `strings::get`, through `run::run` like any other command: all other cases.
    Row::new("get", 2, later!(strings::get))
        .flags("readonly fast")
        .categories("read string fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("string", "1.0.0", "O(1)", "Get the value of a key")
        .arguments("key:key#0"),
    Row::new("getdel", 2, later!(strings::getdel))
        .flags("write fast")
        .categories("write string fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access delete")])
        .doc("string", "6.2.0", "O(1)", "Get the value of a key and delete the key")
        .arguments("key:key#0"),
    Row::new("getex", -2, later!(strings::getex))
        .flags("write fast")
        .categories("write string fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access update").notes("RW and UPDATE because it changes the TTL")])
        .doc("string", "6.2.0", "O(1)", "Get the value of a key and optionally set its expiration")
        .arguments("key:key#0 expiration?:oneof(seconds:integer='EX' milliseconds:integer='PX' unix-time-seconds:unix-time='EXAT' unix-time-milliseconds:unix-time='PXAT' persist:token='PERSIST')"),
    Row::new("getrange", 4, later!(strings::getrange))
        .flags("readonly")
        .categories("read string slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("string", "2.4.0", "O(N) where N is the length of the returned string. The complexity is ultimately determined by the returned length, but because creating a substring from an existing string is very cheap, it can be considered O(1) for small strings.", "Get a substring of the string stored at a key")
        .arguments("key:key#0 start:integer end:integer"),
    Row::new("getset", 3, later!(strings::getset))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access update")])
        .doc("string", "1.0.0", "O(1)", "Set the string value of a key and return its old value")
        .deprecated("6.2.0", "`SET` with the `!GET` argument")
        .arguments("key:key#0 value"),
    Row::new("incr", 2, later!(numbers::incr, 1))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access update")])
        .doc("string", "1.0.0", "O(1)", "Increment the integer value of a key by one")
        .arguments("key:key#0"),
    Row::new("incrby", 3, later!(numbers::incrby))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access update")])
        .doc("string", "1.0.0", "O(1)", "Increment the integer value of a key by the given amount")
        .arguments("key:key#0 increment:integer"),
    Row::new("incrbyfloat", 3, later!(numbers::incrbyfloat))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access update")])
        .doc("string", "2.6.0", "O(1)", "Increment the float value of a key by the given amount")
        .arguments("key:key#0 increment:double"),
    Row::new("lcs", -3, later!(lcs::lcs))
        .flags("readonly")
        .categories("read string slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(1, 1, 0), "RO access")])
        .doc("string", "7.0.0", "O(N*M) where N and M are the lengths of s1 and s2, respectively", "Find longest common substring")
        .arguments("key1:key#0 key2:key#0 len?:token='LEN' idx?:token='IDX' len?:integer='MINMATCHLEN' withmatchlen?:token='WITHMATCHLEN'"),
    Row::new("mget", -2, later!(strings::mget))
        .flags("readonly fast")
        .categories("read string fast")
        .tips("request_policy:multi_shard")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-1, 1, 0), "RO access")])
        .doc("string", "1.0.0", "O(N) where N is the number of keys to retrieve.", "Get the values of all the given keys")
        .arguments("key*:key#0"),
    Row::new("mset", -3, later!(strings::mset))
        .flags("write denyoom")
        .categories("write string slow")
        .tips("request_policy:multi_shard response_policy:all_succeeded")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-1, 2, 0), "OW update")])
        .doc("string", "1.0.1", "O(N) where N is the number of keys to set.", "Set multiple keys to multiple values")
        .arguments("key_value*:block(key:key#0 value)"),
    Row::new("msetnx", -3, later!(multi_key::msetnx))
        .flags("write denyoom")
        .categories("write string slow")
        .tips("request_policy:multi_shard response_policy:agg_min")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-1, 2, 0), "OW insert")])
        .doc("string", "1.0.1", "O(N) where N is the number of keys to set.", "Set multiple keys to multiple values, only if none of the keys exist")
        .arguments("key_value*:block(key:key#0 value)"),
    Row::new("psetex", 4, later!(strings::setex, Unit::Millis))
        .flags("write denyoom")
        .categories("write string slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "OW update")])
        .doc("string", "2.6.0", "O(1)", "Set the value and expiration in milliseconds of a key")
        .arguments("key:key#0 milliseconds:integer value"),
    Row::new("set", -3, later!(strings::set))
        .flags("write denyoom")
        .categories("write string slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access update variable_flags").notes("RW and ACCESS due to the optional `GET` argument")])
        .doc("string", "1.0.0", "O(1)", "Set the string value of a key")
        .arguments("key:key#0 value condition?:oneof@2.6.12(nx:token='NX' xx:token='XX') get?:token='GET'@6.2.0 expiration?:oneof(seconds:integer='EX'@2.6.12 milliseconds:integer='PX'@2.6.12 unix-time-seconds:unix-time='EXAT'@6.2.0 unix-time-milliseconds:unix-time='PXAT'@6.2.0 keepttl:token='KEEPTTL'@6.0.0)"),
    Row::new("setex", 4, later!(strings::setex, Unit::Seconds))
        .flags("write denyoom")
        .categories("write string slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "OW update")])
        .doc("string", "2.0.0", "O(1)", "Set the value and expiration of a key")
        .arguments("key:key#0 seconds:integer value"),
    Row::new("setnx", 3, later!(strings::setnx))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "OW insert")])
        .doc("string", "1.0.0", "O(1)", "Set the value of a key, only if the key does not exist")
        .arguments("key:key#0 value"),
    Row::new("setrange", 4, later!(strings::setrange))
        .flags("write denyoom")
        .categories("write string slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update")])
        .doc("string", "2.2.0", "O(1), not counting the time taken to copy the new string in place. Usually, this string is very small so the amortized complexity is O(1). Otherwise, complexity is O(M) with M being the length of the value argument.", "Overwrite part of a string at key starting at the specified offset")
        .arguments("key:key#0 offset:integer value"),
    Row::new("strlen", 2, later!(strings::strlen))
        .flags("readonly fast")
        .categories("read string fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
        .doc("string", "2.2.0", "O(1)", "Get the length of the value stored in a key")
        .arguments("key:key#0"),
    Row::new("substr", 4, later!(strings::getrange))
        .flags("readonly")
        .categories("read string slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("string", "1.0.0", "O(N) where N is the length of the returned string. The complexity is ultimately determined by the returned length, but because creating a substring from an existing string is very cheap, it can be considered O(1) for small strings.", "Get a substring of the string stored at a key")
        .deprecated("2.0.0", "`GETRANGE`")
        .arguments("key:key#0 start:integer end:integer"),
];
