//! SUBSCRIBE and its variants, PUBLISH, PUBSUB.
//!
//! With Redis as L2, channels are channels of Redis: each subscriber has its own connection to Redis for messages, and
//! PUBLISH and PUBSUB are forwarded. The hub serves the channels that only this process publishes on (keyspace events,
//! `__terrace__:*`), and all channels if L2 is not Redis. A pattern can match both kinds and is registered at both.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::within_exec;
use crate::{
    cache::{Flavor, Passing, multi_key::passthrough::request},
    glob::Glob,
    resp::{
        command::{Context, Row},
        frame::{Args, write_request},
        hub::{CHANNEL_MAX_BYTES, COUNTED_WITHIN},
        keyspace_events::is_local,
        pattern_filter::matching,
        reply::{Done, Refusal},
        subscriptions::{Bridge, Channels},
    },
};

/// Maximum number of channels and patterns that one client subscribes to.
const SUBSCRIPTIONS_MAX: usize = 65_536;

/// Subject of a subscription command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Channels,
    Patterns,
}

/// Rejects a channel name that is too long.
fn check_channel(name: &[u8]) -> Done {
    // A key has at most this size, and its keyspace channel has a prefix.
    let most = CHANNEL_MAX_BYTES + if is_local(name) { b"__keyspace@0__:".len() } else { 0 };
    if name.len() > most {
        let length = name.len();
        return Err(Refusal::text(format!("ERR the channel name has {length} bytes; at most {most} are allowed")));
    }
    Ok(())
}

/// SUBSCRIBE channel [channel ...]
pub(in crate::resp) async fn subscribe(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    begin(cx, args, About::Channels).await
}

/// PSUBSCRIBE pattern [pattern ...]
pub(in crate::resp) async fn psubscribe(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    begin(cx, args, About::Patterns).await
}

/// UNSUBSCRIBE [channel ...]
pub(in crate::resp) async fn unsubscribe(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    end(cx, args, About::Channels).await
}

/// PUNSUBSCRIBE [pattern ...]
pub(in crate::resp) async fn punsubscribe(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    end(cx, args, About::Patterns).await
}

async fn begin(cx: &mut Context<'_>, args: Args<'_>, about: About) -> Done {
    let names: Vec<&[u8]> = args.from(1).iter().collect();
    let globs = match about {
        About::Channels => {
            names.iter().try_for_each(|name| check_channel(name))?;
            Vec::new()
        }
        About::Patterns => names.iter().map(|name| Glob::new(name)).collect::<Result<Vec<_>, _>>()?,
    };
    let mut channels = cx.session.channels.take().unwrap_or_default();
    if channels.count() + names.len() > SUBSCRIPTIONS_MAX {
        cx.session.channels = Some(channels);
        return Err(Refusal::text(format!("ERR too many subscriptions; at most {SUBSCRIPTIONS_MAX} per client")));
    }
    let ordered = match about {
        About::Channels => order_in_redis(cx, &mut channels, &names, b"SUBSCRIBE").await,
        About::Patterns => subscribe_in_redis(cx, &mut channels, &globs).await,
    };
    if ordered.is_ok() {
        enter(cx, &mut channels, &names, globs, about);
        cx.edge.cache.core().events().set_listening(true);
    }
    cx.session.channels = Some(channels);
    ordered
}

fn enter(cx: &mut Context<'_>, channels: &mut Channels, names: &[&[u8]], globs: Vec<Glob>, about: About) {
    let (hub, client) = (&cx.edge.shared.hub, Arc::clone(&cx.session.client));
    let mut globs = globs.into_iter();
    for name in names {
        let glob = globs.next();
        let word = match (about, glob) {
            (About::Patterns, Some(glob)) => {
                if channels.insert_pattern(&glob) {
                    hub.subscribe_pattern(&client, glob);
                }
                "psubscribe"
            }
            (_, _) => {
                if channels.insert(name) {
                    hub.subscribe(&client, name);
                }
                "subscribe"
            }
        };
        answer(cx, word, Some(name), channels.count());
    }
    channels.show(&client);
}

