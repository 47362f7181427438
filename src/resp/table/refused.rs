//! Redis commands that Terrace rejects by name, with the reason. They have no table row, so help does not list them.

/// Name and reason, in alphabetical order.
pub(in crate::resp) const REFUSED: &[(&str, &str)] = &[
    ("bgrewriteaof", NO_FILES),
    ("bgsave", NO_FILES),
    ("debug", "the command exposes internals of the server"),
    ("dump", "serialized values depend on the server version; use GET"),
    ("failover", NO_REPLICATION),
    ("migrate", "this server does not connect to other servers on behalf of a client"),
    ("move", "the databases are views of the same keys: db 1 shows L1, db 2 shows the learned state"),
    ("pfdebug", "the command exposes internals of the server"),
    ("pfselftest", "the command exposes internals of the server"),
    ("psync", NO_REPLICATION),
    ("replconf", NO_REPLICATION),
    ("replicaof", NO_REPLICATION),
    ("restore", "serialized values depend on the server version; use SET"),
    ("restore-asking", "serialized values depend on the server version; use SET"),
    ("save", NO_FILES),
    ("shutdown", "send SIGTERM to the process to drain and stop it"),
    ("slaveof", NO_REPLICATION),
    ("spublish", SHARD_CHANNELS),
    ("ssubscribe", SHARD_CHANNELS),
    ("sunsubscribe", SHARD_CHANNELS),
    ("swapdb", "the databases are views of the same keys: db 1 shows L1, db 2 shows the learned state"),
    ("sync", NO_REPLICATION),
];

const NO_FILES: &str = "Terrace writes no RDB or AOF files; L2 stores the data";
const NO_REPLICATION: &str = "Terrace does not replicate; nodes share one Redis";
const SHARD_CHANNELS: &str = "sharded channels are not supported; use PUBLISH and SUBSCRIBE";
