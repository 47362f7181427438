//! Rows of the commands on scripts and functions, which Redis runs.

use crate::resp::{
    command::{Row, Run},
    exec::{catalog, scripts},
    key_spec::{Begin, Find, KeySpec},
    table::later,
};

const RUN: Run = later!(scripts::run);

/// The keys that the client declares, in positions that are equal in all these commands.
const fn declared(flags: &'static str) -> KeySpec {
    KeySpec::new(Begin::At(2), Find::Counted(0, 1, 1), flags)
}

const CHANGED: KeySpec = declared("RW access update");
const READ: KeySpec = declared("RO access");
const CHANGED_NOTES: &str = "We cannot tell how the keys will be used so we assume the worst, RW and UPDATE";
const READ_NOTES: &str = "We cannot tell how the keys will be used so we assume the worst, RO and ACCESS";
const SCRIPT_COMPLEXITY: &str = "Depends on the script that is executed.";
const FUNCTION_COMPLEXITY: &str = "Depends on the function that is executed.";

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("eval", -3, RUN)
        .flags("noscript stale skip_monitor no_mandatory_keys movablekeys")
        .categories("slow scripting")
        .keys(&[CHANGED.notes(CHANGED_NOTES)])
        .doc("scripting", "2.6.0", SCRIPT_COMPLEXITY, "Execute a Lua script server side")
        .arguments("script numkeys:integer key?*:key#0 arg?*"),
    Row::new("eval_ro", -3, RUN)
        .flags("readonly noscript stale skip_monitor no_mandatory_keys movablekeys")
        .categories("slow scripting")
        .keys(&[READ.notes(READ_NOTES)])
        .doc("scripting", "7.0.0", SCRIPT_COMPLEXITY, "Execute a read-only Lua script server side")
        .arguments("script numkeys:integer key?*:key#0 arg?*"),
    Row::new("evalsha", -3, RUN)
        .flags("noscript stale skip_monitor no_mandatory_keys movablekeys")
        .categories("slow scripting")
        .keys(&[CHANGED])
        .doc("scripting", "2.6.0", SCRIPT_COMPLEXITY, "Execute a Lua script server side")
        .arguments("sha1 numkeys:integer key?*:key#0 arg?*"),
    Row::new("evalsha_ro", -3, RUN)
        .flags("readonly noscript stale skip_monitor no_mandatory_keys movablekeys")
        .categories("slow scripting")
        .keys(&[READ])
        .doc("scripting", "7.0.0", SCRIPT_COMPLEXITY, "Execute a read-only Lua script server side")
        .arguments("sha1 numkeys:integer key?*:key#0 arg?*"),
    Row::new("fcall", -3, RUN)
        .flags("noscript stale skip_monitor no_mandatory_keys movablekeys")
        .categories("slow scripting")
        .keys(&[CHANGED.notes(CHANGED_NOTES)])
        .doc("scripting", "7.0.0", FUNCTION_COMPLEXITY, "Invoke a function")
        .arguments("function numkeys:integer key?*:key#0 arg?*"),
    Row::new("fcall_ro", -3, RUN)
        .flags("readonly noscript stale skip_monitor no_mandatory_keys movablekeys")
        .categories("slow scripting")
        .keys(&[READ.notes(READ_NOTES)])
        .doc("scripting", "7.0.0", FUNCTION_COMPLEXITY, "Invoke a read-only function")
        .arguments("function numkeys:integer key?*:key#0 arg?*"),
    Row::new("function", -2, Run::Container)
        .categories("slow")
        .doc("scripting", "7.0.0", "Depends on subcommand.", "A container for function commands")
        .subcommands(FUNCTION),
    Row::new("script", -2, Run::Container)
        .categories("slow")
        .doc("scripting", "2.6.0", "Depends on subcommand.", "A container for Lua scripts management commands")
        .subcommands(SCRIPT),
];

