//! Rows of the server commands.

use crate::resp::{
    command::{Row, Run},
    exec::{acl, catalog, config, docs, info, latency, memory, monitor, server, slowlog},
    key_spec::{Begin, Find, KeySpec},
    table::later,
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("acl", -2, Run::Container)
        .categories("slow")
        .doc("server", "6.0.0", "Depends on subcommand.", "A container for Access List Control commands ")
        .subcommands(ACL),
    Row::new("command", -1, Run::Now(catalog::all))
        .flags("loading stale")
        .categories("slow connection")
        .tips("nondeterministic_output_order")
        .doc(
            "server",
            "2.8.13",
            "O(N) where N is the total number of Redis commands",
            "Get array of Redis command details",
        )
        .subcommands(COMMAND),
    Row::new("config", -2, Run::Container)
        .categories("slow")
        .doc("server", "2.0.0", "Depends on subcommand.", "A container for server configuration commands")
        .subcommands(CONFIG),
    Row::new("dbsize", 1, later!(server::dbsize))
        .flags("readonly fast")
        .categories("keyspace read fast")
        .tips("request_policy:all_shards response_policy:agg_sum")
        .doc("server", "1.0.0", "O(1)", "Return the number of keys in the selected database"),
    Row::new("flushall", -1, later!(server::flush))
        .flags("write")
        .categories("keyspace write slow dangerous")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .doc(
            "server",
            "1.0.0",
            "O(N) where N is the total number of keys in all databases",
            "Remove all keys from all databases",
        )
        .arguments("async?:oneof(async:token='ASYNC'@4.0.0 sync:token='SYNC'@6.2.0)"),
    Row::new("flushdb", -1, later!(server::flush))
        .flags("write")
        .categories("keyspace write slow dangerous")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .doc(
            "server",
            "1.0.0",
            "O(N) where N is the number of keys in the selected database",
            "Remove all keys from the current database",
        )
        .arguments("async?:oneof(async:token='ASYNC'@4.0.0 sync:token='SYNC'@6.2.0)"),
    Row::new("info", -1, later!(info::info))
        .flags("loading stale")
        .categories("slow dangerous")
        .tips("nondeterministic_output request_policy:all_shards response_policy:special")
        .doc("server", "1.0.0", "O(1)", "Get information and statistics about the server")
        .arguments("section?*"),
    Row::new("lastsave", 1, Run::Now(server::lastsave))
        .flags("loading stale fast")
        .categories("admin fast dangerous")
        .tips("nondeterministic_output")
        .doc("server", "1.0.0", "O(1)", "Get the UNIX time stamp of the last successful save to disk"),
    Row::new("latency", -2, Run::Container)
        .categories("slow")
        .doc("server", "2.8.13", "Depends on subcommand.", "A container for latency diagnostics commands")
        .subcommands(LATENCY),
    Row::new("lolwut", -1, Run::Now(server::lolwut))
        .flags("readonly fast")
        .categories("read fast")
        .doc("server", "5.0.0", "", "Display some computer art and the Redis version")
        .arguments("version?:integer='VERSION'"),
    Row::new("memory", -2, Run::Container)
        .categories("slow")
        .doc("server", "4.0.0", "Depends on subcommand.", "A container for memory diagnostics commands")
        .subcommands(MEMORY),
    Row::new("module", -2, Run::Container)
        .categories("slow")
        .doc("server", "4.0.0", "Depends on subcommand.", "A container for module commands")
        .subcommands(MODULE),
    Row::new("monitor", 1, Run::Now(monitor::monitor))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .doc("server", "1.0.0", "", "Listen for all requests received by the server in real time"),
    Row::new("role", 1, Run::Now(server::role))
        .flags("noscript loading stale fast")
        .categories("admin fast dangerous")
        .doc("server", "2.8.12", "O(1)", "Return the role of the instance in the context of replication"),
    Row::new("slowlog", -2, Run::Container)
        .categories("slow")
        .doc("server", "2.2.12", "Depends on subcommand.", "A container for slow log commands")
        .subcommands(SLOWLOG),
    Row::new("time", 1, Run::Now(server::time))
        .flags("loading stale fast")
        .categories("fast")
        .tips("nondeterministic_output")
        .doc("server", "2.6.0", "O(1)", "Return the current server time"),
];

