//! Rows of Terrace's own commands.

use crate::resp::{
    command::{Row, Run},
    exec::{explain, terrace},
    key_spec::{Begin, Find, KeySpec},
    table::later,
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] =
    &[
        Row::new("terrace.explain", 2, later!(explain::explain))
            .flags("readonly fast")
            .categories("keyspace read fast")
            .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
            .doc(
                "terrace",
                "7.0.0",
                "O(1)",
                "Explain a key: where it is, who wrote it, what holds for it, why its last read was what it was",
            )
            .arguments("key:key#0"),
        Row::new("terrace.help", 1, Run::Now(terrace::help))
            .flags("loading stale fast")
            .categories("fast connection")
            .doc("terrace", "7.0.0", "O(1)", "Show Terrace's own commands and the three databases"),
        Row::new("terrace.info", 2, later!(terrace::info))
            .flags("readonly fast")
            .categories("keyspace read fast")
            .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
            .doc(
                "terrace",
                "7.0.0",
                "O(1)",
                "Show what each tier knows of a key: where it is, its TTL and age there, hits, policy",
            )
            .arguments("key:key#0"),
        Row::new("terrace.invalidate", -2, later!(terrace::invalidate))
            .flags("write")
            .categories("keyspace write slow dangerous")
            .doc(
                "terrace",
                "7.0.0",
                "O(1); what is hidden is removed later, O(N) where N is the number of keys",
                "Make all values under matching keys, or under tags, absent, at once and on every node",
            )
            .arguments(
                "by:oneof(pattern:block(token:token='PATTERN' pattern:pattern what?:oneof(dryrun:token='DRYRUN' \
                 wait:token='WAIT')) tag:block(token:token='TAG' tag+:string))",
            ),
        Row::new("terrace.tags", 2, later!(terrace::tags))
            .flags("readonly fast")
            .categories("keyspace read fast")
            .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
            .doc("terrace", "7.0.0", "O(1)", "Show the tags that a key was written under")
            .arguments("key:key#0"),
        Row::new("terrace.tiers", -1, later!(terrace::tiers))
            .flags("loading stale")
            .categories("slow")
            .doc("terrace", "7.0.0", "O(1)", "Show each tier: entries, bytes, hits, state")
            .arguments("help?:token='HELP'"),
        Row::new("terrace.top", -1, Run::Now(terrace::top))
            .flags("readonly")
            .categories("keyspace read slow")
            .doc(
                "terrace",
                "7.0.0",
                "O(1)",
                "Show the keys that were read most lately, or that cost most bytes, misses or time of L2",
            )
            .arguments(
                "by?:oneof(reads:token='READS' bytes:token='BYTES' misses:token='MISSES' time:token='TIME' \
                 help:token='HELP') count?:integer",
            ),
    ];
