//! Rows of the stream commands, forwarded to Redis.

use crate::resp::{
    command::{Row, Run},
    key_spec::{Begin, Find, KeySpec},
    table::PASS,
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("xack", -4, PASS)
        .flags("write fast")
        .categories("write stream fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update")])
        .doc("stream", "5.0.0", "O(1) for each message ID processed.", "Marks a pending message as correctly processed, effectively removing it from the pending entries list of the consumer group. Return value of the command is the number of messages successfully acknowledged, that is, the IDs we were actually able to resolve in the PEL.")
        .arguments("key:key#0 group id*"),
    Row::new("xadd", -5, PASS)
        .flags("write denyoom fast")
        .categories("write stream fast")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update").notes("UPDATE instead of INSERT because of the optional trimming feature")])
        .doc("stream", "5.0.0", "O(1) when adding a new entry, O(N) when trimming where N being the number of entries evicted.", "Appends a new entry to a stream")
        .arguments("key:key#0 nomkstream?:token='NOMKSTREAM'@6.2.0 trim?:block(strategy:oneof(maxlen:token='MAXLEN' minid:token='MINID'@6.2.0) operator?:oneof(equal:token='=' approximately:token='~') threshold count?:integer='LIMIT'@6.2.0) id_or_auto:oneof(auto_id:token='*' id) field_value*:block(field value)"),
    Row::new("xautoclaim", -6, PASS)
        .flags("write fast")
        .categories("write stream fast")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW delete")])
        .doc("stream", "6.2.0", "O(1) if COUNT is small.", "Changes (or acquires) ownership of messages in a consumer group, as if the messages were delivered to the specified consumer.")
        .arguments("key:key#0 group consumer min-idle-time start count?:integer='COUNT' justid?:token='JUSTID'"),
    Row::new("xclaim", -6, PASS)
        .flags("write fast")
        .categories("write stream fast")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update")])
        .doc("stream", "5.0.0", "O(log N) with N being the number of messages in the PEL of the consumer group.", "Changes (or acquires) ownership of a message in a consumer group, as if the message was delivered to the specified consumer.")
        .arguments("key:key#0 group consumer min-idle-time id* ms?:integer='IDLE' unix-time-milliseconds?:unix-time='TIME' count?:integer='RETRYCOUNT' force?:token='FORCE' justid?:token='JUSTID' id?='LASTID'"),
    Row::new("xdel", -3, PASS)
        .flags("write fast")
        .categories("write stream fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW delete")])
        .doc("stream", "5.0.0", "O(1) for each single item to delete in the stream, regardless of the stream size.", "Removes the specified entries from the stream. Returns the number of items actually deleted, that may be different from the number of IDs passed in case certain IDs do not exist.")
        .arguments("key:key#0 id*"),
    Row::new("xgroup", -2, Run::Container)
        .categories("slow")
        .doc("stream", "5.0.0", "Depends on subcommand.", "A container for consumer groups commands")
        .subcommands(XGROUP),
    Row::new("xinfo", -2, Run::Container)
        .categories("slow")
        .doc("stream", "5.0.0", "Depends on subcommand.", "A container for stream introspection commands")
        .subcommands(XINFO),
    Row::new("xlen", 2, PASS)
        .flags("readonly fast")
        .categories("read stream fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
        .doc("stream", "5.0.0", "O(1)", "Return the number of entries in a stream")
        .arguments("key:key#0"),
    Row::new("xpending", -3, PASS)
        .flags("readonly")
        .categories("read stream slow")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("stream", "5.0.0", "O(N) with N being the number of elements returned, so asking for a small fixed number of entries per call is O(1). O(M), where M is the total number of entries scanned when used with the IDLE filter. When the command returns just the summary and the list of consumers is small, it runs in O(1) time; otherwise, an additional O(N) time for iterating every consumer.", "Return information and entries from a stream consumer group pending entries list, that are messages fetched but never acknowledged.")
        .arguments("key:key#0 group filters?:block(min-idle-time?:integer='IDLE'@6.2.0 start end count:integer consumer?)"),
    Row::new("xrange", -4, PASS)
        .flags("readonly")
        .categories("read stream slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("stream", "5.0.0", "O(N) with N being the number of elements being returned. If N is constant (e.g. always asking for the first 10 elements with COUNT), you can consider it O(1).", "Return a range of elements in a stream, with IDs matching the specified IDs interval")
        .arguments("key:key#0 start end count?:integer='COUNT'"),
    Row::new("xread", -4, PASS)
        .flags("readonly blocking movablekeys")
        .categories("read stream slow blocking")
        .keys(&[KeySpec::new(Begin::After("STREAMS", 1), Find::Range(-1, 1, 2), "RO access")])
        .doc("stream", "5.0.0", "For each stream mentioned: O(N) with N being the number of elements being returned, it means that XREAD-ing with a fixed COUNT is O(1). Note that when the BLOCK option is used, XADD will pay O(M) time in order to serve the M clients blocked on the stream getting new data.", "Return never seen elements in multiple streams, with IDs greater than the ones reported by the caller for each stream. Can block.")
        .arguments("count?:integer='COUNT' milliseconds?:integer='BLOCK' streams:block='STREAMS'(key*:key#0 id*)"),
    Row::new("xreadgroup", -7, PASS)
        .flags("write blocking movablekeys")
        .categories("write stream slow blocking")
        .keys(&[KeySpec::new(Begin::After("STREAMS", 4), Find::Range(-1, 1, 2), "RO access")])
        .doc("stream", "5.0.0", "For each stream mentioned: O(M) with M being the number of elements returned. If M is constant (e.g. always asking for the first 10 elements with COUNT), you can consider it O(1). On the other side when XREADGROUP blocks, XADD will pay the O(N) time in order to serve the N clients blocked on the stream getting new data.", "Return new entries from a stream using a consumer group, or access the history of the pending entries for a given consumer. Can block.")
        .arguments("group_consumer:block='GROUP'(group consumer) count?:integer='COUNT' milliseconds?:integer='BLOCK' noack?:token='NOACK' streams:block='STREAMS'(key*:key#0 id*)"),
    Row::new("xrevrange", -4, PASS)
        .flags("readonly")
        .categories("read stream slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("stream", "5.0.0", "O(N) with N being the number of elements returned. If N is constant (e.g. always asking for the first 10 elements with COUNT), you can consider it O(1).", "Return a range of elements in a stream, with IDs matching the specified IDs interval, in reverse order (from greater to smaller IDs) compared to XRANGE")
        .arguments("key:key#0 end start count?:integer='COUNT'"),
    Row::new("xsetid", -3, PASS)
        .flags("write denyoom fast")
        .categories("write stream fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update")])
        .doc("stream", "5.0.0", "O(1)", "An internal command for replicating stream values")
        .arguments("key:key#0 last-id entries_added?:integer='ENTRIESADDED'@7.0.0 max_deleted_entry_id?='MAXDELETEDID'@7.0.0"),
    Row::new("xtrim", -4, PASS)
        .flags("write")
        .categories("write stream slow")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW delete")])
        .doc("stream", "5.0.0", "O(N), with N being the number of evicted entries. Constant times are very small however, since entries are organized in macro nodes containing multiple entries that can be released with a single deallocation.", "Trims the stream to (approximately if '~' is passed) a certain size")
        .arguments("key:key#0 trim:block(strategy:oneof(maxlen:token='MAXLEN' minid:token='MINID'@6.2.0) operator?:oneof(equal:token='=' approximately:token='~') threshold count?:integer='LIMIT'@6.2.0)"),
];