/// Subcommands of ACL.
const ACL: &[Row] = &[
    Row::new("acl|cat", -2, Run::Now(acl::cat))
        .flags("noscript loading stale")
        .categories("slow")
        .doc(
            "server",
            "6.0.0",
            "O(1) since the categories and commands are a fixed set.",
            "List the ACL categories or the commands inside a category",
        )
        .arguments("categoryname?"),
    Row::new("acl|deluser", -3, Run::Now(acl::refused))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .doc(
            "server",
            "6.0.0",
            "O(1) amortized time considering the typical user.",
            "Remove the specified ACL users and the associated rules",
        )
        .arguments("username*:string"),
    Row::new("acl|dryrun", -4, Run::Now(acl::dryrun))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .doc(
            "server",
            "7.0.0",
            "O(1).",
            "Returns whether the user can execute the given command without executing the command.",
        )
        .arguments("username:string command:string arg?*:string"),
    Row::new("acl|genpass", -2, Run::Now(acl::genpass))
        .flags("noscript loading stale")
        .categories("slow")
        .doc("server", "6.0.0", "O(1)", "Generate a pseudorandom secure password to use for ACL users")
        .arguments("bits?:integer"),
    Row::new("acl|getuser", 3, Run::Now(acl::getuser))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .doc(
            "server",
            "6.0.0",
            "O(N). Where N is the number of password, command and pattern rules that the user has.",
            "Get the rules for a specific ACL user",
        )
        .arguments("username:string"),
    Row::new("acl|help", 2, Run::Now(catalog::help)).flags("loading stale").categories("slow").doc(
        "server",
        "6.0.0",
        "O(1)",
        "Show helpful text about the different subcommands",
    ),
    Row::new("acl|list", 2, Run::Now(acl::list))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .doc(
            "server",
            "6.0.0",
            "O(N). Where N is the number of configured users.",
            "List the current ACL rules in ACL config file format",
        ),
    Row::new("acl|load", 2, Run::Now(acl::refused))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .doc(
            "server",
            "6.0.0",
            "O(N). Where N is the number of configured users.",
            "Reload the ACLs from the configured ACL file",
        ),
    Row::new("acl|log", -2, Run::Now(acl::log))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .doc(
            "server",
            "6.0.0",
            "O(N) with N being the number of entries shown.",
            "List latest events denied because of ACLs in place",
        )
        .arguments("operation?:oneof(count:integer reset:token='RESET')"),
    Row::new("acl|save", 2, Run::Now(acl::refused))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .doc(
            "server",
            "6.0.0",
            "O(N). Where N is the number of configured users.",
            "Save the current ACL rules in the configured ACL file",
        ),
    Row::new("acl|setuser", -3, Run::Now(acl::refused))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .doc(
            "server",
            "6.0.0",
            "O(N). Where N is the number of rules provided.",
            "Modify or create the rules for a specific ACL user",
        )
        .arguments("username:string rule?*:string"),
    Row::new("acl|users", 2, Run::Now(acl::users))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .doc(
            "server",
            "6.0.0",
            "O(N). Where N is the number of configured users.",
            "List the username of all the configured ACL rules",
        ),
    Row::new("acl|whoami", 2, Run::Now(acl::whoami)).flags("noscript loading stale").categories("slow").doc(
        "server",
        "6.0.0",
        "O(1)",
        "Return the name of the user associated to the current connection",
    ),
];

