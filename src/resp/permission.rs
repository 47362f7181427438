//! Checks whether a client may run a command.
//!
//! The command table says which keys a request reads and writes; the facade checks keys as well. Commands without keys are
//! listed here: a command that is in no list, and has no keys, fails the build.

use super::{
    command::Row,
    exec::pass_through,
    frame::Args,
    key_spec::{KeySpec, places_of_streams},
    reply::{DENIED_KEY, Refusal},
};
use crate::{
    access::{Principal, Verbs},
    glob::Glob,
};

/// Commands for every authenticated client. Commands about several keys are filtered or checked by the facade.
const OPEN: &[&str] = &[
    "acl",
    "acl|cat",
    "acl|genpass",
    "acl|help",
    "acl|whoami",
    "asking",
    "auth",
    "client",
    "client|getname",
    "client|getredir",
    "client|help",
    "client|id",
    "client|info",
    "client|maint_notifications",
    "client|no-evict",
    "client|no-touch",
    "client|reply",
    "client|setinfo",
    "client|setname",
    "client|tracking",
    "client|trackinginfo",
    "cluster",
    "command",
    "command|count",
    "command|docs",
    "command|getkeys",
    "command|getkeysandflags",
    "command|help",
    "command|info",
    "command|list",
    "config",
    "config|help",
    "dbsize",
    "discard",
    "echo",
    "exec",
    "function",
    "function|help",
    "hello",
    "info",
    "keys",
    "lastsave",
    "latency",
    "latency|help",
    "lolwut",
    "memory",
    "memory|help",
    "module",
    "module|help",
    "module|list",
    "multi",
    "object",
    "object|help",
    "ping",
    "pubsub",
    "pubsub|help",
    "punsubscribe",
    "quit",
    "randomkey",
    "readonly",
    "readwrite",
    "reset",
    "role",
    "scan",
    "script",
    "script|help",
    "select",
    "slowlog",
    "slowlog|help",
    "terrace.help",
    "terrace.invalidate",
    "time",
    "unsubscribe",
    "unwatch",
    "wait",
    "xgroup",
    "xgroup|help",
    "xinfo",
    "xinfo|help",
];
/// Commands that require the permission to inspect.
const INSPECT: &[&str] = &[
    "latency|doctor",
    "latency|graph",
    "latency|histogram",
    "latency|history",
    "latency|latest",
    "memory|doctor",
    "memory|malloc-stats",
    "memory|stats",
    "terrace.tiers",
    "terrace.top",
];
/// Commands that require the permission to administrate.
const ADMIN: &[&str] = &[
    "acl|deluser",
    "acl|dryrun",
    "acl|getuser",
    "acl|list",
    "acl|load",
    "acl|log",
    "acl|save",
    "acl|setuser",
    "acl|users",
    "client|kill",
    "client|list",
    "client|unblock",
    "config|get",
    "config|resetstat",
    "config|set",
    "flushall",
    "flushdb",
    "latency|reset",
    "memory|purge",
    "monitor",
    "slowlog|get",
    "slowlog|len",
    "slowlog|reset",
];
/// Commands without keys that require the permission to run scripts.
const SCRIPT: &[&str] = &[
    "function|delete",
    "function|dump",
    "function|flush",
    "function|kill",
    "function|list",
    "function|load",
    "function|restore",
    "function|stats",
    "script|debug",
    "script|exists",
    "script|flush",
    "script|kill",
    "script|load",
];
/// Commands that show metadata of a key, which clients may see that may only inspect the key.
const METADATA: &[&str] = &["terrace.explain", "terrace.info", "terrace.tags"];
/// Commands whose arguments are channels.
const CHANNELS: &[&str] = &["psubscribe", "publish", "pubsub|channels", "pubsub|numpat", "pubsub|numsub", "subscribe"];

/// Beginnings of the channels of events about keys.
const EVENT_CHANNELS: [&[u8]; 3] = [b"__keyspace@", b"__keyevent@", b"__terrace__:"];
/// Beginning of the channels of one key in db 0.
const KEYSPACE: &[u8] = b"__keyspace@0__:";

const DENIED_CHANNEL: &str = "NOPERM this user has no permissions to access one of the channels used as arguments";

/// The part of a request that a client has no permission for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The command.
    Command,
    /// The key at this position.
    Key(usize),
    /// The channel at this position.
    Channel(usize),
}

/// A request without permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Denied {
    pub(super) part: Part,
    /// The required verbs; none for channels.
    verbs: Verbs,
}

