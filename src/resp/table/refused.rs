//! Commands of Redis that are refused by name, and why: no row, so that no help offers them.

/// Name and reason, in alphabetical order.
pub(in crate::resp) const REFUSED: &[(&str, &str)] = &[
    ("bgrewriteaof", NO_FILES),
    ("bgsave", NO_FILES),
    ("debug", "it reaches into a server's inside"),
    ("dump", "a serialized value is of use to one version of one server only; GET the value"),
    ("eval", SCRIPTS),
    ("eval_ro", SCRIPTS),
    ("evalsha", SCRIPTS),
    ("evalsha_ro", SCRIPTS),
    ("failover", NO_REPLICATION),
    ("fcall", SCRIPTS),
    ("fcall_ro", SCRIPTS),
    ("migrate", "it would make this server a client of another one"),
    ("move", "the databases are views of one: db 1 shows L1, db 2 what was learned"),
    ("pfdebug", "it reaches into a server's inside"),
    ("pfselftest", "it reaches into a server's inside"),
    ("psync", NO_REPLICATION),
    ("replconf", NO_REPLICATION),
    ("replicaof", NO_REPLICATION),
    ("restore", "a serialized value is of use to one version of one server only; SET the value"),
    ("restore-asking", "a serialized value is of use to one version of one server only; SET the value"),
    ("save", NO_FILES),
    ("script", SCRIPTS),
    ("shutdown", "stop the process instead: SIGTERM drains it"),
    ("slaveof", NO_REPLICATION),
    ("spublish", SHARD_CHANNELS),
    ("ssubscribe", SHARD_CHANNELS),
    ("sunsubscribe", SHARD_CHANNELS),
    ("swapdb", "the databases are views of one: db 1 shows L1, db 2 what was learned"),
    ("sync", NO_REPLICATION),
];

const NO_FILES: &str = "Terrace writes no RDB or AOF files; the store below keeps the data";
const NO_REPLICATION: &str = "Terrace does not replicate; nodes share the Redis below";
const SCRIPTS: &str = "scripts run in Redis itself, not here";
const SHARD_CHANNELS: &str = "channels are not sharded; use PUBLISH and SUBSCRIBE";
