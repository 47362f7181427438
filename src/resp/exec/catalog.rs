//! COMMAND and its subcommands, and HELP of every container: all made from the table.

use super::is;
use crate::{
    glob::Glob,
    resp::{
        command::{self, Context, KeySpec, Row},
        frame::Args,
        reply::{Done, Refusal, Reply},
        table::TABLE,
    },
};

/// COMMAND
pub(in crate::resp) fn all(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.reply.array(TABLE.len());
    for row in TABLE {
        describe(cx.reply, row);
    }
    Ok(())
}

/// COMMAND COUNT
pub(in crate::resp) fn count(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.reply.count(TABLE.len() as u64);
    Ok(())
}

/// COMMAND INFO [name ...]
pub(in crate::resp) fn info(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if args.len() == 2 {
        return all(cx, args);
    }
    cx.reply.array(args.len() - 2);
    for name in args.from(2).iter() {
        match row_of(name) {
            Some(row) => describe(cx.reply, row),
            None => cx.reply.null(),
        }
    }
    Ok(())
}

/// The row of `get` or of `client|id`.
fn row_of(name: &[u8]) -> Option<&'static Row> {
    match name.iter().position(|byte| *byte == b'|') {
        None => command::find(name).map(|found| found.row),
        Some(bar) => {
            let container = command::find(&name[..bar])?.row;
            command::find_subcommand(container, &name[bar + 1..]).map(|found| found.row)
        }
    }
}

fn words(text: &'static str) -> impl Iterator<Item = &'static str> + Clone {
    text.split(' ').filter(|word| !word.is_empty())
}

/// One command as COMMAND INFO shows it.
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
    match row.keys {
        None => reply.set(0),
        Some(spec) => {
            reply.set(1);
            describe_keys(reply, spec);
        }
    }
    reply.set(row.subcommands.len());
    for subcommand in row.subcommands {
        describe(reply, subcommand);
    }
}

/// First key, last key, step: the form before Redis 7.
fn describe_legacy_range(reply: &mut Reply, keys: Option<KeySpec>) {
    let (first, last, step) = keys.map_or((0, 0, 0), |spec| {
        let first = i64::try_from(spec.first).unwrap_or(0);
        let last = if spec.last < 0 { spec.last } else { first + spec.last };
        (first, last, i64::try_from(spec.step).unwrap_or(0))
    });
    for number in [first, last, step] {
        reply.integer(number);
    }
}

fn describe_keys(reply: &mut Reply, spec: KeySpec) {
    reply.map(3 + usize::from(!spec.notes.is_empty()));
    if !spec.notes.is_empty() {
        reply.bulk(b"notes");
        reply.bulk(spec.notes.as_bytes());
    }
    reply.bulk(b"flags");
    reply.set(words(spec.flags).count());
    words(spec.flags).for_each(|flag| reply.simple(flag));
    let first = i64::try_from(spec.first).unwrap_or(0);
    describe_spec(reply, "begin_search", "index", &[("index", first)]);
    let step = i64::try_from(spec.step).unwrap_or(0);
    describe_spec(reply, "find_keys", "range", &[("lastkey", spec.last), ("keystep", step), ("limit", 0)]);
}

fn describe_spec(reply: &mut Reply, name: &str, kind: &str, numbers: &[(&str, i64)]) {
    reply.bulk(name.as_bytes());
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(kind.as_bytes());
    reply.bulk(b"spec");
    reply.map(numbers.len());
    for (name, number) in numbers {
        reply.bulk(name.as_bytes());
        reply.integer(*number);
    }
}

/// COMMAND DOCS [name ...]: unknown names are left out, as in Redis.
pub(in crate::resp) fn docs(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let rows: Vec<&Row> = match args.len() {
        2 => TABLE.iter().collect(),
        _ => args.from(2).iter().filter_map(row_of).collect(),
    };
    cx.reply.map(rows.len());
    for row in rows {
        document(cx.reply, row);
    }
    Ok(())
}

fn document(reply: &mut Reply, row: &Row) {
    reply.bulk(row.name.as_bytes());
    let fields = [("summary", row.summary), ("since", row.since), ("group", row.group), ("complexity", row.complexity)];
    let fields = fields.iter().filter(|(_, text)| !text.is_empty());
    reply.map(fields.clone().count() + usize::from(!row.subcommands.is_empty()));
    for (name, text) in fields {
        reply.bulk(name.as_bytes());
        reply.bulk(text.as_bytes());
    }
    if !row.subcommands.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(row.subcommands.len());
        for subcommand in row.subcommands {
            document(reply, subcommand);
        }
    }
}

/// Which rows to list.
type Filter = Box<dyn Fn(&&Row) -> bool>;

/// COMMAND LIST [FILTERBY MODULE name|ACLCAT category|PATTERN pattern]
pub(in crate::resp) fn list(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let filter: Filter = match (args.len(), args.get(2), args.get(3), args.get(4)) {
        (2, ..) => Box::new(|_| true),
        (5, Some(by), Some(kind), Some(value)) if is(by, "filterby") => filter(kind, value)?,
        (..) => return Err(Refusal::Syntax),
    };
    let subcommands = TABLE.iter().flat_map(|row| row.subcommands);
    let rows: Vec<&Row> = match args.len() {
        2 => TABLE.iter().filter(&filter).collect(),
        _ => TABLE.iter().chain(subcommands).filter(&filter).collect(),
    };
    // As in Redis, the whole list is a set and a part of it an array.
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
        // There are no modules.
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
    let request = args.from(2);
    let Some(found) = command::find(request.at(0)) else {
        return Err(Refusal::text("ERR Invalid command specified"));
    };
    let Some(spec) = found.row.keys else {
        return Err(Refusal::text("ERR The command has no key arguments"));
    };
    if !found.row.accepts(request.len()) {
        return Err(Refusal::text("ERR Invalid number of arguments specified for command"));
    }
    let end = match usize::try_from(spec.last) {
        Ok(last) => spec.first + last,
        Err(_negative) => request.len() - 1,
    };
    let places: Vec<usize> = (spec.first..=end).step_by(spec.step).collect();
    cx.reply.array(places.len());
    for at in places {
        cx.reply.bulk(request.get(at).unwrap_or_default());
    }
    Ok(())
}

/// CLIENT HELP, COMMAND HELP, CONFIG HELP
pub(in crate::resp) fn help(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let Some(container) = command::find(args.at(0)).map(|found| found.row) else { return Err(Refusal::Syntax) };
    let name = container.name.to_ascii_uppercase();
    cx.reply.array(1 + container.subcommands.len() * 2);
    cx.reply.status(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for row in container.subcommands {
        cx.reply.status(&row.short_name().to_ascii_uppercase());
        cx.reply.status(&format!("    {}.", row.summary));
    }
    Ok(())
}
