//! Commands about the connection itself: authentication, protocol, database.

use std::sync::atomic::Ordering::Relaxed;

use super::{DATABASES, DB_LEARNED, integer, is};
use crate::{
    access::{Access, DEFAULT_USER, LoginFailure, Peer, UNKNOWN_USER, Verbs},
    resp::{
        acl_log::Reason,
        client_state::NAME_MAX_BYTES,
        command::{Context, readable},
        frame::Args,
        reply::{Done, Refusal},
        session::Replies,
    },
    socket::Protocol,
};

/// Number of failed logins after which a connection is closed.
const FAILED_LOGINS_MAX: u32 = 10;

/// Redis version that HELLO and INFO report: the version whose commands and replies Terrace implements.
pub(in crate::resp) const REDIS_VERSION: &str = "7.0.15";

/// PING [message]
pub(in crate::resp) fn ping(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if cx.session.is_limited() && args.len() <= 2 {
        cx.reply.array(2);
        cx.reply.bulk(b"pong");
        cx.reply.bulk(args.get(1).unwrap_or_default());
        return Ok(());
    }
    match (args.get(1), args.len()) {
        (None, _) => cx.reply.simple("PONG"),
        (Some(message), 2) => cx.reply.bulk(message),
        (Some(_), _) => return Err(Refusal::Arity("ping")),
    }
    Ok(())
}

/// ECHO message
pub(in crate::resp) fn echo(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    cx.reply.bulk(args.at(1));
    Ok(())
}

/// QUIT
pub(in crate::resp) fn quit(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.reply.ok();
    cx.session.closing = true;
    Ok(())
}

/// SELECT index
pub(in crate::resp) fn select(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let index = integer(args.at(1))?;
    if i32::try_from(index).is_err() {
        return Err(Refusal::text("ERR value is out of range, value must between -2147483648 and 2147483647"));
    }
    match u8::try_from(index) {
        // The learned state names keys of all clients.
        Ok(DB_LEARNED) => {
            if let Err(denied) = cx.edge.cache.principal().check_everywhere(Verbs::INSPECT) {
                return Err(Refusal::text(format!("NOPERM {denied}")));
            }
            cx.session.select(DB_LEARNED);
        }
        Ok(db) if index < DATABASES => cx.session.select(db),
        Ok(_) | Err(_) => return Err(Refusal::text("ERR DB index is out of range")),
    }
    cx.reply.ok();
    Ok(())
}

/// RESET: the client has again the identity of its connection, which may have a certificate.
pub(in crate::resp) fn reset(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.session.select(0);
    cx.session.set_identity(cx.session.identity_of_connection(&cx.edge.access));
    cx.session.no_touch = false;
    cx.session.replies = Replies::On;
    let _ended = cx.session.end_transaction();
    cx.session.end_subscriptions();
    cx.session.end_monitor();
    cx.session.client.names.lock().name.clear();
    set_protocol(cx, 2);
    cx.reply.simple("RESET");
    Ok(())
}

fn set_protocol(cx: &mut Context<'_>, protocol: u8) {
    cx.reply.set_resp3(protocol == 3);
    cx.session.client.protocol.store(protocol, Relaxed);
}

/// AUTH [username] password
pub(in crate::resp) async fn auth(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let (user, secret) = match args.len() {
        2 => (None, args.at(1)),
        3 => (Some(args.at(1)), args.at(2)),
        _ => return Err(Refusal::Syntax),
    };
    let access = &cx.edge.access;
    if user.is_none() && !access.has_password() && !access.has_users() {
        return Err(Refusal::text(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        ));
    }
    authenticate(cx, args.at(0), user, secret).await?;
    cx.reply.ok();
    Ok(())
}