impl Denied {
    fn key(at: usize, verbs: Verbs) -> Self {
        Self { part: Part::Key(at), verbs }
    }

    fn channel(at: usize) -> Self {
        Self { part: Part::Channel(at), verbs: Verbs::NONE }
    }

    /// Counts the rejected request of a client.
    pub(super) fn count(self, principal: &Principal) {
        if !self.verbs.is_empty() {
            let _counted = principal.denied(self.verbs);
        }
    }

    /// Returns the error of Redis.
    pub(super) fn refusal(self, row: &Row) -> Refusal {
        match self.part {
            Part::Command => {
                Refusal::text(format!("NOPERM this user has no permissions to run the '{}' command", row.name))
            }
            Part::Key(_) => Refusal::text(DENIED_KEY),
            Part::Channel(_) => Refusal::text(DENIED_CHANNEL),
        }
    }

    /// Returns the name of the command, the key or the channel.
    pub(super) fn object<'a>(self, row: &'static Row, args: Args<'a>) -> &'a [u8] {
        match self.part {
            Part::Command => row.name.as_bytes(),
            Part::Key(at) | Part::Channel(at) => args.get(at).unwrap_or_default(),
        }
    }
}

/// Fails the build if a command has no decision about its permissions.
pub(super) const fn all_are_decided(rows: &[Row]) {
    let mut at = 0;
    while at < rows.len() {
        let row = &rows[at];
        let is_listed =
            lists(OPEN, row.name) || lists(INSPECT, row.name) || lists(ADMIN, row.name) || lists(SCRIPT, row.name);
        let is_decided = is_listed || lists(CHANNELS, row.name) || !row.keys.is_empty();
        assert!(is_decided, "a command has neither keys nor an entry in resp/permission.rs");
        all_are_decided(row.subcommands);
        at += 1;
    }
}

const fn lists(list: &[&str], name: &str) -> bool {
    let mut at = 0;
    while at < list.len() {
        if is_same(list[at], name) {
            return true;
        }
        at += 1;
    }
    false
}

const fn is_same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Checks the permissions for a request. Counts nothing.
#[inline]
pub(super) fn check(principal: &Principal, row: &'static Row, args: Args<'_>) -> Result<(), Denied> {
    if principal.may_everywhere(Verbs::ALL) {
        return Ok(());
    }
    check_restricted(principal, row, args)
}

fn check_restricted(principal: &Principal, row: &'static Row, args: Args<'_>) -> Result<(), Denied> {
    if lists(CHANNELS, row.name) {
        return check_channels(principal, row.name, args);
    }
    let (is_permitted, verbs) = match row.name {
        name if lists(ADMIN, name) => (principal.may_everywhere(Verbs::ADMIN), Verbs::ADMIN),
        name if lists(SCRIPT, name) || runs_scripts(row) => (principal.may_everywhere(Verbs::SCRIPT), Verbs::SCRIPT),
        name if lists(INSPECT, name) => (principal.may_somewhere(Verbs::INSPECT), Verbs::INSPECT),
        _ => (true, Verbs::NONE),
    };
    if !is_permitted {
        return Err(Denied { part: Part::Command, verbs });
    }
    check_keys(principal, row, args)
}

/// Returns `true` for a command that runs a script. Only these commands need no keys, and Redis rejects a malformed number
/// of keys before it runs the script.
fn runs_scripts(row: &Row) -> bool {
    row.has("no_mandatory_keys")
}

fn check_keys(principal: &Principal, row: &'static Row, args: Args<'_>) -> Result<(), Denied> {
    if matches!(row.name, "xread" | "xreadgroup") {
        let mut places = places_of_streams(args).into_iter();
        // A read for a group changes the state of the group.
        let verbs = if row.name == "xreadgroup" { Verbs::READ.with(Verbs::WRITE) } else { Verbs::READ };
        return places.try_for_each(|at| check_key(principal, verbs, args, at));
    }
    if lists(METADATA, row.name) {
        // They show metadata, which clients may know that may only inspect the key.
        return if principal.sees(args.at(1)) { Ok(()) } else { Err(Denied::key(1, Verbs::READ)) };
    }
    for spec in row.keys {
        // Redis may find other keys in arguments that do not fit the specification.
        let places = spec.places(args).or_else(|| runs_scripts(row).then(Vec::new));
        let Some(places) = places else { return Err(Denied::key(1, Verbs::READ)) };
        let verbs = verbs_of(row, spec, args);
        places.into_iter().try_for_each(|at| check_key(principal, verbs, args, at))?;
    }
    pass_through::stored(row, args).into_iter().try_for_each(|at| check_key(principal, Verbs::WRITE, args, at))?;
    pass_through::read_patterns(row, args).into_iter().try_for_each(|at| {
        let pattern = args.at(at);
        let Some(end) = memchr::memchr(b'*', pattern) else { return Ok(()) };
        if principal.may(Verbs::READ, &pattern[..end]) { Ok(()) } else { Err(Denied::key(at, Verbs::READ)) }
    })
}

