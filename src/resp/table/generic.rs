//! Rows of the commands for keys of any type.

use crate::resp::{
    command::{Row, Run},
    exec::{
        catalog,
        expiry::{self, Shown, Start, Unit},
        keys, multi_key, object, pass_through, server,
    },
    key_spec::{Begin, Find, KeySpec},
    table::later,
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("copy", -3, later!(multi_key::copy))
        .flags("write denyoom")
        .categories("keyspace write slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access"), KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "OW update")])
        .doc("generic", "6.2.0", "O(N) worst case for collections, where N is the number of nested items. O(1) for string values.", "Copy a key")
        .arguments("source:key#0 destination:key#1 destination-db?:integer='DB' replace?:token='REPLACE'"),
    Row::new("del", -2, later!(keys::del))
        .flags("write")
        .categories("keyspace write slow")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-1, 1, 0), "RM delete")])
        .doc("generic", "1.0.0", "O(N) where N is the number of keys that will be removed. When a key to remove holds a value other than a string, the individual complexity for this key is O(M) where M is the number of elements in the list, set, sorted set or hash. Removing a single key that holds a string value is O(1).", "Delete a key")
        .arguments("key*:key#0"),
    Row::new("exists", -2, later!(keys::exists))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-1, 1, 0), "RO")])
        .doc("generic", "1.0.0", "O(N) where N is the number of keys to check.", "Determine if a key exists")
        .arguments("key*:key#0"),
    Row::new("expire", -3, later!(expiry::expire, Unit::Seconds, Start::Now))
        .flags("write fast")
        .categories("keyspace write fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update")])
        .doc("generic", "1.0.0", "O(1)", "Set a key's time to live in seconds")
        .arguments("key:key#0 seconds:integer condition?:oneof@7.0.0(nx:token='NX' xx:token='XX' gt:token='GT' lt:token='LT')"),
    Row::new("expireat", -3, later!(expiry::expire, Unit::Seconds, Start::Epoch))
        .flags("write fast")
        .categories("keyspace write fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update")])
        .doc("generic", "1.2.0", "O(1)", "Set the expiration for a key as a UNIX timestamp")
        .arguments("key:key#0 unix-time-seconds:unix-time condition?:oneof@7.0.0(nx:token='NX' xx:token='XX' gt:token='GT' lt:token='LT')"),
    Row::new("expiretime", 2, later!(expiry::ttl, Shown::UnixSeconds))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("generic", "7.0.0", "O(1)", "Get the expiration Unix timestamp for a key")
        .arguments("key:key#0"),
    Row::new("keys", 2, later!(keys::keys))
        .flags("readonly")
        .categories("keyspace read slow dangerous")
        .tips("request_policy:all_shards nondeterministic_output_order")
        .doc("generic", "1.0.0", "O(N) with N being the number of keys in the database, under the assumption that the key names in the database and the given pattern have limited length.", "Find all keys matching the given pattern")
        .arguments("pattern:pattern"),
    Row::new("object", -2, Run::Container)
        .categories("slow")
        .doc("generic", "2.2.3", "Depends on subcommand.", "A container for object introspection commands")
        .subcommands(OBJECT),
    Row::new("persist", 2, later!(expiry::persist))
        .flags("write fast")
        .categories("keyspace write fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update")])
        .doc("generic", "2.2.0", "O(1)", "Remove the expiration from a key")
        .arguments("key:key#0"),
    Row::new("pexpire", -3, later!(expiry::expire, Unit::Millis, Start::Now))
        .flags("write fast")
        .categories("keyspace write fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update")])
        .doc("generic", "2.6.0", "O(1)", "Set a key's time to live in milliseconds")
        .arguments("key:key#0 milliseconds:integer condition?:oneof@7.0.0(nx:token='NX' xx:token='XX' gt:token='GT' lt:token='LT')"),
    Row::new("pexpireat", -3, later!(expiry::expire, Unit::Millis, Start::Epoch))
        .flags("write fast")
        .categories("keyspace write fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update")])
        .doc("generic", "2.6.0", "O(1)", "Set the expiration for a key as a UNIX timestamp specified in milliseconds")
        .arguments("key:key#0 unix-time-milliseconds:unix-time condition?:oneof@7.0.0(nx:token='NX' xx:token='XX' gt:token='GT' lt:token='LT')"),
    Row::new("pexpiretime", 2, later!(expiry::ttl, Shown::UnixMillis))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("generic", "7.0.0", "O(1)", "Get the expiration Unix timestamp for a key in milliseconds")
        .arguments("key:key#0"),
    Row::new("pttl", 2, later!(expiry::ttl, Shown::MillisLeft))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("generic", "2.6.0", "O(1)", "Get the time to live for a key in milliseconds")
        .arguments("key:key#0"),
    Row::new("randomkey", 1, later!(keys::randomkey))
        .flags("readonly")
        .categories("keyspace read slow")
        .tips("request_policy:all_shards nondeterministic_output")
        .doc("generic", "1.0.0", "O(1)", "Return a random key from the keyspace"),
    Row::new("rename", 3, later!(multi_key::rename))
        .flags("write")
        .categories("keyspace write slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access delete"), KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "OW update")])
        .doc("generic", "1.0.0", "O(1)", "Rename a key")
        .arguments("key:key#0 newkey:key#1"),
    Row::new("renamenx", 3, later!(multi_key::renamenx))
        .flags("write fast")
        .categories("keyspace write fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access delete"), KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "OW insert")])
        .doc("generic", "1.0.0", "O(1)", "Rename a key, only if the new key does not exist")
        .arguments("key:key#0 newkey:key#1"),
    Row::new("scan", -2, later!(keys::scan))
        .flags("readonly")
        .categories("keyspace read slow")
        .tips("nondeterministic_output request_policy:special")
        .doc("generic", "2.8.0", "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor to return back to 0. N is the number of elements inside the collection.", "Incrementally iterate the keys space")
        .arguments("cursor:integer pattern?:pattern='MATCH' count?:integer='COUNT' type?='TYPE'@6.0.0"),
    Row::new("sort", -2, later!(pass_through::sort))
        .flags("write denyoom movablekeys")
        .categories("write set sortedset list slow dangerous")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access"), KeySpec::new(Begin::Unknown, Find::Unknown, "RO access").notes("For the optional BY/GET keyword. It is marked 'unknown' because the key names derive from the content of the key we sort"), KeySpec::new(Begin::Unknown, Find::Unknown, "OW update").notes("For the optional STORE keyword. It is marked 'unknown' because the keyword can appear anywhere in the argument array")])
        .doc("generic", "1.0.0", "O(N+M*log(M)) where N is the number of elements in the list or set to sort, and M the number of returned elements. When the elements are not sorted, complexity is O(N).", "Sort the elements in a list, set or sorted set")
        .arguments("key:key#0 pattern?:pattern#1='BY' offset_count?:block='LIMIT'(offset:integer count:integer) pattern?*+:pattern#1='GET' order?:oneof(asc:token='ASC' desc:token='DESC') sorting?:token='ALPHA' destination?:key#2='STORE'"),
    Row::new("sort_ro", -2, later!(pass_through::sort))
        .flags("readonly movablekeys")
        .categories("read set sortedset list slow dangerous")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access"), KeySpec::new(Begin::Unknown, Find::Unknown, "RO access").notes("For the optional BY/GET keyword. It is marked 'unknown' because the key names derive from the content of the key we sort")])
        .doc("generic", "7.0.0", "O(N+M*log(M)) where N is the number of elements in the list or set to sort, and M the number of returned elements. When the elements are not sorted, complexity is O(N).", "Sort the elements in a list, set or sorted set. Read-only variant of SORT.")
        .arguments("key:key#0 pattern?:pattern#1='BY' offset_count?:block='LIMIT'(offset:integer count:integer) pattern?*+:pattern#1='GET' order?:oneof(asc:token='ASC' desc:token='DESC') sorting?:token='ALPHA'"),
    Row::new("touch", -2, later!(keys::exists))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-1, 1, 0), "RO")])
        .doc("generic", "3.2.1", "O(N) where N is the number of keys that will be touched.", "Alters the last access time of a key(s). Returns the number of existing keys specified.")
        .arguments("key*:key#0"),
    Row::new("ttl", 2, later!(expiry::ttl, Shown::SecondsLeft))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("generic", "1.0.0", "O(1)", "Get the time to live for a key in seconds")
        .arguments("key:key#0"),
    Row::new("type", 2, later!(keys::type_of))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
        .doc("generic", "1.0.0", "O(1)", "Determine the type stored at key")
        .arguments("key:key#0"),
    Row::new("unlink", -2, later!(keys::del))
        .flags("write fast")
        .categories("keyspace write fast")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-1, 1, 0), "RM delete")])
        .doc("generic", "4.0.0", "O(1) for each key removed regardless of its size. Then the command does O(N) work in a different thread in order to reclaim memory, where N is the number of allocations the deleted objects where composed of.", "Delete a key asynchronously in another thread. Otherwise it is just as DEL, but non blocking.")
        .arguments("key*:key#0"),
    Row::new("wait", 3, Run::Now(server::wait))
        .flags("noscript")
        .categories("slow connection")
        .tips("request_policy:all_shards response_policy:agg_min")
        .doc("generic", "3.0.0", "O(1)", "Wait for the synchronous replication of all the write commands sent in the context of the current connection")
        .arguments("numreplicas:integer timeout:integer"),
];

