//! Every command, one row each: the only list there is. COMMAND, COMMAND DOCS and the errors are made from it.
//!
//! Flags, categories, key specifications and texts are those of Redis 7.0 for the commands it has.

use super::{
    command::{Row, Run},
    exec::{
        catalog, client, connection,
        expiry::{self, Shown, Start, Unit},
        info, keys, numbers, server, strings,
    },
};

/// A command that may wait for L2.
macro_rules! later {
    ($run:path $(, $more:expr)*) => {
        Run::Later(|cx, args| Box::pin($run(cx, args $(, $more)*)))
    };
}

/// All commands.
pub(super) const TABLE: &[Row] = &[
    Row::new("ping", -1, Run::Now(connection::ping))
        .flags("fast")
        .categories("fast connection")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .doc("connection", "1.0.0", "O(1)", "Ping the server"),
    Row::new("echo", 2, Run::Now(connection::echo))
        .flags("loading stale fast")
        .categories("fast connection")
        .doc("connection", "1.0.0", "O(1)", "Echo the given string"),
    Row::new("quit", -1, Run::Now(connection::quit))
        .flags("noscript loading stale fast no_auth allow_busy")
        .categories("fast connection")
        .doc("connection", "1.0.0", "O(1)", "Close the connection"),
    Row::new("hello", -1, Run::Now(connection::hello))
        .flags("noscript loading stale fast no_auth allow_busy")
        .categories("fast connection")
        .doc("connection", "6.0.0", "O(1)", "Handshake with Redis"),
    Row::new("auth", -2, Run::Now(connection::auth))
        .flags("noscript loading stale fast no_auth allow_busy")
        .categories("fast connection")
        .doc("connection", "1.0.0", "O(N) where N is the number of passwords defined for the user", "Authenticate to the server"),
    Row::new("select", 2, Run::Now(connection::select))
        .flags("loading stale fast")
        .categories("fast connection")
        .doc("connection", "1.0.0", "O(1)", "Change the selected database for the current connection"),
    Row::new("reset", 1, Run::Now(connection::reset))
        .flags("noscript loading stale fast no_auth allow_busy")
        .categories("fast connection")
        .doc("connection", "6.2.0", "O(1)", "Reset the connection"),
    Row::new("client", -2, Run::Container)
        .categories("slow")
        .doc("connection", "2.4.0", "Depends on subcommand.", "A container for client connection commands")
        .subcommands(0, CLIENT),
    Row::new("command", -1, Run::Now(catalog::all))
        .flags("loading stale")
        .categories("slow connection")
        .tips("nondeterministic_output_order")
        .doc("server", "2.8.13", "O(N) where N is the total number of Redis commands", "Get array of Redis command details")
        .subcommands(CLIENT.len(), COMMAND),
    Row::new("info", -1, later!(info::info))
        .flags("loading stale")
        .categories("slow dangerous")
        .tips("nondeterministic_output request_policy:all_shards response_policy:special")
        .doc("server", "1.0.0", "O(1)", "Get information and statistics about the server"),
    Row::new("config", -2, Run::Container)
        .categories("slow")
        .doc("server", "2.0.0", "Depends on subcommand.", "A container for server configuration commands")
        .subcommands(CLIENT.len() + COMMAND.len(), CONFIG),
    Row::new("dbsize", 1, later!(server::dbsize))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .tips("request_policy:all_shards response_policy:agg_sum")
        .doc("server", "1.0.0", "O(1)", "Return the number of keys in the selected database"),
    Row::new("flushdb", -1, later!(server::flush))
        .flags("write")
        .categories("keyspace write slow dangerous")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .doc("server", "1.0.0", "O(N) where N is the number of keys in the selected database", "Remove all keys from the current database"),
    Row::new("flushall", -1, later!(server::flush))
        .flags("write")
        .categories("keyspace write slow dangerous")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .doc("server", "1.0.0", "O(N) where N is the total number of keys in all databases", "Remove all keys from all databases"),
    Row::new("get", 2, later!(strings::get))
        .flags("readonly fast")
        .categories("read string fast")
        .keys(1, 0, 1, "RO access", "")
        .doc("string", "1.0.0", "O(1)", "Get the value of a key"),
    Row::new("mget", -2, later!(strings::mget))
        .flags("readonly fast")
        .categories("read string fast")
        .keys(1, -1, 1, "RO access", "")
        .tips("request_policy:multi_shard")
        .doc("string", "1.0.0", "O(N) where N is the number of keys to retrieve.", "Get the values of all the given keys"),
    Row::new("getrange", 4, later!(strings::getrange))
        .flags("readonly")
        .categories("read string slow")
        .keys(1, 0, 1, "RO access", "")
        .doc("string", "2.4.0", "O(N) where N is the length of the returned string. The complexity is ultimately determined by the returned length, but because creating a substring from an existing string is very cheap, it can be considered O(1) for small strings.", "Get a substring of the string stored at a key"),
    Row::new("substr", 4, later!(strings::getrange))
        .flags("readonly")
        .categories("read string slow")
        .keys(1, 0, 1, "RO access", "")
        .doc("string", "1.0.0", "O(N) where N is the length of the returned string. The complexity is ultimately determined by the returned length, but because creating a substring from an existing string is very cheap, it can be considered O(1) for small strings.", "Get a substring of the string stored at a key"),
    Row::new("strlen", 2, later!(strings::strlen))
        .flags("readonly fast")
        .categories("read string fast")
        .keys(1, 0, 1, "RO", "")
        .doc("string", "2.2.0", "O(1)", "Get the length of the value stored in a key"),
    Row::new("set", -3, later!(strings::set))
        .flags("write denyoom")
        .categories("write string slow")
        .keys(1, 0, 1, "RW access update variable_flags", "RW and ACCESS due to the optional `GET` argument")
        .doc("string", "1.0.0", "O(1)", "Set the string value of a key"),
    Row::new("setex", 4, later!(strings::setex, Unit::Seconds))
        .flags("write denyoom")
        .categories("write string slow")
        .keys(1, 0, 1, "OW update", "")
        .doc("string", "2.0.0", "O(1)", "Set the value and expiration of a key"),
    Row::new("psetex", 4, later!(strings::setex, Unit::Millis))
        .flags("write denyoom")
        .categories("write string slow")
        .keys(1, 0, 1, "OW update", "")
        .doc("string", "2.6.0", "O(1)", "Set the value and expiration in milliseconds of a key"),
    Row::new("setnx", 3, later!(strings::setnx))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(1, 0, 1, "OW insert", "")
        .doc("string", "1.0.0", "O(1)", "Set the value of a key, only if the key does not exist"),
    Row::new("mset", -3, later!(strings::mset))
        .flags("write denyoom")
        .categories("write string slow")
        .keys(1, -1, 2, "OW update", "")
        .tips("request_policy:multi_shard response_policy:all_succeeded")
        .doc("string", "1.0.1", "O(N) where N is the number of keys to set.", "Set multiple keys to multiple values"),
    Row::new("getdel", 2, later!(strings::getdel))
        .flags("write fast")
        .categories("write string fast")
        .keys(1, 0, 1, "RW access delete", "")
        .doc("string", "6.2.0", "O(1)", "Get the value of a key and delete the key"),
    Row::new("getex", -2, later!(strings::getex))
        .flags("write fast")
        .categories("write string fast")
        .keys(1, 0, 1, "RW access update", "RW and UPDATE because it changes the TTL")
        .doc("string", "6.2.0", "O(1)", "Get the value of a key and optionally set its expiration"),
    Row::new("append", 3, later!(strings::append))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(1, 0, 1, "RW insert", "")
        .doc("string", "2.0.0", "O(1). The amortized time complexity is O(1) assuming the appended value is small and the already present value is of any size, since the dynamic string library used by Redis will double the free space available on every reallocation.", "Append a value to a key"),
    Row::new("incr", 2, later!(numbers::incr, 1))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(1, 0, 1, "RW access update", "")
        .doc("string", "1.0.0", "O(1)", "Increment the integer value of a key by one"),
    Row::new("decr", 2, later!(numbers::incr, -1))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(1, 0, 1, "RW access update", "")
        .doc("string", "1.0.0", "O(1)", "Decrement the integer value of a key by one"),
    Row::new("incrby", 3, later!(numbers::incrby))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(1, 0, 1, "RW access update", "")
        .doc("string", "1.0.0", "O(1)", "Increment the integer value of a key by the given amount"),
    Row::new("decrby", 3, later!(numbers::decrby))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(1, 0, 1, "RW access update", "")
        .doc("string", "1.0.0", "O(1)", "Decrement the integer value of a key by the given number"),
    Row::new("incrbyfloat", 3, later!(numbers::incrbyfloat))
        .flags("write denyoom fast")
        .categories("write string fast")
        .keys(1, 0, 1, "RW access update", "")
        .doc("string", "2.6.0", "O(1)", "Increment the float value of a key by the given amount"),
    Row::new("del", -2, later!(keys::del))
        .flags("write")
        .categories("keyspace write slow")
        .keys(1, -1, 1, "RM delete", "")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .doc("generic", "1.0.0", "O(N) where N is the number of keys that will be removed. When a key to remove holds a value other than a string, the individual complexity for this key is O(M) where M is the number of elements in the list, set, sorted set or hash. Removing a single key that holds a string value is O(1).", "Delete a key"),
    Row::new("unlink", -2, later!(keys::del))
        .flags("write fast")
        .categories("keyspace write fast")
        .keys(1, -1, 1, "RM delete", "")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .doc("generic", "4.0.0", "O(1) for each key removed regardless of its size. Then the command does O(N) work in a different thread in order to reclaim memory, where N is the number of allocations the deleted objects where composed of.", "Delete a key asynchronously in another thread. Otherwise it is just as DEL, but non blocking."),
    Row::new("exists", -2, later!(keys::exists))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .keys(1, -1, 1, "RO", "")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .doc("generic", "1.0.0", "O(N) where N is the number of keys to check.", "Determine if a key exists"),
    Row::new("type", 2, later!(keys::type_of))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .keys(1, 0, 1, "RO", "")
        .doc("generic", "1.0.0", "O(1)", "Determine the type stored at key"),
    Row::new("scan", -2, later!(keys::scan))
        .flags("readonly")
        .categories("keyspace read slow")
        .tips("nondeterministic_output request_policy:special")
        .doc("generic", "2.8.0", "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor to return back to 0. N is the number of elements inside the collection.", "Incrementally iterate the keys space"),
    Row::new("keys", 2, later!(keys::keys))
        .flags("readonly")
        .categories("keyspace read slow dangerous")
        .tips("request_policy:all_shards nondeterministic_output_order")
        .doc("generic", "1.0.0", "O(N) with N being the number of keys in the database, under the assumption that the key names in the database and the given pattern have limited length.", "Find all keys matching the given pattern"),
    Row::new("randomkey", 1, later!(keys::randomkey))
        .flags("readonly")
        .categories("keyspace read slow")
        .tips("request_policy:all_shards nondeterministic_output")
        .doc("generic", "1.0.0", "O(1)", "Return a random key from the keyspace"),
    Row::new("ttl", 2, later!(expiry::ttl, Shown::SecondsLeft))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .keys(1, 0, 1, "RO access", "")
        .tips("nondeterministic_output")
        .doc("generic", "1.0.0", "O(1)", "Get the time to live for a key in seconds"),
    Row::new("pttl", 2, later!(expiry::ttl, Shown::MillisLeft))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .keys(1, 0, 1, "RO access", "")
        .tips("nondeterministic_output")
        .doc("generic", "2.6.0", "O(1)", "Get the time to live for a key in milliseconds"),
    Row::new("expiretime", 2, later!(expiry::ttl, Shown::UnixSeconds))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .keys(1, 0, 1, "RO access", "")
        .doc("generic", "7.0.0", "O(1)", "Get the expiration Unix timestamp for a key"),
    Row::new("pexpiretime", 2, later!(expiry::ttl, Shown::UnixMillis))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .keys(1, 0, 1, "RO access", "")
        .doc("generic", "7.0.0", "O(1)", "Get the expiration Unix timestamp for a key in milliseconds"),
    Row::new("expire", -3, later!(expiry::expire, Unit::Seconds, Start::Now))
        .flags("write fast")
        .categories("keyspace write fast")
        .keys(1, 0, 1, "RW update", "")
        .doc("generic", "1.0.0", "O(1)", "Set a key's time to live in seconds"),
    Row::new("pexpire", -3, later!(expiry::expire, Unit::Millis, Start::Now))
        .flags("write fast")
        .categories("keyspace write fast")
        .keys(1, 0, 1, "RW update", "")
        .doc("generic", "2.6.0", "O(1)", "Set a key's time to live in milliseconds"),
    Row::new("expireat", -3, later!(expiry::expire, Unit::Seconds, Start::Epoch))
        .flags("write fast")
        .categories("keyspace write fast")
        .keys(1, 0, 1, "RW update", "")
        .doc("generic", "1.2.0", "O(1)", "Set the expiration for a key as a UNIX timestamp"),
    Row::new("pexpireat", -3, later!(expiry::expire, Unit::Millis, Start::Epoch))
        .flags("write fast")
        .categories("keyspace write fast")
        .keys(1, 0, 1, "RW update", "")
        .doc("generic", "2.6.0", "O(1)", "Set the expiration for a key as a UNIX timestamp specified in milliseconds"),
    Row::new("persist", 2, later!(expiry::persist))
        .flags("write fast")
        .categories("keyspace write fast")
        .keys(1, 0, 1, "RW update", "")
        .doc("generic", "2.2.0", "O(1)", "Remove the expiration from a key"),
];