/// Subcommands of COMMAND.
const COMMAND: &[Row] =
    &[
        Row::new("command|count", 2, Run::Now(catalog::count))
            .flags("loading stale")
            .categories("slow connection")
            .doc("server", "2.8.13", "O(1)", "Get total number of Redis commands"),
        Row::new("command|docs", -2, Run::Now(docs::docs))
            .flags("loading stale")
            .categories("slow connection")
            .tips("nondeterministic_output_order")
            .doc(
                "server",
                "7.0.0",
                "O(N) where N is the number of commands to look up",
                "Get array of specific Redis command documentation",
            )
            .arguments("command-name?*"),
        Row::new("command|getkeys", -4, Run::Now(catalog::getkeys))
            .flags("loading stale")
            .categories("slow connection")
            .doc(
                "server",
                "2.8.13",
                "O(N) where N is the number of arguments to the command",
                "Extract keys given a full Redis command",
            ),
        Row::new("command|getkeysandflags", -4, Run::Now(catalog::getkeysandflags))
            .flags("loading stale")
            .categories("slow connection")
            .doc(
                "server",
                "7.0.0",
                "O(N) where N is the number of arguments to the command",
                "Extract keys and access flags given a full Redis command",
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
            )
            .arguments("command-name?*"),
        Row::new("command|list", -2, Run::Now(catalog::list))
            .flags("loading stale")
            .categories("slow connection")
            .tips("nondeterministic_output_order")
            .doc(
                "server",
                "7.0.0",
                "O(N) where N is the total number of Redis commands",
                "Get an array of Redis command names",
            )
            .arguments("filterby?:oneof='FILTERBY'(module-name='MODULE' category='ACLCAT' pattern:pattern='PATTERN')"),
    ];

/// Subcommands of CONFIG.
const CONFIG: &[Row] = &[
    Row::new("config|get", -3, later!(config::get))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .doc(
            "server",
            "2.0.0",
            "O(N) when N is the number of configuration parameters provided",
            "Get the values of configuration parameters",
        )
        .arguments("parameter*:block(parameter)"),
    Row::new("config|help", 2, Run::Now(catalog::help)).flags("loading stale").categories("slow").doc(
        "server",
        "5.0.0",
        "O(1)",
        "Show helpful text about the different subcommands",
    ),
    Row::new("config|resetstat", 2, Run::Now(config::resetstat))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .doc("server", "2.0.0", "O(1)", "Reset the stats returned by INFO"),
    Row::new("config|set", -4, later!(config::set))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .tips("request_policy:all_nodes response_policy:all_succeeded")
        .doc(
            "server",
            "2.0.0",
            "O(N) when N is the number of configuration parameters provided",
            "Set configuration parameters to the given values",
        )
        .arguments("parameter_value*:block(parameter value)"),
];

/// Subcommands of LATENCY.
const LATENCY: &[Row] = &[
    Row::new("latency|doctor", 2, Run::Now(latency::doctor))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .tips("nondeterministic_output request_policy:all_nodes response_policy:special")
        .doc("server", "2.8.13", "O(1)", "Return a human readable latency analysis report."),
    Row::new("latency|graph", 3, Run::Now(latency::graph))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .tips("nondeterministic_output request_policy:all_nodes response_policy:special")
        .doc("server", "2.8.13", "O(1)", "Return a latency graph for the event.")
        .arguments("event"),
    Row::new("latency|help", 2, Run::Now(catalog::help)).flags("loading stale").categories("slow").doc(
        "server",
        "2.8.13",
        "O(1)",
        "Show helpful text about the different subcommands.",
    ),
    Row::new("latency|histogram", -2, Run::Now(latency::histogram))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .tips("nondeterministic_output request_policy:all_nodes response_policy:special")
        .doc(
            "server",
            "7.0.0",
            "O(N) where N is the number of commands with latency information being retrieved.",
            "Return the cumulative distribution of latencies of a subset of commands or all.",
        )
        .arguments("command?*"),
    Row::new("latency|history", 3, Run::Now(latency::history))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .tips("nondeterministic_output request_policy:all_nodes response_policy:special")
        .doc("server", "2.8.13", "O(1)", "Return timestamp-latency samples for the event.")
        .arguments("event"),
    Row::new("latency|latest", 2, Run::Now(latency::latest))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .tips("nondeterministic_output request_policy:all_nodes response_policy:special")
        .doc("server", "2.8.13", "O(1)", "Return the latest latency samples for all events."),
    Row::new("latency|reset", -2, Run::Now(latency::reset))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous")
        .tips("request_policy:all_nodes response_policy:all_succeeded")
        .doc("server", "2.8.13", "O(1)", "Reset latency data for one or more events.")
        .arguments("event?*"),
];