async fn end(cx: &mut Context<'_>, args: Args<'_>, about: About) -> Done {
    let mut channels = cx.session.channels.take().unwrap_or_default();
    let own = match about {
        About::Channels => &channels.names,
        About::Patterns => &channels.patterns,
    };
    let all: Vec<Vec<u8>> = own.iter().cloned().collect();
    let names: Vec<&[u8]> = match args.len() {
        1 => all.iter().map(Vec::as_slice).collect(),
        _ => args.from(1).iter().collect(),
    };
    let ordered = match about {
        About::Channels => order_in_redis(cx, &mut channels, &names, b"UNSUBSCRIBE").await,
        About::Patterns => unsubscribe_in_redis(cx, &mut channels, &names).await,
    };
    let word = if about == About::Channels { "unsubscribe" } else { "punsubscribe" };
    for name in &names {
        match about {
            About::Channels if channels.remove(name) => cx.edge.shared.hub.unsubscribe(cx.session.client.id, name),
            About::Patterns if channels.remove_pattern(name) => {
                cx.edge.shared.hub.unsubscribe_pattern(cx.session.client.id, name);
            }
            About::Channels | About::Patterns => {}
        }
        answer(cx, word, Some(name), channels.count());
    }
    if names.is_empty() {
        answer(cx, word, None, channels.count());
    }
    channels.show(&cx.session.client);
    cx.edge.cache.core().events().set_listening(cx.edge.shared.hub.is_heard());
    cx.session.channels = (channels.count() > 0).then_some(channels);
    ordered
}

fn answer(cx: &mut Context<'_>, word: &str, name: Option<&[u8]>, count: usize) {
    cx.reply.push(3);
    cx.reply.bulk(word.as_bytes());
    cx.reply.bulk_or_null(name);
    cx.reply.count(count as u64);
}

/// Subscribes to patterns in Redis. Redis receives only patterns that it compares fast.
async fn subscribe_in_redis(cx: &Context<'_>, channels: &mut Channels, globs: &[Glob]) -> Result<(), Refusal> {
    let globs: Vec<Glob> = globs.iter().filter(|glob| !is_local(glob.pattern())).cloned().collect();
    if cx.edge.cache.flavor() != Flavor::Redis || globs.is_empty() {
        return Ok(());
    }
    let sent = bridge(cx, channels).await?.add_patterns(&globs);
    order_in_redis(cx, channels, &words(&sent), b"PSUBSCRIBE").await
}

/// Ends subscriptions to patterns in Redis that no other pattern of the client needs.
async fn unsubscribe_in_redis(cx: &Context<'_>, channels: &mut Channels, names: &[&[u8]]) -> Result<(), Refusal> {
    let Some(bridge) = &channels.bridge else { return Ok(()) };
    // The client is not subscribed to a pattern that is too long.
    let globs: Vec<Glob> = names.iter().filter_map(|name| Glob::new(name).ok()).collect();
    let sent = bridge.remove_patterns(&globs);
    order_in_redis(cx, channels, &words(&sent), b"PUNSUBSCRIBE").await
}

fn words(names: &[Bytes]) -> Vec<&[u8]> {
    names.iter().map(|name| &name[..]).collect()
}

/// Forwards a subscription command to Redis and waits for the confirmation. Does nothing if L2 is not Redis.
async fn order_in_redis(
    cx: &Context<'_>,
    channels: &mut Channels,
    names: &[&[u8]],
    word: &'static [u8],
) -> Result<(), Refusal> {
    let names: Vec<&[u8]> = names.iter().copied().filter(|name| !is_local(name)).collect();
    if cx.edge.cache.flavor() != Flavor::Redis || names.is_empty() {
        return Ok(());
    }
    let has_nothing_to_end = channels.bridge.is_none() && word == b"UNSUBSCRIBE";
    if has_nothing_to_end {
        return Ok(());
    }
    let words: Vec<&[u8]> = std::iter::once(word).chain(names.iter().copied()).collect();
    bridge(cx, channels).await?.order(&words, names.len()).await
}

