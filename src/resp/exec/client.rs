//! CLIENT and its subcommands.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    connection::{check_name, check_name_length},
    integer, is,
};
use crate::resp::{
    client_state::Client,
    command::{Context, readable},
    frame::Args,
    mailbox::Unblock,
    reply::{Done, Refusal},
    session::Replies,
};

/// CLIENT ID
pub(in crate::resp) fn id(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.reply.count(cx.session.client.id);
    Ok(())
}

/// CLIENT GETNAME
pub(in crate::resp) fn getname(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let name = cx.session.client.names.lock().name.clone();
    cx.reply.bulk_or_null((!name.is_empty()).then_some(&name));
    Ok(())
}

/// CLIENT SETNAME name
pub(in crate::resp) fn setname(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    check_name(args.at(2))?;
    cx.session.client.names.lock().name = args.at(2).to_vec();
    cx.reply.ok();
    Ok(())
}

/// CLIENT SETINFO LIB-NAME|LIB-VER value
pub(in crate::resp) fn setinfo(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let (attribute, value) = (args.at(2), args.at(3));
    let (is_name, is_version) = (is(attribute, "lib-name"), is(attribute, "lib-ver"));
    if !is_name && !is_version {
        let attribute = readable(attribute, 128);
        return Err(Refusal::text(format!("ERR Unrecognized option '{attribute}'")));
    }
    check_name_length(value)?;
    if !value.iter().all(u8::is_ascii_graphic) {
        let attribute = if is_name { "lib-name" } else { "lib-ver" };
        let message = format!("ERR {attribute} cannot contain spaces, newlines or special characters.");
        return Err(Refusal::text(message));
    }
    let mut names = cx.session.client.names.lock();
    let place = if is_name { &mut names.library } else { &mut names.library_version };
    *place = value.to_vec();
    drop(names);
    cx.reply.ok();
    Ok(())
}

/// CLIENT INFO
pub(in crate::resp) fn info(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    let mut line = describe(cx, &cx.session.client);
    line.push(b'\n');
    cx.reply.verbatim(&String::from_utf8_lossy(&line));
    Ok(())
}

/// Returns the line of a client in CLIENT LIST.
fn describe(cx: &Context<'_>, client: &Client) -> Vec<u8> {
    let command = client.last_command().map_or("NULL", |number| cx.edge.commands.name_of(number));
    client.describe(cx.now, command)
}

/// CLIENT LIST [TYPE type] [ID id ...]
pub(in crate::resp) fn list(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let wanted = match args.get(2) {
        None => None,
        Some(option) if is(option, "type") && args.len() == 4 => Some(ids_of_type(cx, args.at(3))?),
        Some(option) if is(option, "id") && args.len() > 3 => Some(ids(args.from(3))?),
        Some(_) => return Err(Refusal::Syntax),
    };
    let clients = cx.edge.shared.clients();
    let shown = clients.iter().filter(|client| wanted.as_ref().is_none_or(|wanted| wanted.contains(&client.id)));
    let mut lines = Vec::new();
    for client in shown {
        lines.extend(describe(cx, client));
        lines.push(b'\n');
    }
    cx.reply.verbatim(&String::from_utf8_lossy(&lines));
    Ok(())
}

/// Returns the IDs of the clients of a type. No client is a master or replica.
fn ids_of_type(cx: &Context<'_>, name: &[u8]) -> Result<Vec<u64>, Refusal> {
    let kind = client_type(name)?;
    let clients = cx.edge.shared.clients();
    Ok(clients.iter().filter(|client| client.kind() == kind).map(|client| client.id).collect())
}

fn client_type(name: &[u8]) -> Result<&'static str, Refusal> {
    let known = ["normal", "pubsub", "master", "replica", "slave"].into_iter().find(|known| is(name, known));
    known.ok_or_else(|| Refusal::text(format!("ERR Unknown client type '{}'", readable(name, 128))))
}

/// Filter of CLIENT KILL.
#[derive(Debug, Default)]
struct Victims<'a> {
    id: Option<u64>,
    address: Option<&'a [u8]>,
    local_address: Option<&'a [u8]>,
    kind: Option<&'static str>,
    user: Option<&'a [u8]>,
    keep_me: bool,
}

impl<'a> Victims<'a> {
    fn parse(args: Args<'a>) -> Result<Self, Refusal> {
        let mut victims = Self { keep_me: true, ..Self::default() };
        for at in (0..args.len()).step_by(2) {
            let (word, Some(value)) = (args.at(at), args.get(at + 1)) else { return Err(Refusal::Syntax) };
            victims.take(word, value)?;
        }
        Ok(victims)
    }

    fn take(&mut self, word: &[u8], value: &'a [u8]) -> Result<(), Refusal> {
        match word {
            word if is(word, "id") => {
                let id = integer(value).ok().and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
                self.id = Some(id.ok_or(Refusal::text("ERR client-id should be greater than 0"))?);
            }
            word if is(word, "type") => self.kind = Some(client_type(value)?),
            word if is(word, "addr") => self.address = Some(value),
            word if is(word, "laddr") => self.local_address = Some(value),
            word if is(word, "user") && value == b"default" => self.user = Some(value),
            word if is(word, "user") => {
                return Err(Refusal::text(format!("ERR No such user '{}'", readable(value, 128))));
            }
            word if is(word, "skipme") => self.keep_me = yes_or_no(value)?,
            _ => return Err(Refusal::Syntax),
        }
        Ok(())
    }

