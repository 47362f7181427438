//! Subscriptions of this node's clients to channels and patterns, and the delivery of messages.
//!
//! No pattern is compared under a lock, because a long channel name takes up to a millisecond per pattern: a message takes
//! the patterns in pages.
//!
//! Senders never wait: each message is added to the mailbox of each receiver, and all receivers share its memory. With
//! Redis as L2, messages arrive on the receiver's own connection to Redis (`subscriptions`); this registry then serves
//! only the channels that this process publishes on.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{client_state::Client, reply::Reply};
use crate::{budget::Account, glob::Glob};

/// Maximum size in bytes of a channel name. The names of channels for keyspace events may have the size of a key in
/// addition to their prefix.
pub(super) const CHANNEL_MAX_BYTES: usize = 65_536;
/// Maximum number of patterns or channels that one hold of a lock visits (about 50 µs).
const VISITED_MAX: usize = 1_024;
/// Maximum number of patterns or channels that are compared between two yields to other tasks.
const COMPARED_MAX: usize = 16;

/// Subscribed clients by client ID.
type Listeners = BTreeMap<u64, Arc<Client>>;

/// All subscriptions of this process.
#[derive(Debug)]
pub(super) struct Hub {
    /// Charged for messages until all receivers have received them.
    account: Arc<Account>,
    channels: Mutex<BTreeMap<Vec<u8>, Listeners>>,
    patterns: Mutex<BTreeMap<Vec<u8>, (Glob, Listeners)>>,
    /// Number of subscriptions, so that a message without receivers costs one load.
    count: AtomicUsize,
}

impl Hub {
    pub(super) fn new(account: Arc<Account>) -> Self {
        Self { account, channels: Mutex::default(), patterns: Mutex::default(), count: AtomicUsize::new(0) }
    }

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
        let mut receivers = self.publish_direct(channel, message);
        let mut next = Some(Bound::Unbounded);
        while let Some(from) = next.take() {
            let (candidates, after) = self.candidates(from, channel);
            receivers += candidates.iter().map(|glob| self.publish_matching(glob, channel, message)).sum::<u64>();
            next = after;
        }
        receivers
    }

    /// Same as [`Hub::publish`], and yields to other tasks between comparisons.
    pub(super) async fn publish_and_yield(&self, channel: &[u8], message: &[u8]) -> u64 {
        if !self.is_heard() {
            return 0;
        }
        let mut receivers = self.publish_direct(channel, message);
        let mut next = Some(Bound::Unbounded);
        while let Some(from) = next.take() {
            let (candidates, after) = self.candidates(from, channel);
            for few in candidates.chunks(COMPARED_MAX) {
                receivers += few.iter().map(|glob| self.publish_matching(glob, channel, message)).sum::<u64>();
                tokio::task::yield_now().await;
            }
            next = after;
        }
        receivers
    }

    fn publish_direct(&self, channel: &[u8], message: &[u8]) -> u64 {
        let direct: Vec<_> = self.channels.lock().get(channel).into_iter().flatten().map(|(_, c)| c.clone()).collect();
        deliver_all(&self.account, &direct, &[b"message", channel, message])
    }

    /// Sends a message to the subscribers of a pattern if the channel matches it.
    fn publish_matching(&self, glob: &Glob, channel: &[u8], message: &[u8]) -> u64 {
        if !glob.matches(channel) {
            return 0;
        }
        let clients = |(_, clients): &(Glob, Listeners)| clients.values().cloned().collect();
        let clients: Vec<_> = self.patterns.lock().get(&glob.pattern()[..]).map(clients).unwrap_or_default();
        deliver_all(&self.account, &clients, &[b"pmessage", glob.pattern(), channel, message])
    }

    /// Returns the next patterns that may match the channel, and where the next page begins, if there is one.
    fn candidates(&self, from: Bound<Vec<u8>>, channel: &[u8]) -> (Vec<Glob>, Option<Bound<Vec<u8>>>) {
        let patterns = self.patterns.lock();
        let (mut candidates, mut last, mut visited) = (Vec::new(), None, 0);
        for (text, (glob, _)) in patterns.range((from, Bound::Unbounded)).take(VISITED_MAX) {
            visited += 1;
            last = Some(text);
            if glob.may_match(channel) {
                candidates.push(glob.clone());
            }
        }
        let after = last.filter(|_| visited == VISITED_MAX).map(|text| Bound::Excluded(text.clone()));
        (candidates, after)
    }

    /// Returns the channels with a subscriber that match the pattern.
    pub(super) async fn channels(&self, pattern: Option<&Glob>) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut next = Some(Bound::Unbounded);
        while let Some(from) = next.take() {
            let page: Vec<Vec<u8>> = self
                .channels
                .lock()
                .range((from, Bound::Unbounded))
                .take(VISITED_MAX)
                .map(|(n, _)| n.clone())
                .collect();
            next = page.last().filter(|_| page.len() == VISITED_MAX).map(|last| Bound::Excluded(last.clone()));
            let Some(pattern) = pattern else {
                found.extend(page);
                continue;
            };
            for few in page.chunks(COMPARED_MAX) {
                found.extend(few.iter().filter(|name| pattern.matches(name)).cloned());
                tokio::task::yield_now().await;
            }
        }
        found
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

/// Sends one message to each receiver in its current protocol. Returns the number of receivers. `account` is charged for
/// the message, once for each protocol.
fn deliver_all(account: &Arc<Account>, clients: &[Arc<Client>], parts: &[&[u8]]) -> u64 {
    let mut messages: [Option<Bytes>; 2] = [None, None];
    for client in clients {
        let resp3 = client.protocol.load(Relaxed) == 3;
        let message = messages[usize::from(resp3)].get_or_insert_with(|| account.held_bytes(encoded(resp3, parts)));
        client.mailbox.post(message.clone());
    }
    clients.len() as u64
}

/// Sends one message in the receiver's current protocol. `account` is charged for it.
pub(super) fn deliver(account: &Arc<Account>, client: &Client, parts: &[&[u8]]) {
    let message = encoded(client.protocol.load(Relaxed) == 3, parts);
    client.mailbox.post(account.held_bytes(message));
}

fn encoded(resp3: bool, parts: &[&[u8]]) -> Bytes {
    let mut reply = Reply::default();
    reply.set_resp3(resp3);
    reply.push(parts.len());
    parts.iter().for_each(|part| reply.bulk(part));
    reply.into_bytes()
}