/// Subcommands of MEMORY.
const MEMORY: &[Row] = &[
    Row::new("memory|doctor", 2, Run::Now(memory::doctor))
        .categories("slow")
        .tips("nondeterministic_output request_policy:all_shards response_policy:special")
        .doc("server", "4.0.0", "O(1)", "Outputs memory problems report"),
    Row::new("memory|help", 2, Run::Now(catalog::help)).flags("loading stale").categories("slow").doc(
        "server",
        "4.0.0",
        "O(1)",
        "Show helpful text about the different subcommands",
    ),
    Row::new("memory|malloc-stats", 2, Run::Now(memory::malloc_stats))
        .categories("slow")
        .tips("nondeterministic_output request_policy:all_shards response_policy:special")
        .doc(
            "server",
            "4.0.0",
            "Depends on how much memory is allocated, could be slow",
            "Show allocator internal stats",
        ),
    Row::new("memory|purge", 2, Run::Now(memory::purge))
        .categories("slow")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .doc(
            "server",
            "4.0.0",
            "Depends on how much memory is allocated, could be slow",
            "Ask the allocator to release memory",
        ),
    Row::new("memory|stats", 2, later!(memory::stats))
        .categories("slow")
        .tips("nondeterministic_output request_policy:all_shards response_policy:special")
        .doc("server", "4.0.0", "O(1)", "Show memory usage details"),
    Row::new("memory|usage", -3, later!(memory::usage))
        .flags("readonly")
        .categories("read slow")
        .keys(&[KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RO")])
        .doc("server", "4.0.0", "O(N) where N is the number of samples.", "Estimate the memory usage of a key")
        .arguments("key:key#0 count?:integer='SAMPLES'"),
];

/// Subcommands of MODULE.
const MODULE: &[Row] = &[
    Row::new("module|help", 2, Run::Now(catalog::help)).flags("loading stale").categories("slow").doc(
        "server",
        "5.0.0",
        "O(1)",
        "Show helpful text about the different subcommands",
    ),
    Row::new("module|list", 2, Run::Now(server::no_modules))
        .flags("admin noscript")
        .categories("admin slow dangerous")
        .tips("nondeterministic_output_order")
        .doc(
            "server",
            "4.0.0",
            "O(N) where N is the number of loaded modules.",
            "List all modules loaded by the server",
        ),
];

/// Subcommands of SLOWLOG.
const SLOWLOG: &[Row] = &[
    Row::new("slowlog|get", -2, Run::Now(slowlog::get))
        .flags("admin loading stale")
        .categories("admin slow dangerous")
        .tips("request_policy:all_nodes nondeterministic_output")
        .doc("server", "2.2.12", "O(N) where N is the number of entries returned", "Get the slow log's entries")
        .arguments("count?:integer"),
    Row::new("slowlog|help", 2, Run::Now(catalog::help)).flags("loading stale").categories("slow").doc(
        "server",
        "6.2.0",
        "O(1)",
        "Show helpful text about the different subcommands",
    ),
    Row::new("slowlog|len", 2, Run::Now(slowlog::len))
        .flags("admin loading stale")
        .categories("admin slow dangerous")
        .tips("request_policy:all_nodes response_policy:agg_sum nondeterministic_output")
        .doc("server", "2.2.12", "O(1)", "Get the slow log's length"),
    Row::new("slowlog|reset", 2, Run::Now(slowlog::reset))
        .flags("admin loading stale")
        .categories("admin slow dangerous")
        .tips("request_policy:all_nodes response_policy:all_succeeded")
        .doc(
            "server",
            "2.2.12",
            "O(N) where N is the number of entries in the slowlog",
            "Clear all entries from the slow log",
        ),
];
