//! Rows of the transaction commands.

use crate::resp::{
    command::{Row, Run},
    exec::transaction,
    key_spec::{Begin, Find, KeySpec},
    table::later,
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("discard", 1, Run::Now(transaction::discard))
        .flags("noscript loading stale fast allow_busy")
        .categories("fast transaction")
        .doc(
            "transactions",
            "2.0.0",
            "O(N), when N is the number of queued commands",
            "Discard all commands issued after MULTI",
        ),
    Row::new("exec", 1, later!(transaction::exec))
        .flags("noscript loading stale skip_slowlog")
        .categories("slow transaction")
        .doc(
            "transactions",
            "1.2.0",
            "Depends on commands in the transaction",
            "Execute all commands issued after MULTI",
        ),
    Row::new("multi", 1, Run::Now(transaction::multi))
        .flags("noscript loading stale fast allow_busy")
        .categories("fast transaction")
        .doc("transactions", "1.2.0", "O(1)", "Mark the start of a transaction block"),
    Row::new("unwatch", 1, Run::Now(transaction::unwatch))
        .flags("noscript loading stale fast allow_busy")
        .categories("fast transaction")
        .doc("transactions", "2.2.0", "O(1)", "Forget about all watched keys"),
    Row::new("watch", -2, later!(transaction::watch))
        .flags("noscript loading stale fast allow_busy")
        .categories("fast transaction")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-1, 1, 0), "RO")])
        .doc(
            "transactions",
            "2.2.0",
            "O(1) for every key.",
            "Watch the given keys to determine execution of the MULTI/EXEC block",
        )
        .arguments("key*:key#0"),
];
