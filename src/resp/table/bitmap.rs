//! Rows of the bitmap commands, forwarded to Redis.

use crate::resp::{
    command::Row,
    key_spec::{Begin, Find, KeySpec},
    table::PASS,
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("bitcount", -2, PASS)
        .flags("readonly")
        .categories("read bitmap slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("bitmap", "2.6.0", "O(N)", "Count set bits in a string")
        .arguments("key:key#0 index?:block(start:integer end:integer index_unit?:oneof@7.0.0(byte:token='BYTE' bit:token='BIT'))"),
    Row::new("bitfield", -2, PASS)
        .flags("write denyoom")
        .categories("write bitmap slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access update variable_flags").notes("This command allows both access and modification of the key")])
        .doc("bitmap", "3.2.0", "O(1) for each subcommand specified", "Perform arbitrary bitfield integer operations on strings")
        .arguments("key:key#0 operation?*:oneof(encoding_offset:block='GET'(encoding offset:integer) write:block(wrap_sat_fail?:oneof='OVERFLOW'(wrap:token='WRAP' sat:token='SAT' fail:token='FAIL') write_operation:oneof(encoding_offset_value:block='SET'(encoding offset:integer value:integer) encoding_offset_increment:block='INCRBY'(encoding offset:integer increment:integer))))"),
    Row::new("bitfield_ro", -2, PASS)
        .flags("readonly fast")
        .categories("read bitmap fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("bitmap", "6.0.0", "O(1) for each subcommand specified", "Perform arbitrary bitfield integer operations on strings. Read-only variant of BITFIELD")
        .arguments("key:key#0 encoding_offset?*+:block='GET'(encoding offset:integer)"),
    Row::new("bitop", -4, PASS)
        .flags("write denyoom")
        .categories("write bitmap slow")
        .keys(&[KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "OW update"), KeySpec::new(Begin::At(3), Find::Range(-1, 1, 0), "RO access")])
        .doc("bitmap", "2.6.0", "O(N)", "Perform bitwise operations between strings")
        .arguments("operation destkey:key#0 key*:key#1"),
    Row::new("bitpos", -3, PASS)
        .flags("readonly")
        .categories("read bitmap slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("bitmap", "2.8.7", "O(N)", "Find first bit set or clear in a string")
        .arguments("key:key#0 bit:integer index?:block(start:integer end_index?:block(end:integer index_unit?:oneof@7.0.0(byte:token='BYTE' bit:token='BIT')))"),
    Row::new("getbit", 3, PASS)
        .flags("readonly fast")
        .categories("read bitmap fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("bitmap", "2.2.0", "O(1)", "Returns the bit value at offset in the string value stored at key")
        .arguments("key:key#0 offset:integer"),
    Row::new("setbit", 4, PASS)
        .flags("write denyoom")
        .categories("write bitmap slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access update")])
        .doc("bitmap", "2.2.0", "O(1)", "Sets or clears the bit at offset in the string value stored at key")
        .arguments("key:key#0 offset:integer value:integer"),
];