    fn include(&self, client: &Client, me: u64) -> bool {
        self.id.is_none_or(|id| id == client.id)
            && self.address.is_none_or(|address| address == client.address.as_bytes())
            && self.local_address.is_none_or(|address| address == client.local_address.as_bytes())
            && self.kind.is_none_or(|kind| kind == client.kind())
            && !(self.keep_me && client.id == me)
    }
}

/// CLIENT KILL address | CLIENT KILL filter value [filter value ...]
pub(in crate::resp) fn kill(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let is_old = args.len() == 3;
    let victims = match is_old {
        true => Victims { address: Some(args.at(2)), ..Victims::default() },
        false => Victims::parse(args.from(2))?,
    };
    let me = cx.session.client.id;
    let mut killed = 0;
    for client in cx.edge.shared.clients() {
        if !victims.include(&client, me) {
            continue;
        }
        killed += 1;
        if client.id == me {
            cx.session.closing = true;
        } else {
            client.mailbox.close();
        }
    }
    match (is_old, killed) {
        (true, 0) => return Err(Refusal::text("ERR No such client")),
        (true, _) => cx.reply.ok(),
        (false, _) => cx.reply.count(killed),
    }
    Ok(())
}

/// CLIENT UNBLOCK id [TIMEOUT|ERROR]
pub(in crate::resp) fn unblock(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let how = match args.get(3) {
        None => Unblock::Timeout,
        Some(word) if is(word, "timeout") => Unblock::Timeout,
        Some(word) if is(word, "error") => Unblock::Error,
        Some(_) => return Err(Refusal::text("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
    };
    let id = integer(args.at(2))?;
    let clients = cx.edge.shared.clients();
    let blocked = clients.iter().find(|client| i64::try_from(client.id) == Ok(id) && client.blocked.load(Relaxed));
    if let Some(client) = blocked {
        client.mailbox.unblock(how);
    }
    cx.reply.integer(i64::from(blocked.is_some()));
    Ok(())
}

/// CLIENT REPLY ON|OFF|SKIP
pub(in crate::resp) fn reply(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    match args.at(2) {
        word if is(word, "on") => {
            cx.session.replies = Replies::On;
            cx.reply.ok();
        }
        word if is(word, "off") => cx.session.replies = Replies::Off,
        word if is(word, "skip") => {
            if cx.session.replies != Replies::Off {
                cx.session.replies = Replies::SkipNext;
            }
        }
        _ => return Err(Refusal::Syntax),
    }
    Ok(())
}

/// CLIENT GETREDIR: client tracking is not supported.
pub(in crate::resp) fn getredir(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.reply.integer(-1);
    Ok(())
}

/// CLIENT TRACKINGINFO: client tracking is not supported.
pub(in crate::resp) fn trackinginfo(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.reply.map(3);
    cx.reply.bulk(b"flags");
    cx.reply.set(1);
    cx.reply.bulk(b"off");
    cx.reply.bulk(b"redirect");
    cx.reply.integer(-1);
    cx.reply.bulk(b"prefixes");
    cx.reply.array(0);
    Ok(())
}

fn yes_or_no(word: &[u8]) -> Result<bool, Refusal> {
    match word {
        yes if is(yes, "yes") => Ok(true),
        no if is(no, "no") => Ok(false),
        _ => Err(Refusal::Syntax),
    }
}

fn ids(args: Args<'_>) -> Result<Vec<u64>, Refusal> {
    let id = |text| integer(text).ok().and_then(|id| u64::try_from(id).ok());
    args.iter().map(|text| id(text).ok_or(Refusal::text("ERR Invalid client ID"))).collect()
}

/// CLIENT NO-EVICT ON|OFF: has no effect, because clients are never evicted.
pub(in crate::resp) fn no_evict(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    on_or_off(args.at(2))?;
    cx.reply.ok();
    Ok(())
}

/// CLIENT NO-TOUCH ON|OFF: reads of this client count as inspection, not as use.
pub(in crate::resp) fn no_touch(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    cx.session.no_touch = on_or_off(args.at(2))?;
    cx.reply.ok();
    Ok(())
}

fn on_or_off(word: &[u8]) -> Result<bool, Refusal> {
    match word {
        on if is(on, "on") => Ok(true),
        off if is(off, "off") => Ok(false),
        _ => Err(Refusal::Syntax),
    }
}

/// CLIENT TRACKING
pub(in crate::resp) fn tracking(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if is(args.at(2), "off") {
        cx.reply.ok();
        return Ok(());
    }
    Err(Refusal::text("ERR CLIENT TRACKING is not supported: Terrace sends no invalidation messages to RESP clients"))
}

/// CLIENT MAINT_NOTIFICATIONS
pub(in crate::resp) fn maint_notifications(_cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    Err(Refusal::text("ERR CLIENT MAINT_NOTIFICATIONS is not supported: Terrace has no maintenance events"))
}
