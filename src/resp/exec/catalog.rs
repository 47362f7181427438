//! COMMAND and its subcommands except DOCS, and HELP of every container, generated from the command table.

use super::{is, pass_through};
use crate::{
    glob::Glob,
    resp::{
        command::{Context, Row},
        frame::Args,
        key_spec::{Begin, Find, KeySpec, places_without_specs},
        lookup::{Commands, find_subcommand},
        reply::{Done, Refusal, Reply},
    },
};

/// COMMAND
pub(in crate::resp) fn all(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let rows = cx.edge.commands.rows;
    cx.reply.array(rows.len());
    for row in rows {
        describe(cx.reply, row);
    }
    Ok(())
}

/// COMMAND COUNT
pub(in crate::resp) fn count(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.reply.count(cx.edge.commands.rows.len() as u64);
    Ok(())
}

/// COMMAND INFO [name ...]
pub(in crate::resp) fn info(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if args.len() == 2 {
        return all(cx, args);
    }
    cx.reply.array(args.len() - 2);
    for name in args.from(2).iter() {
        match row_of(cx.edge.commands, name) {
            Some(row) => describe(cx.reply, row),
            None => cx.reply.null(),
        }
    }
    Ok(())
}

/// Returns the row of a command such as `get` or `client|id`.
pub(super) fn row_of(commands: &Commands, name: &[u8]) -> Option<&'static Row> {
    match name.iter().position(|byte| *byte == b'|') {
        None => commands.find(name).map(|found| found.row),
        Some(bar) => {
            let container = commands.find(&name[..bar])?.row;
            find_subcommand(container, &name[bar + 1..]).map(|found| found.row)
        }
    }
}

pub(super) fn words(text: &'static str) -> impl Iterator<Item = &'static str> + Clone {
    text.split(' ').filter(|word| !word.is_empty())
}

/// Writes one command in the format of COMMAND INFO.
fn describe(reply: &mut Reply, row: &Row) {
    reply.array(10);
    reply.bulk(row.name.as_bytes());
    reply.integer(row.arity);
    reply.set(words(row.flags).count());
    words(row.flags).for_each(|flag| reply.simple(flag));
    describe_legacy_range(reply, row.keys);
    reply.set(words(row.categories).count());
    words(row.categories).for_each(|category| reply.status(&format!("@{category}")));
    reply.set(words(row.tips).count());
    words(row.tips).for_each(|tip| reply.bulk(tip.as_bytes()));
    reply.set(row.keys.len());
    row.keys.iter().for_each(|spec| describe_keys(reply, *spec));
    reply.set(row.subcommands.len());
    for subcommand in row.subcommands {
        describe(reply, subcommand);
    }
}

/// Writes first key, last key and step, the format before Redis 7, from the first key specification with a range.
fn describe_legacy_range(reply: &mut Reply, keys: &[KeySpec]) {
    let range = |spec: &KeySpec| match (spec.begin, spec.find) {
        (Begin::At(first), Find::Range(last, step, 0)) => {
            let first = i64::try_from(first).unwrap_or(0);
            let last = if last < 0 { last } else { first + last };
            Some([first, last, i64::try_from(step).unwrap_or(0)])
        }
        (_, _) => None,
    };
    let mut ranges = keys.iter().filter_map(range);
    let mut range = ranges.next().unwrap_or_default();
    // Adjacent ranges are merged.
    for [first, last, step] in ranges {
        if first == range[1] + 1 && step == range[2] {
            range[1] = last;
        }
    }
    for number in range {
        reply.integer(number);
    }
}

fn describe_keys(reply: &mut Reply, spec: KeySpec) {
    let number = |number: usize| i64::try_from(number).unwrap_or(0);
    reply.map(3 + usize::from(!spec.notes.is_empty()));
    if !spec.notes.is_empty() {
        reply.bulk(b"notes");
        reply.bulk(spec.notes.as_bytes());
    }
    reply.bulk(b"flags");
    reply.set(words(spec.flags).count());
    words(spec.flags).for_each(|flag| reply.simple(flag));
    match spec.begin {
        Begin::At(first) => describe_spec(reply, "begin_search", "index", &[("index", number(first))]),
        Begin::After(word, from) => {
            describe_kind(reply, "begin_search", "keyword", 2);
            reply.bulk(b"keyword");
            reply.bulk(word.as_bytes());
            reply.bulk(b"startfrom");
            reply.integer(from);
        }
        Begin::Unknown => describe_spec(reply, "begin_search", "unknown", &[]),
    }
    match spec.find {
        Find::Range(last, step, parts) => {
            let numbers = [("lastkey", last), ("keystep", number(step)), ("limit", number(parts))];
            describe_spec(reply, "find_keys", "range", &numbers);
        }
        Find::Counted(at, first, step) => {
            let numbers = [("keynumidx", number(at)), ("firstkey", number(first)), ("keystep", number(step))];
            describe_spec(reply, "find_keys", "keynum", &numbers);
        }
        Find::Unknown => describe_spec(reply, "find_keys", "unknown", &[]),
    }
}

fn describe_kind(reply: &mut Reply, name: &str, kind: &str, fields: usize) {
    reply.bulk(name.as_bytes());
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(kind.as_bytes());
    reply.bulk(b"spec");
    reply.map(fields);
}

fn describe_spec(reply: &mut Reply, name: &str, kind: &str, numbers: &[(&str, i64)]) {
    describe_kind(reply, name, kind, numbers.len());
    for (name, number) in numbers {
        reply.bulk(name.as_bytes());
        reply.integer(*number);
    }
}

/// Selects the rows to list.
type Filter = Box<dyn Fn(&&Row) -> bool>;

/// COMMAND LIST [FILTERBY MODULE name|ACLCAT category|PATTERN pattern]
pub(in crate::resp) fn list(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let filter: Filter = match (args.len(), args.get(2), args.get(3), args.get(4)) {
        (2, ..) => Box::new(|_| true),
        (5, Some(by), Some(kind), Some(value)) if is(by, "filterby") => filter(kind, value)?,
        (..) => return Err(Refusal::Syntax),
    };
    let all = cx.edge.commands.rows.iter();
    let subcommands = all.clone().flat_map(|row| row.subcommands);
    let rows: Vec<&Row> = match args.len() {
        2 => all.filter(&filter).collect(),
        _ => all.chain(subcommands).filter(&filter).collect(),
    };
    // As in Redis, the whole list is a set and a filtered list is an array.
    if args.len() == 2 {
        cx.reply.set(rows.len())
    } else {
        cx.reply.array(rows.len())
    }
    for row in rows {
        cx.reply.bulk(row.name.as_bytes());
    }
    Ok(())
}

fn filter(kind: &[u8], value: &[u8]) -> Result<Filter, Refusal> {
    match kind {
        // Terrace has no modules.
        kind if is(kind, "module") => Ok(Box::new(|_| false)),
        kind if is(kind, "aclcat") => {
            let category = value.to_ascii_lowercase();
            Ok(Box::new(move |row| words(row.categories).any(|own| own.as_bytes() == category)))
        }
        kind if is(kind, "pattern") => {
            let pattern = Glob::new(&value.to_ascii_lowercase())?;
            Ok(Box::new(move |row| pattern.matches(row.name.as_bytes())))
        }
        _ => Err(Refusal::Syntax),
    }
}

/// COMMAND GETKEYS command [argument ...]
pub(in crate::resp) fn getkeys(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let keys = keys_of_request(cx.edge.commands, args.from(2))?;
    cx.reply.array(keys.len());
    for (at, _) in keys {
        cx.reply.bulk(args.at(2 + at));
    }
    Ok(())
}

/// COMMAND GETKEYSANDFLAGS command [argument ...]
pub(in crate::resp) fn getkeysandflags(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let keys = keys_of_request(cx.edge.commands, args.from(2))?;
    cx.reply.array(keys.len());
    for (at, flags) in keys {
        let flags = flags_of(flags, args.from(2));
        cx.reply.array(2);
        cx.reply.bulk(args.at(2 + at));
        cx.reply.set(words(flags).count());
        words(flags).for_each(|flag| cx.reply.simple(flag));
    }
    Ok(())
}

/// Returns the key flags of a request. SET reads its key only with the GET option, and BITFIELD writes it unless all
/// operations are GET.
fn flags_of(flags: &'static str, request: Args<'_>) -> &'static str {
    let reads = || request.from(3).iter().any(|word| is(word, "get"));
    match flags {
        "RW access update variable_flags" if is(request.at(0), "set") && !reads() => "OW update",
        "RW access update variable_flags" if is(request.at(0), "bitfield") && only_gets(request) => "RO access",
        "RW access update variable_flags" => "RW access update",
        flags => flags,
    }
}

