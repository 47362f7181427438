//! Rows of the connection commands.

use crate::resp::{
    command::{Row, Run},
    exec::{catalog, client, connection},
    table::later,
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("auth", -2, later!(connection::auth))
        .flags("noscript loading stale fast no_auth allow_busy")
        .categories("fast connection")
        .doc("connection", "1.0.0", "O(N) where N is the number of passwords defined for the user", "Authenticate to the server")
        .arguments("username?@6.0.0 password"),
    Row::new("client", -2, Run::Container)
        .categories("slow")
        .doc("connection", "2.4.0", "Depends on subcommand.", "A container for client connection commands")
        .subcommands(CLIENT),
    Row::new("echo", 2, Run::Now(connection::echo))
        .flags("loading stale fast")
        .categories("fast connection")
        .doc("connection", "1.0.0", "O(1)", "Echo the given string")
        .arguments("message"),
    Row::new("hello", -1, later!(connection::hello))
        .flags("noscript loading stale fast no_auth allow_busy")
        .categories("fast connection")
        .doc("connection", "6.0.0", "O(1)", "Handshake with Redis")
        .arguments("arguments?:block(protover:integer username_password?:block='AUTH'(username password) clientname?='SETNAME')"),
    Row::new("ping", -1, Run::Now(connection::ping))
        .flags("fast")
        .categories("fast connection")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .doc("connection", "1.0.0", "O(1)", "Ping the server")
        .arguments("message?"),
    Row::new("quit", -1, Run::Now(connection::quit))
        .flags("noscript loading stale fast no_auth allow_busy")
        .categories("fast connection")
        .doc("connection", "1.0.0", "O(1)", "Close the connection"),
    Row::new("reset", 1, Run::Now(connection::reset))
        .flags("noscript loading stale fast no_auth allow_busy")
        .categories("fast connection")
        .doc("connection", "6.2.0", "O(1)", "Reset the connection"),
    Row::new("select", 2, Run::Now(connection::select))
        .flags("loading stale fast")
        .categories("fast connection")
        .doc("connection", "1.0.0", "O(1)", "Change the selected database for the current connection")
        .arguments("index:integer"),
];

/// Subcommands of CLIENT.
const CLIENT: &[Row] = &[
    Row::new("client|getname", 2, Run::Now(client::getname))
        .flags("noscript loading stale")
        .categories("slow connection")
        .doc("connection", "2.6.9", "O(1)", "Get the current connection name"),
    Row::new("client|getredir", 2, Run::Now(client::getredir))
        .flags("noscript loading stale")
        .categories("slow connection")
        .doc("connection", "6.0.0", "O(1)", "Get tracking notifications redirection client ID if any"),
    Row::new("client|help", 2, Run::Now(catalog::help))
        .flags("loading stale")
        .categories("slow connection")
        .doc("connection", "5.0.0", "O(1)", "Show helpful text about the different subcommands"),
    Row::new("client|id", 2, Run::Now(client::id))
        .flags("noscript loading stale")
        .categories("slow connection")
        .doc("connection", "5.0.0", "O(1)", "Returns the client ID for the current connection"),
    Row::new("client|info", 2, Run::Now(client::info))
        .flags("noscript loading stale")
        .categories("slow connection")
        .tips("nondeterministic_output")
        .doc("connection", "6.2.0", "O(1)", "Returns information about the current client connection."),
    Row::new("client|kill", -3, Run::Now(client::kill))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous connection")
        .doc("connection", "2.4.0", "O(N) where N is the number of client connections", "Kill the connection of a client")
        .arguments("filter:oneof(ip:port!2.8.12 new-format*:oneof(client-id?:integer='ID'@2.8.12 normal_master_slave_pubsub?:oneof='TYPE'@2.8.12(normal:token='NORMAL' master:token='MASTER'@3.2.0 slave:token='SLAVE' replica:token='REPLICA'@5.0.0 pubsub:token='PUBSUB') username?='USER' ip:port?='ADDR' ip:port?='LADDR'@6.2.0 yes/no?='SKIPME'))"),
    Row::new("client|list", -2, Run::Now(client::list))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous connection")
        .tips("nondeterministic_output")
        .doc("connection", "2.4.0", "O(N) where N is the number of client connections", "Get the list of client connections")
        .arguments("normal_master_replica_pubsub?:oneof='TYPE'@5.0.0(normal:token='NORMAL' master:token='MASTER' replica:token='REPLICA' pubsub:token='PUBSUB') id?:block='ID'@6.2.0(client-id*:integer)"),
    Row::new("client|no-evict", 3, Run::Now(client::no_evict))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous connection")
        .doc("connection", "7.0.0", "O(1)", "Set client eviction mode for the current connection")
        .arguments("enabled:oneof(on:token='ON' off:token='OFF')"),
    Row::new("client|reply", 3, Run::Now(client::reply))
        .flags("noscript loading stale")
        .categories("slow connection")
        .doc("connection", "3.2.0", "O(1)", "Instruct the server whether to reply to commands")
        .arguments("on_off_skip:oneof(on:token='ON' off:token='OFF' skip:token='SKIP')"),
    Row::new("client|setname", 3, Run::Now(client::setname))
        .flags("noscript loading stale")
        .categories("slow connection")
        .doc("connection", "2.6.9", "O(1)", "Set the current connection name")
        .arguments("connection-name"),
    Row::new("client|tracking", -3, Run::Now(client::tracking))
        .flags("noscript loading stale")
        .categories("slow connection")
        .doc("connection", "6.0.0", "O(1). Some options may introduce additional complexity.", "Enable or disable server assisted client side caching support")
        .arguments("status:oneof(on:token='ON' off:token='OFF') client-id?:integer='REDIRECT' prefix?*+='PREFIX' bcast?:token='BCAST' optin?:token='OPTIN' optout?:token='OPTOUT' noloop?:token='NOLOOP'"),
    Row::new("client|trackinginfo", 2, Run::Now(client::trackinginfo))
        .flags("noscript loading stale")
        .categories("slow connection")
        .doc("connection", "6.2.0", "O(1)", "Return information about server assisted client side caching for the current connection"),
    Row::new("client|unblock", -3, Run::Now(client::unblock))
        .flags("admin noscript loading stale")
        .categories("admin slow dangerous connection")
        .doc("connection", "5.0.0", "O(log N) where N is the number of client connections", "Unblock a client blocked in a blocking command from a different connection")
        .arguments("client-id:integer timeout_error?:oneof(timeout:token='TIMEOUT' error:token='ERROR')"),
    Row::new("client|maint_notifications", -3, Run::Now(client::maint_notifications))
        .flags("noscript loading stale")
        .categories("slow connection")
        .doc("connection", "8.0.0", "O(1)", "Refused: there are no maintenance events"),
    Row::new("client|no-touch", 3, Run::Now(client::no_touch))
        .flags("noscript loading stale")
        .categories("slow connection")
        .doc("connection", "7.2.0", "O(1)", "Controls whether commands sent by the client affect recency and statistics")
        .arguments("enabled:oneof(on:token='ON' off:token='OFF')"),
    Row::new("client|setinfo", 4, Run::Now(client::setinfo))
        .flags("noscript loading stale")
        .categories("slow connection")
        .doc("connection", "7.2.0", "O(1)", "Set the name or version of the client library")
        .arguments("attr:oneof(libname='LIB-NAME' libver='LIB-VER')"),
];