/// Subcommands of FUNCTION.
const FUNCTION: &[Row] = &[
    Row::new("function|delete", 3, later!(scripts::change))
        .flags("write noscript")
        .categories("write slow scripting")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .doc("scripting", "7.0.0", "O(1)", "Delete a function by name")
        .arguments("library-name"),
    Row::new("function|dump", 2, later!(scripts::ask)).flags("noscript").categories("slow scripting").doc(
        "scripting",
        "7.0.0",
        "O(N) where N is the number of functions",
        "Dump all functions into a serialized binary payload",
    ),
    Row::new("function|flush", -2, later!(scripts::flush_functions))
        .flags("write noscript")
        .categories("write slow scripting")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .doc("scripting", "7.0.0", "O(N) where N is the number of functions deleted", "Deleting all functions")
        .arguments("async?:oneof(async:token='ASYNC' sync:token='SYNC')"),
    Row::new("function|help", 2, Run::Now(catalog::help)).flags("loading stale").categories("slow scripting").doc(
        "scripting",
        "7.0.0",
        "O(1)",
        "Show helpful text about the different subcommands",
    ),
    Row::new("function|kill", 2, later!(scripts::kill))
        .flags("noscript allow_busy")
        .categories("slow scripting")
        .tips("request_policy:all_shards response_policy:one_succeeded")
        .doc("scripting", "7.0.0", "O(1)", "Kill the function currently in execution."),
    Row::new("function|list", -2, later!(scripts::list_functions))
        .flags("noscript")
        .categories("slow scripting")
        .tips("nondeterministic_output_order")
        .doc(
            "scripting",
            "7.0.0",
            "O(N) where N is the number of functions",
            "List information about all the functions",
        )
        .arguments("library-name-pattern?='LIBRARYNAME' withcode?:token='WITHCODE'"),
    Row::new("function|load", -3, later!(scripts::change))
        .flags("write denyoom noscript")
        .categories("write slow scripting")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .doc(
            "scripting",
            "7.0.0",
            "O(1) (considering compilation time is redundant)",
            "Create a function with the given arguments (name, code, description)",
        )
        .arguments("replace?:token='REPLACE' function-code"),
    Row::new("function|restore", -3, later!(scripts::change))
        .flags("write denyoom noscript")
        .categories("write slow scripting")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .doc(
            "scripting",
            "7.0.0",
            "O(N) where N is the number of functions on the payload",
            "Restore all the functions on the given payload",
        )
        .arguments("serialized-value policy?:oneof(flush:token='FLUSH' append:token='APPEND' replace:token='REPLACE')"),
    Row::new("function|stats", 2, later!(scripts::ask))
        .flags("noscript allow_busy")
        .categories("slow scripting")
        .tips("nondeterministic_output request_policy:all_shards response_policy:special")
        .doc(
            "scripting",
            "7.0.0",
            "O(1)",
            "Return information about the function currently running (name, description, duration)",
        ),
];

/// Subcommands of SCRIPT.
const SCRIPT: &[Row] = &[
    Row::new("script|debug", 3, Run::Now(scripts::debug))
        .flags("noscript")
        .categories("slow scripting")
        .doc("scripting", "3.2.0", "O(1)", "Set the debug mode for executed scripts.")
        .arguments("mode:oneof(yes:token='YES' sync:token='SYNC' no:token='NO')"),
    Row::new("script|exists", -3, later!(scripts::exists))
        .flags("noscript")
        .categories("slow scripting")
        .tips("request_policy:all_shards response_policy:agg_logical_and")
        .doc(
            "scripting",
            "2.6.0",
            "O(N) with N being the number of scripts to check (so checking a single script is an O(1) operation).",
            "Check existence of scripts in the script cache.",
        )
        .arguments("sha1*"),
    Row::new("script|flush", -2, later!(scripts::change))
        .flags("noscript")
        .categories("slow scripting")
        .tips("request_policy:all_nodes response_policy:all_succeeded")
        .doc(
            "scripting",
            "2.6.0",
            "O(N) with N being the number of scripts in cache",
            "Remove all the scripts from the script cache.",
        )
        .arguments("async?:oneof@6.2.0(async:token='ASYNC' sync:token='SYNC')"),
    Row::new("script|help", 2, Run::Now(catalog::help)).flags("loading stale").categories("slow scripting").doc(
        "scripting",
        "5.0.0",
        "O(1)",
        "Show helpful text about the different subcommands",
    ),
    Row::new("script|kill", 2, later!(scripts::kill))
        .flags("noscript allow_busy")
        .categories("slow scripting")
        .tips("request_policy:all_shards response_policy:one_succeeded")
        .doc("scripting", "2.6.0", "O(1)", "Kill the script currently in execution."),
    Row::new("script|load", 3, later!(scripts::change))
        .flags("noscript stale")
        .categories("slow scripting")
        .tips("request_policy:all_nodes response_policy:all_succeeded")
        .doc(
            "scripting",
            "2.6.0",
            "O(N) with N being the length in bytes of the script body.",
            "Load the specified Lua script into the script cache.",
        )
        .arguments("script"),
];
