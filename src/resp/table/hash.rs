//! Rows of the hash commands, forwarded to Redis.

use crate::resp::{
    command::{Row, Run},
    exec::element_scan,
    key_spec::{Begin, Find, KeySpec},
    table::{PASS, later},
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("hdel", -3, PASS)
        .flags("write fast")
        .categories("write hash fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW delete")])
        .doc("hash", "2.0.0", "O(N) where N is the number of fields to be removed.", "Delete one or more hash fields")
        .arguments("key:key#0 field*"),
    Row::new("hexists", 3, PASS)
        .flags("readonly fast")
        .categories("read hash fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
        .doc("hash", "2.0.0", "O(1)", "Determine if a hash field exists")
        .arguments("key:key#0 field"),
    Row::new("hget", 3, PASS)
        .flags("readonly fast")
        .categories("read hash fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("hash", "2.0.0", "O(1)", "Get the value of a hash field")
        .arguments("key:key#0 field"),
    Row::new("hgetall", 2, PASS)
        .flags("readonly")
        .categories("read hash slow")
        .tips("nondeterministic_output_order")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("hash", "2.0.0", "O(N) where N is the size of the hash.", "Get all the fields and values in a hash")
        .arguments("key:key#0"),
    Row::new("hincrby", 4, PASS)
        .flags("write denyoom fast")
        .categories("write hash fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access update")])
        .doc("hash", "2.0.0", "O(1)", "Increment the integer value of a hash field by the given number")
        .arguments("key:key#0 field increment:integer"),
    Row::new("hincrbyfloat", 4, PASS)
        .flags("write denyoom fast")
        .categories("write hash fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access update")])
        .doc("hash", "2.6.0", "O(1)", "Increment the float value of a hash field by the given amount")
        .arguments("key:key#0 field increment:double"),
    Row::new("hkeys", 2, PASS)
        .flags("readonly")
        .categories("read hash slow")
        .tips("nondeterministic_output_order")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("hash", "2.0.0", "O(N) where N is the size of the hash.", "Get all the fields in a hash")
        .arguments("key:key#0"),
    Row::new("hlen", 2, PASS)
        .flags("readonly fast")
        .categories("read hash fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
        .doc("hash", "2.0.0", "O(1)", "Get the number of fields in a hash")
        .arguments("key:key#0"),
    Row::new("hmget", -3, PASS)
        .flags("readonly fast")
        .categories("read hash fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("hash", "2.0.0", "O(N) where N is the number of fields being requested.", "Get the values of all the given hash fields")
        .arguments("key:key#0 field*"),
    Row::new("hmset", -4, PASS)
        .flags("write denyoom fast")
        .categories("write hash fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update")])
        .doc("hash", "2.0.0", "O(N) where N is the number of fields being set.", "Set multiple hash fields to multiple values")
        .deprecated("4.0.0", "`HSET` with multiple field-value pairs")
        .arguments("key:key#0 field_value*:block(field value)"),
    Row::new("hrandfield", -2, PASS)
        .flags("readonly")
        .categories("read hash slow")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("hash", "6.2.0", "O(N) where N is the number of fields returned", "Get one or multiple random fields from a hash")
        .arguments("key:key#0 options?:block(count:integer withvalues?:token='WITHVALUES')"),
    Row::new("hscan", -3, later!(element_scan::scan))
        .flags("readonly")
        .categories("read hash slow")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("hash", "2.8.0", "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor to return back to 0. N is the number of elements inside the collection..", "Incrementally iterate hash fields and associated values")
        .arguments("key:key#0 cursor:integer pattern?:pattern='MATCH' count?:integer='COUNT'"),
    Row::new("hset", -4, PASS)
        .flags("write denyoom fast")
        .categories("write hash fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update")])
        .doc("hash", "2.0.0", "O(1) for each field/value pair added, so O(N) to add N field/value pairs when the command is called with multiple field/value pairs.", "Set the string value of a hash field")
        .arguments("key:key#0 field_value*:block(field value)"),
    Row::new("hsetnx", 4, PASS)
        .flags("write denyoom fast")
        .categories("write hash fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW insert")])
        .doc("hash", "2.0.0", "O(1)", "Set the value of a hash field, only if the field does not exist")
        .arguments("key:key#0 field value"),
    Row::new("hstrlen", 3, PASS)
        .flags("readonly fast")
        .categories("read hash fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
        .doc("hash", "3.2.0", "O(1)", "Get the length of the value of a hash field")
        .arguments("key:key#0 field"),
    Row::new("hvals", 2, PASS)
        .flags("readonly")
        .categories("read hash slow")
        .tips("nondeterministic_output_order")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("hash", "2.0.0", "O(N) where N is the size of the hash.", "Get all the values in a hash")
        .arguments("key:key#0"),
];