/// Subcommands of OBJECT.
const OBJECT: &[Row] = &[
    Row::new("object|encoding", 3, later!(object::encoding))
        .flags("readonly")
        .categories("keyspace read slow")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RO")])
        .doc("generic", "2.2.3", "O(1)", "Inspect the internal encoding of a Redis object")
        .arguments("key:key#0"),
    Row::new("object|freq", 3, later!(object::freq))
        .flags("readonly")
        .categories("keyspace read slow")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RO")])
        .doc("generic", "4.0.0", "O(1)", "Get the logarithmic access frequency counter of a Redis object")
        .arguments("key:key#0"),
    Row::new("object|help", 2, Run::Now(catalog::help)).flags("loading stale").categories("keyspace slow").doc(
        "generic",
        "6.2.0",
        "O(1)",
        "Show helpful text about the different subcommands",
    ),
    Row::new("object|idletime", 3, later!(object::idletime))
        .flags("readonly")
        .categories("keyspace read slow")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RO")])
        .doc("generic", "2.2.3", "O(1)", "Get the time since a Redis object was last accessed")
        .arguments("key:key#0"),
    Row::new("object|refcount", 3, later!(object::refcount))
        .flags("readonly")
        .categories("keyspace read slow")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RO")])
        .doc("generic", "2.2.3", "O(1)", "Get the number of references to the value of the key")
        .arguments("key:key#0"),
];
