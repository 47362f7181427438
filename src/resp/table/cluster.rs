//! Rows of the Redis Cluster commands, all rejected.

use crate::resp::{
    command::{Row, Run},
    exec::server,
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("asking", 1, Run::Now(server::no_cluster)).flags("fast").categories("fast connection").doc(
        "cluster",
        "3.0.0",
        "O(1)",
        "Sent by cluster clients after an -ASK redirect",
    ),
    Row::new("cluster", -2, Run::Now(server::no_cluster)).categories("slow").doc(
        "cluster",
        "3.0.0",
        "Depends on subcommand.",
        "A container for cluster commands",
    ),
    Row::new("readonly", 1, Run::Now(server::no_cluster))
        .flags("loading stale fast")
        .categories("fast connection")
        .doc("cluster", "3.0.0", "O(1)", "Enables read queries for a connection to a cluster replica node"),
    Row::new("readwrite", 1, Run::Now(server::no_cluster))
        .flags("loading stale fast")
        .categories("fast connection")
        .doc("cluster", "3.0.0", "O(1)", "Disables read queries for a connection to a cluster replica node"),
];
