//! Channels and patterns of this node's clients, and the delivery of messages to them.
//!
//! Senders never wait: each message goes into the mailbox of each receiver. Over Redis a message comes through a
//! connection to Redis of the receiver's own (`subscriptions`), which knows the receiver; the registry here serves
//! channels of this process alone.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use super::{client_state::Client, reply::Reply};
use crate::glob::Glob;

/// Who listens, by client id.
type Listeners = BTreeMap<u64, Arc<Client>>;

/// All subscriptions within this process.
#[derive(Debug, Default)]
pub(super) struct Hub {
    channels: Mutex<HashMap<Vec<u8>, Listeners>>,
    patterns: Mutex<BTreeMap<Vec<u8>, (Glob, Listeners)>>,
    /// Subscriptions, so that a message without any costs one load.
    count: AtomicUsize,
}

impl Hub {
    /// Whether anybody listens to anything.
    #[inline]
    pub(super) fn is_heard(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// Subscribes to a channel; the caller knows that the client is not subscribed.
    pub(super) fn subscribe(&self, client: &Arc<Client>, channel: &[u8]) {
        self.channels.lock().entry(channel.to_vec()).or_default().insert(client.id, Arc::clone(client));
        self.count.fetch_add(1, Relaxed);
    }

    /// Ends a subscription that there is.
    pub(super) fn unsubscribe(&self, client: u64, channel: &[u8]) {
        let mut channels = self.channels.lock();
        let Some(listeners) = channels.get_mut(channel) else { return };
        if listeners.remove(&client).is_some() {
            self.count.fetch_sub(1, Relaxed);
        }
        if listeners.is_empty() {
            channels.remove(channel);
        }
    }

    /// Subscribes to a pattern; the caller knows that the client is not subscribed.
    pub(super) fn subscribe_pattern(&self, client: &Arc<Client>, pattern: Glob) {
        let mut patterns = self.patterns.lock();
        let entry = patterns.entry(pattern.pattern().to_vec()).or_insert_with(|| (pattern, Listeners::new()));
        entry.1.insert(client.id, Arc::clone(client));
        self.count.fetch_add(1, Relaxed);
    }

    /// Ends a subscription that there is.
    pub(super) fn unsubscribe_pattern(&self, client: u64, pattern: &[u8]) {
        let mut patterns = self.patterns.lock();
        let Some((_, listeners)) = patterns.get_mut(pattern) else { return };
        if listeners.remove(&client).is_some() {
            self.count.fetch_sub(1, Relaxed);
        }
        if listeners.is_empty() {
            patterns.remove(pattern);
        }
    }

    /// Sends a message to all who listen; says to how many (a client counts once for each of its subscriptions).
    pub(super) fn publish(&self, channel: &[u8], message: &[u8]) -> u64 {
        if !self.is_heard() {
            return 0;
        }
        let mut receivers = 0;
        let direct: Vec<_> = self.channels.lock().get(channel).into_iter().flatten().map(|(_, c)| c.clone()).collect();
        for client in &direct {
            deliver(client, &[b"message", channel, message]);
            receivers += 1;
        }
        for (pattern, client) in self.matching(channel) {
            deliver(&client, &[b"pmessage", &pattern, channel, message]);
            receivers += 1;
        }
        receivers
    }

    fn matching(&self, channel: &[u8]) -> Vec<(Vec<u8>, Arc<Client>)> {
        let patterns = self.patterns.lock();
        let matching = patterns.iter().filter(|(_, (glob, _))| glob.matches(channel));
        matching.flat_map(|(text, (_, clients))| clients.values().map(|c| (text.clone(), c.clone()))).collect()
    }

    /// Channels with a listener that match.
    pub(super) fn channels(&self, pattern: Option<&Glob>) -> Vec<Vec<u8>> {
        let channels = self.channels.lock();
        channels.keys().filter(|name| pattern.is_none_or(|pattern| pattern.matches(name))).cloned().collect()
    }

    /// Listeners of one channel.
    pub(super) fn listeners(&self, channel: &[u8]) -> usize {
        self.channels.lock().get(channel).map_or(0, BTreeMap::len)
    }

    /// Patterns that somebody listens to.
    pub(super) fn pattern_count(&self) -> usize {
        self.patterns.lock().len()
    }

    /// Channels that somebody listens to.
    pub(super) fn channel_count(&self) -> usize {
        self.channels.lock().len()
    }
}

/// Sends one message, in the protocol its receiver speaks now.
pub(super) fn deliver(client: &Client, parts: &[&[u8]]) {
    let mut reply = Reply::default();
    reply.set_resp3(client.protocol.load(Relaxed) == 3);
    reply.push(parts.len());
    parts.iter().for_each(|part| reply.bulk(part));
    client.mailbox.post(reply.pending());
}