fn check_key(principal: &Principal, verbs: Verbs, args: Args<'_>, at: usize) -> Result<(), Denied> {
    if principal.may(verbs, args.at(at)) { Ok(()) } else { Err(Denied::key(at, verbs)) }
}

/// Returns the verbs that a command requires for the keys of a specification.
fn verbs_of(row: &Row, spec: &KeySpec, args: Args<'_>) -> Verbs {
    let has = |flag: &str| spec.flags.split(' ').any(|own| own == flag);
    let write = match () {
        () if has("RO") => return Verbs::READ,
        () if has("RM") || row.name == "getdel" => Verbs::DELETE,
        () if row.name.starts_with("rename") && has("delete") => Verbs::WRITE.with(Verbs::DELETE),
        () => Verbs::WRITE,
    };
    // SET reads only with the option GET.
    let reads = match row.name {
        "set" => args.from(3).iter().any(|word| word.eq_ignore_ascii_case(b"get")),
        _ => has("access"),
    };
    if reads { write.with(Verbs::READ) } else { write }
}

fn check_channels(principal: &Principal, command: &str, args: Args<'_>) -> Result<(), Denied> {
    let denied_at = match command {
        "publish" => (!may_publish(principal, args.at(1))).then_some(1),
        "subscribe" => (1..args.len()).find(|at| !may_subscribe(principal, args.at(*at))),
        "psubscribe" => (1..args.len()).find(|at| !may_subscribe_pattern(principal, args.at(*at))),
        "pubsub|numsub" => (2..args.len()).find(|at| !principal.may_use_channel(args.at(*at))),
        _ => (!principal.may_use_channel(b"")).then_some(args.len()),
    };
    denied_at.map_or(Ok(()), |at| Err(Denied::channel(at)))
}

fn may_publish(principal: &Principal, channel: &[u8]) -> bool {
    let is_event = EVENT_CHANNELS.iter().any(|event| channel.starts_with(event));
    principal.may_use_channel(channel) && (!is_event || principal.may_everywhere(Verbs::ADMIN))
}

fn may_subscribe(principal: &Principal, channel: &[u8]) -> bool {
    if let Some(key) = channel.strip_prefix(KEYSPACE) {
        return principal.may(Verbs::WATCH, key);
    }
    if EVENT_CHANNELS.iter().any(|event| channel.starts_with(event)) {
        return principal.may_everywhere(Verbs::WATCH);
    }
    principal.may_use_channel(channel)
}