/// Subcommands of CLIENT.
const CLIENT: &[Row] =
    &[
        Row::new("client|getname", 2, Run::Now(client::getname))
            .flags("noscript loading stale")
            .categories("slow connection")
            .doc("connection", "2.6.9", "O(1)", "Get the current connection name"),
        Row::new("client|help", 2, Run::Now(catalog::help)).flags("loading stale").categories("slow connection").doc(
            "connection",
            "5.0.0",
            "O(1)",
            "Show helpful text about the different subcommands",
        ),
        Row::new("client|id", 2, Run::Now(client::id))
            .flags("noscript loading stale")
            .categories("slow connection")
            .doc("connection", "5.0.0", "O(1)", "Returns the client ID for the current connection"),
        Row::new("client|info", 2, Run::Now(client::info))
            .flags("noscript loading stale")
            .categories("slow connection")
            .tips("nondeterministic_output")
            .doc("connection", "6.2.0", "O(1)", "Returns information about the current client connection."),
        Row::new("client|list", -2, Run::Now(client::list))
            .flags("admin noscript loading stale")
            .categories("admin slow dangerous connection")
            .tips("nondeterministic_output")
            .doc(
                "connection",
                "2.4.0",
                "O(N) where N is the number of client connections",
                "Get the list of client connections",
            ),
        Row::new("client|maint_notifications", -3, Run::Now(client::maint_notifications))
            .flags("noscript loading stale")
            .categories("slow connection")
            .doc("connection", "8.0.0", "O(1)", "Refused: there are no maintenance events"),
        Row::new("client|no-evict", 3, Run::Now(client::no_evict))
            .flags("admin noscript loading stale")
            .categories("admin slow dangerous connection")
            .doc("connection", "7.0.0", "O(1)", "Set client eviction mode for the current connection"),
        Row::new("client|no-touch", 3, Run::Now(client::no_touch))
            .flags("noscript loading stale")
            .categories("slow connection")
            .doc("connection", "7.2.0", "O(1)", "Accepted: Terrace's inspection never touches"),
        Row::new("client|setinfo", 4, Run::Now(client::setinfo))
            .flags("noscript loading stale")
            .categories("slow connection")
            .doc("connection", "7.2.0", "O(1)", "Set the name or version of the client library"),
        Row::new("client|setname", 3, Run::Now(client::setname))
            .flags("noscript loading stale")
            .categories("slow connection")
            .doc("connection", "2.6.9", "O(1)", "Set the current connection name"),
        Row::new("client|tracking", -3, Run::Now(client::tracking))
            .flags("noscript loading stale")
            .categories("slow connection")
            .doc("connection", "6.0.0", "O(1)", "Refused: Terrace does not track what clients keep"),
    ];