/// Returns whether BITFIELD only reads, as Redis decides it: every operation is a complete GET or OVERFLOW.
fn only_gets(request: Args<'_>) -> bool {
    let mut at = 2;
    while at < request.len() {
        let left = request.len() - at - 1;
        at += match request.at(at) {
            word if is(word, "get") && left >= 2 => 3,
            word if is(word, "overflow") && left >= 1 => 2,
            _ => return false,
        };
    }
    true
}

/// Returns the positions of the keys of a request, each with its flags.
fn keys_of_request(commands: &Commands, request: Args<'_>) -> Result<Vec<(usize, &'static str)>, Refusal> {
    let Ok(found) = commands.resolve(request) else {
        return Err(Refusal::text("ERR Invalid command specified"));
    };
    if found.row.keys.is_empty() {
        return Err(Refusal::text("ERR The command has no key arguments"));
    }
    if !found.row.accepts(request.len()) {
        return Err(Refusal::text("ERR Invalid number of arguments specified for command"));
    }
    let specs = found.row.keys;
    let of_spec = |spec: &KeySpec| Some(spec.places(request)?.into_iter().map(|at| (at, spec.flags)).collect());
    let mut keys = match specs.iter().map(of_spec).collect::<Option<Vec<Vec<_>>>>() {
        Some(keys) => keys.concat(),
        None => places_without_specs(specs, request).into_iter().map(|at| (at, "")).collect(),
    };
    if let Some(at) = pass_through::shown_store_of_sort(found.row, request) {
        keys.push((at, specs[specs.len() - 1].flags));
    }
    // Such as XREAD without STREAMS. Scripts need no keys.
    if keys.is_empty() && !found.row.has("no_mandatory_keys") {
        return Err(Refusal::text("ERR Invalid arguments specified for command"));
    }
    Ok(keys)
}

/// CLIENT HELP, COMMAND HELP, CONFIG HELP
pub(in crate::resp) fn help(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let Some(container) = cx.edge.commands.find(args.at(0)).map(|found| found.row) else { return Err(Refusal::Syntax) };
    let name = container.name.to_ascii_uppercase();
    cx.reply.array(1 + container.subcommands.len() * 2);
    cx.reply.status(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for row in container.subcommands {
        cx.reply.status(&row.short_name().to_ascii_uppercase());
        cx.reply.status(&format!("    {}.", row.summary));
    }
    Ok(())
}
