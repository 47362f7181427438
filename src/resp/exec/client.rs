//! CLIENT and its subcommands.

use super::{connection::check_name, integer, is};
use crate::resp::{
    command::{Context, readable},
    frame::Args,
    reply::{Done, Refusal},
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
    let mut line = cx.session.client.describe(cx.now);
    line.push(b'\n');
    cx.reply.verbatim(&String::from_utf8_lossy(&line));
    Ok(())
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
        lines.extend(client.describe(cx.now));
        lines.push(b'\n');
    }
    cx.reply.verbatim(&String::from_utf8_lossy(&lines));
    Ok(())
}

/// All our clients are of type normal.
fn ids_of_type(cx: &Context<'_>, name: &[u8]) -> Result<Vec<u64>, Refusal> {
    if is(name, "normal") {
        return Ok(cx.edge.shared.clients().iter().map(|client| client.id).collect());
    }
    if ["master", "replica", "slave", "pubsub"].iter().any(|known| is(name, known)) {
        return Ok(Vec::new());
    }
    Err(Refusal::text(format!("ERR Unknown client type '{}'", readable(name, 128))))
}

fn ids(args: Args<'_>) -> Result<Vec<u64>, Refusal> {
    let id = |text| integer(text).ok().and_then(|id| u64::try_from(id).ok());
    args.iter().map(|text| id(text).ok_or(Refusal::text("ERR Invalid client ID"))).collect()
}

/// CLIENT NO-EVICT ON|OFF: no client is ever evicted, so there is nothing to remember.
pub(in crate::resp) fn no_evict(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    on_or_off(args.at(2))?;
    cx.reply.ok();
    Ok(())
}

/// CLIENT NO-TOUCH ON|OFF: the reads of this client are inspection.
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
    Err(Refusal::text("ERR CLIENT TRACKING is not supported: this server does not announce invalidations to clients"))
}

/// CLIENT MAINT_NOTIFICATIONS
pub(in crate::resp) fn maint_notifications(_cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    Err(Refusal::text("ERR CLIENT MAINT_NOTIFICATIONS is not supported: this server has no maintenance events"))
}
