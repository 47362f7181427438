//! Rows of the set commands, forwarded to Redis.

use crate::resp::{
    command::{Row, Run},
    exec::element_scan,
    key_spec::{Begin, Find, KeySpec},
    table::{PASS, later},
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("sadd", -3, PASS)
        .flags("write denyoom fast")
        .categories("write set fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW insert")])
        .doc("set", "1.0.0", "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.", "Add one or more members to a set")
        .arguments("key:key#0 member*"),
    Row::new("scard", 2, PASS)
        .flags("readonly fast")
        .categories("read set fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
        .doc("set", "1.0.0", "O(1)", "Get the number of members in a set")
        .arguments("key:key#0"),
    Row::new("sdiff", -2, PASS)
        .flags("readonly")
        .categories("read set slow")
        .tips("nondeterministic_output_order")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-1, 1, 0), "RO access")])
        .doc("set", "1.0.0", "O(N) where N is the total number of elements in all given sets.", "Subtract multiple sets")
        .arguments("key*:key#0"),
    Row::new("sdiffstore", -3, PASS)
        .flags("write denyoom")
        .categories("write set slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "OW update"), KeySpec::new(Begin::At(2), Find::Range(-1, 1, 0), "RO access")])
        .doc("set", "1.0.0", "O(N) where N is the total number of elements in all given sets.", "Subtract multiple sets and store the resulting set in a key")
        .arguments("destination:key#0 key*:key#1"),
    Row::new("sinter", -2, PASS)
        .flags("readonly")
        .categories("read set slow")
        .tips("nondeterministic_output_order")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-1, 1, 0), "RO access")])
        .doc("set", "1.0.0", "O(N*M) worst case where N is the cardinality of the smallest set and M is the number of sets.", "Intersect multiple sets")
        .arguments("key*:key#0"),
    Row::new("sintercard", -3, PASS)
        .flags("readonly movablekeys")
        .categories("read set slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Counted(0, 1, 1), "RO access")])
        .doc("set", "7.0.0", "O(N*M) worst case where N is the cardinality of the smallest set and M is the number of sets.", "Intersect multiple sets and return the cardinality of the result")
        .arguments("numkeys:integer key*:key#0 limit?:integer='LIMIT'"),
    Row::new("sinterstore", -3, PASS)
        .flags("write denyoom")
        .categories("write set slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update"), KeySpec::new(Begin::At(2), Find::Range(-1, 1, 0), "RO access")])
        .doc("set", "1.0.0", "O(N*M) worst case where N is the cardinality of the smallest set and M is the number of sets.", "Intersect multiple sets and store the resulting set in a key")
        .arguments("destination:key#0 key*:key#1"),
    Row::new("sismember", 3, PASS)
        .flags("readonly fast")
        .categories("read set fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
        .doc("set", "1.0.0", "O(1)", "Determine if a given value is a member of a set")
        .arguments("key:key#0 member"),
    Row::new("smembers", 2, PASS)
        .flags("readonly")
        .categories("read set slow")
        .tips("nondeterministic_output_order")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("set", "1.0.0", "O(N) where N is the set cardinality.", "Get all the members in a set")
        .arguments("key:key#0"),
    Row::new("smismember", -3, PASS)
        .flags("readonly fast")
        .categories("read set fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("set", "6.2.0", "O(N) where N is the number of elements being checked for membership", "Returns the membership associated with the given elements for a set")
        .arguments("key:key#0 member*"),
    Row::new("smove", 4, PASS)
        .flags("write fast")
        .categories("write set fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access delete"), KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RW insert")])
        .doc("set", "1.0.0", "O(1)", "Move a member from one set to another")
        .arguments("source:key#0 destination:key#1 member"),
    Row::new("spop", -2, PASS)
        .flags("write fast")
        .categories("write set fast")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access delete")])
        .doc("set", "1.0.0", "Without the count argument O(1), otherwise O(N) where N is the value of the passed count.", "Remove and return one or multiple random members from a set")
        .arguments("key:key#0 count?:integer@3.2.0"),
    Row::new("srandmember", -2, PASS)
        .flags("readonly")
        .categories("read set slow")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("set", "1.0.0", "Without the count argument O(1), otherwise O(N) where N is the absolute value of the passed count.", "Get one or multiple random members from a set")
        .arguments("key:key#0 count?:integer@2.6.0"),
    Row::new("srem", -3, PASS)
        .flags("write fast")
        .categories("write set fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW delete")])
        .doc("set", "1.0.0", "O(N) where N is the number of members to be removed.", "Remove one or more members from a set")
        .arguments("key:key#0 member*"),
    Row::new("sscan", -3, later!(element_scan::scan))
        .flags("readonly")
        .categories("read set slow")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("set", "2.8.0", "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor to return back to 0. N is the number of elements inside the collection..", "Incrementally iterate Set elements")
        .arguments("key:key#0 cursor:integer pattern?:pattern='MATCH' count?:integer='COUNT'"),
    Row::new("sunion", -2, PASS)
        .flags("readonly")
        .categories("read set slow")
        .tips("nondeterministic_output_order")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-1, 1, 0), "RO access")])
        .doc("set", "1.0.0", "O(N) where N is the total number of elements in all given sets.", "Add multiple sets")
        .arguments("key*:key#0"),
    Row::new("sunionstore", -3, PASS)
        .flags("write denyoom")
        .categories("write set slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "OW update"), KeySpec::new(Begin::At(2), Find::Range(-1, 1, 0), "RO access")])
        .doc("set", "1.0.0", "O(N) where N is the total number of elements in all given sets.", "Add multiple sets and store the resulting set in a key")
        .arguments("destination:key#0 key*:key#1"),
];
