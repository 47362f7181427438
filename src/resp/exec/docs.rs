//! COMMAND DOCS, from the rows of the table.
//!
//! The arguments of a row use a notation with one word per argument: its name, then in this order `?` (optional), `*`
//! (repeatable), `+` (token repeated each time), `:type` (default string; `token` is `pure-token` in Redis), `#n`
//! (index of the key specification), `='TOKEN'`, `@since`, `!deprecated since`, `(...)` (parts of a `oneof` or
//! `block`).

use super::catalog::row_of;
use crate::resp::{
    command::{Context, Row},
    frame::Args,
    reply::{Done, Reply},
};

/// COMMAND DOCS [name ...]: unknown names are skipped, as in Redis.
pub(in crate::resp) fn docs(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let commands = cx.edge.commands;
    let rows: Vec<&Row> = match args.len() {
        2 => commands.rows.iter().collect(),
        _ => args.from(2).iter().filter_map(|name| row_of(commands, name)).collect(),
    };
    cx.reply.map(rows.len());
    for row in rows {
        document(cx.reply, row);
    }
    Ok(())
}

fn document(reply: &mut Reply, row: &Row) {
    reply.bulk(row.name.as_bytes());
    let texts = [("summary", row.summary), ("since", row.since), ("group", row.group), ("complexity", row.complexity)];
    let texts = texts.iter().filter(|(_, text)| !text.is_empty());
    let (since, instead) = row.deprecated;
    let deprecation = [("deprecated_since", since), ("replaced_by", instead)];
    let deprecation = deprecation.iter().filter(|(_, text)| !text.is_empty());
    let fields = texts.clone().count()
        + deprecation.clone().count()
        + usize::from(!since.is_empty())
        + usize::from(!row.arguments.is_empty())
        + usize::from(!row.subcommands.is_empty());
    reply.map(fields);
    for (name, text) in texts {
        reply.bulk(name.as_bytes());
        reply.bulk(text.as_bytes());
    }
    if !since.is_empty() {
        reply.bulk(b"doc_flags");
        reply.set(1);
        reply.simple("deprecated");
    }
    for (name, text) in deprecation {
        reply.bulk(name.as_bytes());
        reply.bulk(text.as_bytes());
    }
    if !row.arguments.is_empty() {
        reply.bulk(b"arguments");
        write_arguments(reply, &Argument::list(row.arguments));
    }
    if !row.subcommands.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(row.subcommands.len());
        row.subcommands.iter().for_each(|subcommand| document(reply, subcommand));
    }
}

/// One argument of a command.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Argument<'t> {
    name: &'t str,
    kind: &'t str,
    key_spec: Option<i64>,
    token: Option<&'t str>,
    since: Option<&'t str>,
    deprecated: Option<&'t str>,
    flags: Vec<&'static str>,
    parts: Vec<Argument<'t>>,
}

impl<'t> Argument<'t> {
    fn list(text: &'t str) -> Vec<Self> {
        let mut rest = text;
        Self::until(&mut rest)
    }

    /// Parses arguments until the end of the text or of a parenthesis. The table nests at most four levels.
    fn until(rest: &mut &'t str) -> Vec<Self> {
        let mut list = Vec::new();
        loop {
            *rest = rest.trim_start();
            if rest.is_empty() || rest.starts_with(')') {
                return list;
            }
            list.push(Self::one(rest));
        }
    }

    fn one(rest: &mut &'t str) -> Self {
        let mut argument = Self { name: word(rest), ..Self::default() };
        for (mark, flag) in [("?", "optional"), ("*", "multiple"), ("+", "multiple_token")] {
            if take(rest, mark) {
                argument.flags.push(flag);
            }
        }
        argument.kind = if take(rest, ":") { word(rest) } else { "string" };
        if argument.kind == "token" {
            argument.kind = "pure-token";
        }
        if take(rest, "#") {
            argument.key_spec = word(rest).parse().ok();
        }
        if take(rest, "='") {
            let end = rest.find('\'').unwrap_or(rest.len());
            argument.token = Some(&rest[..end]);
            *rest = rest.get(end + 1..).unwrap_or_default();
        }
        if take(rest, "@") {
            argument.since = Some(word(rest));
        }
        if take(rest, "!") {
            argument.deprecated = Some(word(rest));
        }
        if take(rest, "(") {
            argument.parts = Self::until(rest);
            take(rest, ")");
        }
        argument
    }

    fn write(&self, reply: &mut Reply) {
        let fields = 2
            + usize::from(self.key_spec.is_some())
            + usize::from(self.token.is_some())
            + usize::from(self.since.is_some())
            + usize::from(self.deprecated.is_some())
            + usize::from(!self.flags.is_empty())
            + usize::from(!self.parts.is_empty());
        reply.map(fields);
        let text = |reply: &mut Reply, name: &str, text: Option<&str>| {
            if let Some(text) = text {
                reply.bulk(name.as_bytes());
                reply.bulk(text.as_bytes());
            }
        };
        text(reply, "name", Some(self.name));
        text(reply, "type", Some(self.kind));
        if let Some(spec) = self.key_spec {
            reply.bulk(b"key_spec_index");
            reply.integer(spec);
        }
        text(reply, "token", self.token);
        text(reply, "since", self.since);
        text(reply, "deprecated_since", self.deprecated);
        if !self.flags.is_empty() {
            reply.bulk(b"flags");
            reply.set(self.flags.len());
            self.flags.iter().for_each(|flag| reply.simple(flag));
        }
        if !self.parts.is_empty() {
            reply.bulk(b"arguments");
            write_arguments(reply, &self.parts);
        }
    }
}

fn write_arguments(reply: &mut Reply, arguments: &[Argument<'_>]) {
    reply.array(arguments.len());
    arguments.iter().for_each(|argument| argument.write(reply));
}

/// Parses a name, type, number or version.
fn word<'t>(rest: &mut &'t str) -> &'t str {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    // `ip:port` is the only name with a colon.
    let mut end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    if rest.starts_with("ip:port") {
        end = "ip:port".len();
    }
    let (word, after) = rest.split_at(end);
    *rest = after;
    word
}

fn take(rest: &mut &str, mark: &str) -> bool {
    match rest.strip_prefix(mark) {
        Some(after) => {
            *rest = after;
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::table::COMMANDS;

    #[test]
    fn the_notation_is_read() {
        let text = "key:key#0 value condition?:oneof@2.6.12(nx:token='NX' xx:token='XX') id*+:integer='ID'!6.0.0";
        let list = Argument::list(text);
        assert_eq!(list.len(), 4);
        assert_eq!((list[0].name, list[0].kind, list[0].key_spec), ("key", "key", Some(0)));
        assert_eq!((list[1].name, list[1].kind), ("value", "string"));
        assert_eq!((list[2].flags.as_slice(), list[2].since), (&["optional"][..], Some("2.6.12")));
        assert_eq!((list[2].parts[1].token, list[2].parts[1].kind), (Some("XX"), "pure-token"));
        assert_eq!((list[3].flags.len(), list[3].token, list[3].deprecated), (2, Some("ID"), Some("6.0.0")));
    }

    #[test]
    fn every_row_s_arguments_are_read_to_their_end() {
        for row in COMMANDS.rows.iter().flat_map(|row| std::iter::once(row).chain(row.subcommands)) {
            let mut rest = row.arguments;
            Argument::until(&mut rest);
            assert_eq!(rest, "", "{}", row.name);
        }
    }
}
