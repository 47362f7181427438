//! Rows of the function commands. Terrace has no functions.

use crate::resp::{
    command::{Row, Run},
    exec::{catalog, server},
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[Row::new("function", -2, Run::Container)
    .categories("slow")
    .doc("scripting", "7.0.0", "Depends on subcommand.", "A container for function commands")
    .subcommands(FUNCTION)];

/// Subcommands of FUNCTION.
const FUNCTION: &[Row] = &[
    Row::new("function|flush", -2, Run::Now(server::function_flush))
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
    Row::new("function|list", -2, Run::Now(server::function_list))
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
];