/// Authenticates a client. As in Redis, any password is valid for the default user while neither a password nor users are
/// configured. The reply to a wrong secret is delayed, and too many of them end the connection. `command` is the name of
/// the command as it was sent.
async fn authenticate(cx: &mut Context<'_>, command: &[u8], user: Option<&[u8]>, secret: &[u8]) -> Done {
    let access = &cx.edge.access;
    let is_default = user.is_none_or(|user| user == DEFAULT_USER.as_bytes());
    if is_default && !access.has_password() && !access.has_users() {
        cx.session.set_identity(cx.session.identity_of_connection(access));
        return Ok(());
    }
    let client = &cx.session.client;
    let peer = Peer { address: &client.address, is_local: cx.session.is_local, is_private: cx.session.is_private };
    let result = access.log_in(user, secret, Protocol::Resp, peer);
    if result.is_err() {
        let known = access.known_user(user.unwrap_or(DEFAULT_USER.as_bytes()));
        let user = known.unwrap_or_else(|| UNKNOWN_USER.into());
        cx.session.note_refused(Reason::Login, command, Some(user), cx.row.name, cx.now);
    }
    match result {
        Ok(identity) => {
            cx.session.failed_logins = 0;
            cx.session.set_identity(Some(identity));
            Ok(())
        }
        Err(LoginFailure::Plaintext) => Err(Refusal::text(format!("WRONGPASS {}", LoginFailure::Plaintext.reason()))),
        Err(LoginFailure::Wrong) => {
            cx.session.failed_logins += 1;
            tokio::time::sleep(Access::delay(cx.session.failed_logins)).await;
            cx.session.closing |= cx.session.failed_logins >= FAILED_LOGINS_MAX;
            Err(Refusal::text("WRONGPASS invalid username-password pair or user is disabled."))
        }
    }
}

/// HELLO [protover [AUTH username password] [SETNAME clientname]]
pub(in crate::resp) async fn hello(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let protocol = match args.get(1) {
        None => None,
        Some(text) => Some(protocol_version(text)?),
    };
    let mut name = None;
    let mut at = 2;
    while let Some(option) = args.get(at) {
        match (args.get(at + 1), args.get(at + 2)) {
            (Some(user), Some(password)) if is(option, "auth") => {
                authenticate(cx, args.at(0), Some(user), password).await?;
                at += 3;
            }
            (Some(asked), _) if is(option, "setname") => {
                check_name(asked)?;
                name = Some(asked);
                at += 2;
            }
            (_, _) => {
                let option = readable(option, 128);
                return Err(Refusal::text(format!("ERR Syntax error in HELLO option '{option}'")));
            }
        }
    }
    if !cx.session.is_authenticated() {
        return Err(Refusal::text(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
             <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
             the same time",
        ));
    }
    if let Some(name) = name {
        cx.session.client.names.lock().name = name.to_vec();
    }
    if let Some(protocol) = protocol {
        set_protocol(cx, protocol);
    }
    introduce(cx);
    Ok(())
}

fn protocol_version(text: &[u8]) -> Result<u8, Refusal> {
    let wrong = || Refusal::text("ERR Protocol version is not an integer or out of range");
    match integer(text).map_err(|_| wrong())? {
        2 => Ok(2),
        3 => Ok(3),
        _ => Err(Refusal::text("NOPROTO unsupported protocol version")),
    }
}

/// Checks a client name. As in Redis, it has only printable bytes without spaces, so that CLIENT LIST stays parseable.
pub(in crate::resp) fn check_name(name: &[u8]) -> Done {
    check_name_length(name)?;
    if name.iter().all(u8::is_ascii_graphic) {
        return Ok(());
    }
    Err(Refusal::text("ERR Client names cannot contain spaces, newlines or special characters."))
}

/// Checks the length of a name that a client reports about itself.
pub(in crate::resp) fn check_name_length(name: &[u8]) -> Done {
    if name.len() <= NAME_MAX_BYTES {
        return Ok(());
    }
    Err(Refusal::text(format!("ERR a client name has {} bytes; at most {NAME_MAX_BYTES} are accepted", name.len())))
}

fn introduce(cx: &mut Context<'_>) {
    let protocol = if cx.reply.resp3() { 3 } else { 2 };
    let id = cx.session.client.id;
    let reply = &mut *cx.reply;
    reply.map(7);
    let text = |reply: &mut crate::resp::reply::Reply, name: &str, value: &str| {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    };
    text(reply, "server", "redis");
    text(reply, "version", REDIS_VERSION);
    reply.bulk(b"proto");
    reply.integer(protocol);
    reply.bulk(b"id");
    reply.count(id);
    text(reply, "mode", "standalone");
    text(reply, "role", "master");
    reply.bulk(b"modules");
    reply.array(0);
}