fn may_subscribe_pattern(principal: &Principal, pattern: &[u8]) -> bool {
    let Ok(glob) = Glob::new(pattern) else { return false };
    let literal = glob.literal_prefix();
    // The pattern may match a channel of events as well.
    if EVENT_CHANNELS.iter().any(|event| event.starts_with(literal)) {
        return principal.may_use_channel(literal) && principal.may_everywhere(Verbs::WATCH);
    }
    may_subscribe(principal, literal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{
        frame::Owned,
        key_spec::{Begin, Find},
        table::COMMANDS,
    };

    fn permits(request: &str) -> bool {
        let mut tenant = Principal::for_tests("t");
        tenant.grant(b"t:", Verbs::READ.with(Verbs::WRITE).with(Verbs::WATCH));
        tenant.grant(b"t:tmp:", Verbs::DELETE);
        tenant.grant(b"shared:", Verbs::READ);
        tenant.grant_channels(b"t:");
        let request = Owned::new(request.split(' ').map(str::as_bytes));
        check(&tenant, COMMANDS.resolve(request.args()).unwrap().row, request.args()).is_ok()
    }

    #[test]
    fn commands_are_limited_to_the_prefixes_of_the_tenant() {
        for request in [
            "get t:1",
            "set t:1 v",
            "mget t:1 shared:2",
            "ping",
            "info",
            "scan 0",
            "del t:tmp:1",
            "getdel t:tmp:1",
            "rename t:tmp:1 t:2",
            "sort t:l by t:w_* get # store t:2",
            "sort t:l by nosort",
            "publish t:x m",
            "subscribe t:x",
            "psubscribe t:*",
            "psubscribe __keyspace@0__:t:*",
            "subscribe __keyspace@0__:t:1",
            "lpop t:l",
            "zunionstore t:z 2 t:a shared:b",
            "terrace.invalidate pattern x",
            "set t:1 v get",
            "eXists t:1",
            "terrace.tags t:1",
            "terrace.lease t:1",
            "terrace.lease shared:1",
            "terrace.fill t:1 token v",
            "terrace.absent t:1 token",
            "terrace.release t:1 token",
        ] {
            assert!(permits(request), "{request}");
        }
        for request in [
            "get x",
            "set shared:1 v",
            "mget t:1 x",
            "del t:1",
            "getdel t:1",
            "rename t:1 t:2",
            "rename shared:1 t:1",
            "sort t:l by w_*",
            "sort t:l get *",
            "sort t:l store x",
            "flushall",
            "config get maxmemory",
            "monitor",
            "slowlog get",
            "client kill 1",
            "client list",
            "acl list",
            "publish x m",
            "subscribe x",
            "psubscribe *",
            "psubscribe __key*",
            "subscribe __keyevent@0__:set",
            "psubscribe __keyspace@0__:*",
            "pubsub channels",
            "subscribe __terrace__:invalidated",
            "publish __keyspace@0__:t:1 set",
            "zunionstore x 1 t:a",
            "zunionstore t:z 2 t:a x",
            "memory stats",
            "terrace.top",
            "zunionstore t:z nan x",
            "terrace.tags x",
            "terrace.lease x",
            "terrace.fill shared:1 token v",
            "terrace.absent shared:1 token",
            "terrace.release shared:1 token",
        ] {
            assert!(!permits(request), "{request}");
        }
    }

    /// A request of a command in which every key is `key`.
    fn request_with(row: &Row, key: &str) -> Owned {
        let mut words: Vec<String> = row.name.split('|').map(str::to_owned).collect();
        // PFMERGE without a source has one key fewer than its specifications.
        let least = usize::try_from(row.arity.abs()).unwrap().max(words.len() + 2);
        match row.name {
            "xread" => words.extend(["STREAMS", key, "0"].map(str::to_owned)),
            "xreadgroup" => words.extend(["GROUP", "g", "c", "STREAMS", key, ">"].map(str::to_owned)),
            _ => words.resize(least, key.to_owned()),
        }
        for spec in row.keys {
            let (Begin::At(at), Find::Counted(number, begin, _)) = (spec.begin, spec.find) else { continue };
            words.resize(words.len().max(at + begin + 1), key.to_owned());
            words[at + number] = "1".to_owned();
        }
        Owned::new(words.iter().map(String::as_bytes))
    }

    /// Every row of the table, for each kind of client.
    #[test]
    fn each_command_is_permitted_to_its_kinds_of_clients_only() {
        let nobody = Principal::for_tests("nobody");
        let (mut tenant, mut inspector) = (Principal::for_tests("t"), Principal::for_tests("i"));
        tenant.grant(b"t:", Verbs::READ.with(Verbs::WRITE).with(Verbs::DELETE));
        tenant.grant(b"", Verbs::SCRIPT);
        inspector.grant(b"", Verbs::INSPECT);
        let admin = Principal::admin("root");
        let mut with_keys = 0;
        for row in COMMANDS.rows.iter().flat_map(|row| std::iter::once(row).chain(row.subcommands)) {
            let permits = |principal: &Principal, key: &str| {
                let request = request_with(row, key);
                check(principal, row, request.args()).is_ok()
            };
            assert!(permits(&admin, "x:1"), "{}", row.name);
            let (is_open, is_admin, is_inspect) =
                (lists(OPEN, row.name), lists(ADMIN, row.name), lists(INSPECT, row.name));
            assert_eq!(permits(&nobody, "x:1"), is_open, "{} by nobody", row.name);
            assert!(!is_admin || !permits(&tenant, "t:1") && !permits(&inspector, "t:1"), "{}", row.name);
            assert_eq!(permits(&inspector, "x:1"), is_open || is_inspect || lists(METADATA, row.name), "{}", row.name);
            if !row.keys.is_empty() {
                with_keys += 1;
                assert!(permits(&tenant, "t:1"), "{} on an own key", row.name);
                assert!(!permits(&tenant, "x:1"), "{} on a foreign key", row.name);
            }
        }
        assert!(with_keys > 100, "{with_keys}");
    }
}