/// Returns the client's connection to Redis for messages.
async fn bridge<'c>(cx: &Context<'_>, channels: &'c mut Channels) -> Result<&'c Bridge, Refusal> {
    match &mut channels.bridge {
        Some(bridge) => Ok(bridge),
        empty @ None => {
            let line = cx.edge.cache.line(None, false).await?;
            let account = Arc::clone(cx.edge.shared.account());
            Ok(empty.insert(Bridge::start(line, Arc::clone(&cx.session.client), account)))
        }
    }
}

/// Returns `true` for a command that a RESP2 subscriber may run.
pub(in crate::resp) fn is_allowed(row: &Row) -> bool {
    ["subscribe", "psubscribe", "unsubscribe", "punsubscribe", "ping", "quit", "reset"].contains(&row.name)
}

/// Returns the error for other commands of a RESP2 subscriber.
pub(in crate::resp) fn refused(row: &Row) -> Refusal {
    Refusal::text(format!(
        "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
        row.name
    ))
}

/// PUBLISH channel message
pub(in crate::resp) async fn publish(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    check_channel(args.at(1))?;
    if cx.edge.cache.flavor() == Flavor::Redis && !is_local(args.at(1)) {
        return cx.pass_on(args).await;
    }
    // A transaction has exclusive access to the cache, so that it must not wait.
    let within = if cx.session.in_exec { Duration::ZERO } else { COUNTED_WITHIN };
    let receivers = cx.edge.shared.hub.publish_and_count(args.at(1), args.at(2), within).await;
    cx.reply.count(receivers);
    Ok(())
}

/// PUBSUB CHANNELS [pattern]
pub(in crate::resp) async fn channels(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let pattern = args.get(2).map(Glob::new).transpose()?;
    // Redis rejects a request with more arguments.
    let has_more = args.len() > 3;
    if cx.edge.cache.flavor() == Flavor::Redis {
        return channels_of_redis(cx, args, pattern.filter(|_| !has_more)).await;
    }
    let names = within_exec(cx, cx.edge.shared.hub.channels(pattern.as_ref())).await?;
    cx.reply.array(names.len());
    names.iter().for_each(|name| cx.reply.bulk(name));
    Ok(())
}

async fn channels_of_redis(cx: &mut Context<'_>, args: Args<'_>, pattern: Option<Glob>) -> Done {
    let Some((glob, (sent, false))) = pattern.map(|glob| (glob.clone(), glob.for_redis())) else {
        return cx.pass_on(args).await;
    };
    let reply = cx.ask_server(request(&[b"PUBSUB", b"CHANNELS", &sent])).await?;
    match matching(&reply, 1, &glob).await {
        Some(kept) => cx.reply.whole(&kept),
        None => cx.reply.whole(&reply),
    }
    Ok(())
}

/// PUBSUB NUMSUB [channel ...]
pub(in crate::resp) async fn numsub(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if cx.edge.cache.flavor() == Flavor::Redis {
        return cx.pass_on(args).await;
    }
    let names = args.from(2);
    cx.reply.array(names.len() * 2);
    for name in names.iter() {
        cx.reply.bulk(name);
        cx.reply.count(cx.edge.shared.hub.listeners(name) as u64);
    }
    Ok(())
}

/// PUBSUB NUMPAT
pub(in crate::resp) async fn numpat(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if cx.edge.cache.flavor() == Flavor::Redis {
        return cx.pass_on(args).await;
    }
    cx.reply.count(cx.edge.shared.hub.pattern_count() as u64);
    Ok(())
}

impl Context<'_> {
    /// Forwards a request without keys to the L2 Redis.
    async fn pass_on(&mut self, args: Args<'_>) -> Done {
        let mut request = Vec::new();
        write_request(&mut request, args.iter());
        let reply = self.ask_server(request).await?;
        self.reply.whole(&reply);
        Ok(())
    }

    /// Returns the reply of the L2 Redis to a request without keys.
    async fn ask_server(&self, request: Vec<u8>) -> Result<Bytes, Refusal> {
        Ok(self.edge.cache.pass(&request, Passing::question(None, self.reply.resp3())).await?)
    }
}