/// Subcommands of COMMAND.
const COMMAND: &[Row] =
    &[
        Row::new("command|count", 2, Run::Now(catalog::count))
            .flags("loading stale")
            .categories("slow connection")
            .doc("server", "2.8.13", "O(1)", "Get total number of Redis commands"),
        Row::new("command|docs", -2, Run::Now(catalog::docs))
            .flags("loading stale")
            .categories("slow connection")
            .tips("nondeterministic_output_order")
            .doc(
                "server",
                "7.0.0",
                "O(N) where N is the number of commands to look up",
                "Get array of specific Redis command documentation",
            ),
        Row::new("command|getkeys", -4, Run::Now(catalog::getkeys))
            .flags("loading stale")
            .categories("slow connection")
            .doc(
                "server",
                "2.8.13",
                "O(N) where N is the number of arguments to the command",
                "Extract keys given a full Redis command",
            ),
        Row::new("command|help", 2, Run::Now(catalog::help)).flags("loading stale").categories("slow connection").doc(
            "server",
            "5.0.0",
            "O(1)",
            "Show helpful text about the different subcommands",
        ),
        Row::new("command|info", -2, Run::Now(catalog::info))
            .flags("loading stale")
            .categories("slow connection")
            .tips("nondeterministic_output_order")
            .doc(
                "server",
                "2.8.13",
                "O(N) where N is the number of commands to look up",
                "Get array of specific Redis command details, or all when no argument is given.",
            ),
        Row::new("command|list", -2, Run::Now(catalog::list))
            .flags("loading stale")
            .categories("slow connection")
            .tips("nondeterministic_output_order")
            .doc(
                "server",
                "7.0.0",
                "O(N) where N is the total number of Redis commands",
                "Get an array of Redis command names",
            ),
    ];

/// Subcommands of CONFIG.
const CONFIG: &[Row] = &[
    Row::new("config|get", -3, Run::Now(server::config_get))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .doc(
            "server",
            "2.0.0",
            "O(N) when N is the number of configuration parameters provided",
            "Get the values of configuration parameters",
        ),
    Row::new("config|help", 2, Run::Now(catalog::help)).flags("loading stale").categories("slow").doc(
        "server",
        "5.0.0",
        "O(1)",
        "Show helpful text about the different subcommands",
    ),
];

/// How many rows there are, subcommands included.
pub(super) const ROWS: usize = TABLE.len() + CLIENT.len() + COMMAND.len() + CONFIG.len();
