//! Rows of the Pub/Sub commands.

use crate::resp::{
    command::{Row, Run},
    exec::{catalog, pubsub},
    table::later,
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("psubscribe", -2, later!(pubsub::psubscribe))
        .flags("pubsub noscript loading stale")
        .categories("pubsub slow")
        .doc("pubsub", "2.0.0", "O(N) where N is the number of patterns the client is already subscribed to.", "Listen for messages published to channels matching the given patterns")
        .arguments("pattern*:block(pattern:pattern)"),
    Row::new("publish", 3, later!(pubsub::publish))
        .flags("pubsub loading stale fast")
        .categories("pubsub fast")
        .doc("pubsub", "2.0.0", "O(N+M) where N is the number of clients subscribed to the receiving channel and M is the total number of subscribed patterns (by any client).", "Post a message to a channel")
        .arguments("channel message"),
    Row::new("pubsub", -2, Run::Container)
        .categories("slow")
        .doc("pubsub", "2.8.0", "Depends on subcommand.", "A container for Pub/Sub commands")
        .subcommands(PUBSUB),
    Row::new("punsubscribe", -1, later!(pubsub::punsubscribe))
        .flags("pubsub noscript loading stale")
        .categories("pubsub slow")
        .doc("pubsub", "2.0.0", "O(N+M) where N is the number of patterns the client is already subscribed and M is the number of total patterns subscribed in the system (by any client).", "Stop listening for messages posted to channels matching the given patterns")
        .arguments("pattern?*:pattern"),
    Row::new("subscribe", -2, later!(pubsub::subscribe))
        .flags("pubsub noscript loading stale")
        .categories("pubsub slow")
        .doc("pubsub", "2.0.0", "O(N) where N is the number of channels to subscribe to.", "Listen for messages published to the given channels")
        .arguments("channel*"),
    Row::new("unsubscribe", -1, later!(pubsub::unsubscribe))
        .flags("pubsub noscript loading stale")
        .categories("pubsub slow")
        .doc("pubsub", "2.0.0", "O(N) where N is the number of clients already subscribed to a channel.", "Stop listening for messages posted to the given channels")
        .arguments("channel?*"),
];

/// Subcommands of PUBSUB.
const PUBSUB: &[Row] = &[
    Row::new("pubsub|channels", -2, later!(pubsub::channels))
        .flags("pubsub loading stale")
        .categories("pubsub slow")
        .doc("pubsub", "2.8.0", "O(N) where N is the number of active channels, and assuming constant time pattern matching (relatively short channels and patterns)", "List active channels")
        .arguments("pattern?:pattern"),
    Row::new("pubsub|help", 2, Run::Now(catalog::help))
        .flags("loading stale")
        .categories("slow")
        .doc("pubsub", "6.2.0", "O(1)", "Show helpful text about the different subcommands"),
    Row::new("pubsub|numpat", 2, later!(pubsub::numpat))
        .flags("pubsub loading stale")
        .categories("pubsub slow")
        .doc("pubsub", "2.8.0", "O(1)", "Get the count of unique patterns pattern subscriptions"),
    Row::new("pubsub|numsub", -2, later!(pubsub::numsub))
        .flags("pubsub loading stale")
        .categories("pubsub slow")
        .doc("pubsub", "2.8.0", "O(N) for the NUMSUB subcommand, where N is the number of requested channels", "Get the count of subscribers for channels")
        .arguments("channel?*"),
];