/// Subcommands of XGROUP.
const XGROUP: &[Row] = &[
    Row::new("xgroup|create", -5, PASS)
        .flags("write denyoom")
        .categories("write stream slow")
        .keys(&[KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RW insert")])
        .doc("stream", "5.0.0", "O(1)", "Create a consumer group.")
        .arguments("key:key#0 groupname id:oneof(id new_id:token='$') mkstream?:token='MKSTREAM' entries_read?:integer='ENTRIESREAD'"),
    Row::new("xgroup|createconsumer", 5, PASS)
        .flags("write denyoom")
        .categories("write stream slow")
        .keys(&[KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RW insert")])
        .doc("stream", "6.2.0", "O(1)", "Create a consumer in a consumer group.")
        .arguments("key:key#0 groupname consumername"),
    Row::new("xgroup|delconsumer", 5, PASS)
        .flags("write")
        .categories("write stream slow")
        .keys(&[KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RW delete")])
        .doc("stream", "5.0.0", "O(1)", "Delete a consumer from a consumer group.")
        .arguments("key:key#0 groupname consumername"),
    Row::new("xgroup|destroy", 4, PASS)
        .flags("write")
        .categories("write stream slow")
        .keys(&[KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RW delete")])
        .doc("stream", "5.0.0", "O(N) where N is the number of entries in the group's pending entries list (PEL).", "Destroy a consumer group.")
        .arguments("key:key#0 groupname"),
    Row::new("xgroup|help", 2, PASS)
        .flags("loading stale")
        .categories("stream slow")
        .doc("stream", "5.0.0", "O(1)", "Show helpful text about the different subcommands"),
    Row::new("xgroup|setid", -5, PASS)
        .flags("write")
        .categories("write stream slow")
        .keys(&[KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RW update")])
        .doc("stream", "5.0.0", "O(1)", "Set a consumer group to an arbitrary last delivered ID value.")
        .arguments("key:key#0 groupname id:oneof(id new_id:token='$') entries_read?:integer='ENTRIESREAD'"),
];

/// Subcommands of XINFO.
const XINFO: &[Row] = &[
    Row::new("xinfo|consumers", 4, PASS)
        .flags("readonly")
        .categories("read stream slow")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RO access")])
        .doc("stream", "5.0.0", "O(1)", "List the consumers in a consumer group")
        .arguments("key:key#0 groupname"),
    Row::new("xinfo|groups", 3, PASS)
        .flags("readonly")
        .categories("read stream slow")
        .keys(&[KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RO access")])
        .doc("stream", "5.0.0", "O(1)", "List the consumer groups of a stream")
        .arguments("key:key#0"),
    Row::new("xinfo|help", 2, PASS).flags("loading stale").categories("stream slow").doc(
        "stream",
        "5.0.0",
        "O(1)",
        "Show helpful text about the different subcommands",
    ),
    Row::new("xinfo|stream", -3, PASS)
        .flags("readonly")
        .categories("read stream slow")
        .keys(&[KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RO access")])
        .doc("stream", "5.0.0", "O(1)", "Get information about a stream")
        .arguments("key:key#0 full?:block='FULL'(count?:integer='COUNT')"),
];
