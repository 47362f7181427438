//! Subscriptions of this node's clients to channels and patterns, and the delivery of messages.
//!
//! Senders never wait: each message is added to the mailbox of each receiver. With Redis as L2, messages arrive on the
//! receiver's own connection to Redis (`subscriptions`); this registry then serves only the channels that this process
//! publishes on.

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

/// Subscribed clients by client ID.
type Listeners = BTreeMap<u64, Arc<Client>>;

/// All subscriptions of this process.
#[derive(Debug, Default)]
pub(super) struct Hub {
    channels: Mutex<HashMap<Vec<u8>, Listeners>>,
    patterns: Mutex<BTreeMap<Vec<u8>, (Glob, Listeners)>>,
    /// Number of subscriptions, so that a message without receivers costs one load.
    count: AtomicUsize,
}

impl Hub {
    /// Returns `true` if any subscription exists.
    #[inline]
    pub(super) fn is_heard(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// Subscribes a client to a channel. The client must not be subscribed yet.
    pub(super) fn subscribe(&self, client: &Arc<Client>, channel: &[u8]) {
        self.channels.lock().entry(channel.to_vec()).or_default().insert(client.id, Arc::clone(client));
        self.count.fetch_add(1, Relaxed);
    }

    /// Removes a subscription to a channel.
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

    /// Subscribes a client to a pattern. The client must not be subscribed yet.
    pub(super) fn subscribe_pattern(&self, client: &Arc<Client>, pattern: Glob) {
        let mut patterns = self.patterns.lock();
        let entry = patterns.entry(pattern.pattern().to_vec()).or_insert_with(|| (pattern, Listeners::new()));
        entry.1.insert(client.id, Arc::clone(client));
        self.count.fetch_add(1, Relaxed);
    }

    /// Removes a subscription to a pattern.
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

    /// Sends a message to all subscribers and returns the number of deliveries. A client with several matching
    /// subscriptions counts several times.
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

    /// Returns the channels with a subscriber that match the pattern.
    pub(super) fn channels(&self, pattern: Option<&Glob>) -> Vec<Vec<u8>> {
        let channels = self.channels.lock();
        channels.keys().filter(|name| pattern.is_none_or(|pattern| pattern.matches(name))).cloned().collect()
    }

    /// Returns the number of subscribers of a channel.
    pub(super) fn listeners(&self, channel: &[u8]) -> usize {
        self.channels.lock().get(channel).map_or(0, BTreeMap::len)
    }

    /// Returns the number of patterns with a subscriber.
    pub(super) fn pattern_count(&self) -> usize {
        self.patterns.lock().len()
    }

    /// Returns the number of channels with a subscriber.
    pub(super) fn channel_count(&self) -> usize {
        self.channels.lock().len()
    }
}

/// Sends one message in the receiver's current protocol.
pub(super) fn deliver(client: &Client, parts: &[&[u8]]) {
    let mut reply = Reply::default();
    reply.set_resp3(client.protocol.load(Relaxed) == 3);
    reply.push(parts.len());
    parts.iter().for_each(|part| reply.bulk(part));
    client.mailbox.post(reply.pending());
}
