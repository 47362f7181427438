//! Rows of the Terrace commands.

use crate::resp::{
    command::{Row, Run},
    exec::{explain, leases, terrace},
    key_spec::{Begin, Find, KeySpec},
    table::later,
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("terrace.absent", -3, later!(leases::absent))
        .flags("write denyoom fast")
        .categories("keyspace write fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "OW update")])
        .doc("terrace", "7.0.0", "O(1)", "Fill a load lease with the answer that the origin does not have the key")
        .arguments("key:key#0 token px?:integer='PX' tags?:block(number:integer='TAGS' tag*:string)"),
    Row::new("terrace.explain", 2, later!(explain::explain))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
        .doc("terrace", "7.0.0", "O(1)", "Explain a key: tiers, last writer, policy, reason for the last hit or miss")
        .arguments("key:key#0"),
    Row::new("terrace.fill", -4, later!(leases::fill))
        .flags("write denyoom fast")
        .categories("keyspace write fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "OW update")])
        .doc(
            "terrace",
            "7.0.0",
            "O(1)",
            "Store a value that was loaded under a load lease, unless the key was changed or invalidated since the grant",
        )
        .arguments(
            "key:key#0 token value px?:integer='PX' stale?:integer='STALE' \
                 tags?:block(number:integer='TAGS' tag*:string)",
        ),
    Row::new("terrace.help", 1, Run::Now(terrace::help)).flags("loading stale fast").categories("fast connection").doc(
        "terrace",
        "7.0.0",
        "O(1)",
        "Show Terrace's own commands and the three databases",
    ),
    Row::new("terrace.info", 2, later!(terrace::info))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
        .doc("terrace", "7.0.0", "O(1)", "Show the tiers that hold a key, with TTL, age, hits and policy")
        .arguments("key:key#0"),
    Row::new("terrace.invalidate", -2, later!(terrace::invalidate))
        .flags("write")
        .categories("keyspace write slow dangerous")
        .doc(
            "terrace",
            "7.0.0",
            "O(1); the removal that follows is O(N) where N is the number of keys",
            "Invalidate all keys that match a pattern or have a tag, immediately and on every node",
        )
        .arguments(
            "by:oneof(pattern:block(token:token='PATTERN' pattern:pattern what?:oneof(dryrun:token='DRYRUN' \
                 wait:token='WAIT')) tag:block(token:token='TAG' tag+:string))",
        ),
    Row::new("terrace.lease", -2, later!(leases::lease))
        .flags("readonly noscript blocking no_multi fast")
        .categories("keyspace read fast blocking")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc(
            "terrace",
            "7.0.0",
            "O(1)",
            "Get the value of a key, or the load lease of the key; wait while another client loads it",
        )
        .arguments(
            "key:key#0 stale?:integer='STALE' wait?:integer='WAIT' lease?:integer='LEASE' \
                 tags?:block(number:integer='TAGS' tag*:string) refresh?:token='REFRESH' nonce?:string='NONCE'",
        ),
    Row::new("terrace.release", -3, later!(leases::release))
        .flags("write fast")
        .categories("keyspace write fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "OW update")])
        .doc("terrace", "7.0.0", "O(1)", "End a load lease without a value, and optionally report that the load failed")
        .arguments("key:key#0 token failure?:block(message:string='FAILED' retry?:integer='RETRY')"),
    Row::new("terrace.tags", 2, later!(terrace::tags))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
        .doc("terrace", "7.0.0", "O(1)", "Show the tags of a key")
        .arguments("key:key#0"),
    Row::new("terrace.tiers", -1, later!(terrace::tiers))
        .flags("loading stale")
        .categories("slow")
        .doc("terrace", "7.0.0", "O(1)", "Show the entries, bytes, hits and state of each tier")
        .arguments("help?:token='HELP'"),
    Row::new("terrace.top", -1, Run::Now(terrace::top))
        .flags("readonly")
        .categories("keyspace read slow")
        .doc("terrace", "7.0.0", "O(1)", "Show the keys with the most recent reads, bytes, misses or L2 time")
        .arguments(
            "by?:oneof(reads:token='READS' bytes:token='BYTES' misses:token='MISSES' time:token='TIME' \
                 help:token='HELP') count?:integer",
        ),
];
