//! Rows of the HyperLogLog commands, forwarded to Redis.

use crate::resp::{
    command::Row,
    key_spec::{Begin, Find, KeySpec},
    table::PASS,
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("pfadd", -2, PASS)
        .flags("write denyoom fast")
        .categories("write hyperloglog fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW insert")])
        .doc("hyperloglog", "2.8.9", "O(1) to add every element.", "Adds the specified elements to the specified HyperLogLog.")
        .arguments("key:key#0 element?*"),
    Row::new("pfcount", -2, PASS)
        .flags("readonly")
        .categories("read hyperloglog slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-1, 1, 0), "RW access").notes("RW because it may change the internal representation of the key, and propagate to replicas")])
        .doc("hyperloglog", "2.8.9", "O(1) with a very small average constant time when called with a single key. O(N) with N being the number of keys, and much bigger constant times, when called with multiple keys.", "Return the approximated cardinality of the set(s) observed by the HyperLogLog at key(s).")
        .arguments("key*:key#0"),
    Row::new("pfmerge", -2, PASS)
        .flags("write denyoom")
        .categories("write hyperloglog slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access insert"), KeySpec::new(Begin::At(2), Find::Range(-1, 1, 0), "RO access")])
        .doc("hyperloglog", "2.8.9", "O(N) to merge N HyperLogLogs, but with high constant times.", "Merge N different HyperLogLogs into a single one.")
        .arguments("destkey:key#0 sourcekey*:key#1"),
];
