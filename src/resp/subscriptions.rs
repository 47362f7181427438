//! Subscriptions of one client, and its connection to Redis for messages.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    client_state::Client,
    hub::{self, Hub},
    keyspace_events::is_local,
    pattern_set::{Comparison, PatternSet},
    reply::Refusal,
};
use crate::{
    budget::Account,
    cache::{RawConnection, elements, multi_key::passthrough::request, text},
    glob::Glob,
};

/// Maximum number of subscription changes that wait for the Redis connection of a subscriber.
const ORDERS_MAX: usize = 16;
/// Approximate memory of a subscription without its name: entries of three trees and of one table.
const SUBSCRIPTION_BYTES: usize = 320;

/// Subscriptions of one client.
#[derive(Debug, Default)]
pub(super) struct Channels {
    pub(super) names: BTreeSet<Vec<u8>>,
    pub(super) patterns: BTreeSet<Vec<u8>>,
    /// Memory of all names and patterns in bytes.
    name_bytes: usize,
    /// The client's connection to Redis, if it has subscribed to a channel of Redis.
    pub(super) bridge: Option<Bridge>,
}

impl Channels {
    /// Ends all subscriptions.
    pub(super) fn end(&self, hub: &Hub, client: &Client) {
        self.names.iter().for_each(|name| hub.unsubscribe(client.id, name));
        self.patterns.iter().for_each(|pattern| hub.unsubscribe_pattern(client.id, pattern));
        client.channels.store(0, Relaxed);
        client.patterns.store(0, Relaxed);
    }

    pub(super) fn count(&self) -> usize {
        self.names.len() + self.patterns.len()
    }

    /// Returns the approximate memory of the subscriptions in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.count() * SUBSCRIPTION_BYTES + self.name_bytes
    }

    /// Adds a channel. Returns `false` if the client is already subscribed to it.
    pub(super) fn insert(&mut self, name: &[u8]) -> bool {
        let is_new = self.names.insert(name.to_vec());
        self.name_bytes += if is_new { name_bytes(name) } else { 0 };
        is_new
    }

    /// Adds a pattern. Returns `false` if the client is already subscribed to it.
    pub(super) fn insert_pattern(&mut self, glob: &Glob) -> bool {
        let is_new = self.patterns.insert(glob.pattern().to_vec());
        self.name_bytes += if is_new { pattern_bytes(glob) } else { 0 };
        is_new
    }

    /// Removes a channel. Returns `false` if the client is not subscribed to it.
    pub(super) fn remove(&mut self, name: &[u8]) -> bool {
        let was_there = self.names.remove(name);
        self.name_bytes -= if was_there { name_bytes(name) } else { 0 };
        was_there
    }

    /// Removes a pattern. Returns `false` if the client is not subscribed to it.
    pub(super) fn remove_pattern(&mut self, name: &[u8]) -> bool {
        let was_there = self.patterns.remove(name);
        if let (true, Ok(glob)) = (was_there, Glob::new(name)) {
            self.name_bytes -= pattern_bytes(&glob);
        }
        was_there
    }

    pub(super) fn show(&self, client: &Client) {
        client.channels.store(self.names.len(), Relaxed);
        client.patterns.store(self.patterns.len(), Relaxed);
    }
}

/// Returns the memory of a name in bytes. The hub and the connection to Redis have a copy each.
fn name_bytes(name: &[u8]) -> usize {
    3 * name.len()
}

/// Returns the memory of a pattern in bytes: its text, and the parsed pattern that the hub and the connection to Redis share.
fn pattern_bytes(glob: &Glob) -> usize {
    name_bytes(glob.pattern()) + glob.memory_bytes()
}

/// A subscriber's connection to Redis.
#[derive(Debug)]
pub(super) struct Bridge {
    orders: mpsc::Sender<Order>,
    patterns: Arc<RedisPatterns>,
    task: JoinHandle<()>,
}

/// The patterns of a client by the pattern that its connection is subscribed to. Redis compares each message with the
/// patterns of all clients, so that it receives only patterns that it compares fast ([`Glob::for_redis`]). Other patterns
/// are compared here.
#[derive(Debug, Default)]
struct RedisPatterns(Mutex<BTreeMap<Bytes, Arc<PatternSet>>>);

impl RedisPatterns {
    /// Adds a pattern. Returns the pattern to subscribe to, unless the connection is subscribed to it.
    fn add(&self, glob: &Glob) -> Option<Bytes> {
        let (sent, _) = glob.for_redis();
        let mut all = self.0.lock();
        let is_new = !all.contains_key(&sent);
        all.entry(sent.clone()).or_default().insert(glob.clone());
        is_new.then_some(sent)
    }

    /// Removes a pattern. Returns the pattern to unsubscribe from, if no other pattern of the client needs it.
    fn remove(&self, glob: &Glob) -> Option<Bytes> {
        let (sent, _) = glob.for_redis();
        let mut all = self.0.lock();
        let patterns = all.get(&sent)?;
        let is_last = patterns.remove(glob.pattern()) && patterns.is_empty();
        is_last.then(|| all.remove(&sent)).flatten().map(|_| sent)
    }

    fn of(&self, sent: &[u8]) -> Option<Arc<PatternSet>> {
        self.0.lock().get(sent).cloned()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A subscription request, its number of confirmations, and the channel that reports their arrival.
struct Order {
    request: Vec<u8>,
    confirmations: usize,
    done: oneshot::Sender<()>,
}

impl Bridge {
    pub(super) fn start(line: RawConnection, client: Arc<Client>, account: Arc<Account>) -> Self {
        let (orders, queue) = mpsc::channel(ORDERS_MAX);
        let patterns = Arc::new(RedisPatterns::default());
        let receiver = Receiver { client, account, patterns: Arc::clone(&patterns) };
        let task = tokio::spawn(async move {
            relay(line, queue, &receiver).await;
            // Messages may have been lost; closing the connection makes the client reconnect.
            receiver.client.mailbox.close();
        });
        Self { orders, patterns, task }
    }

    /// Adds patterns of the client. Returns the patterns to subscribe to in Redis.
    pub(super) fn add_patterns(&self, globs: &[Glob]) -> Vec<Bytes> {
        globs.iter().filter_map(|glob| self.patterns.add(glob)).collect()
    }

    /// Removes patterns of the client. Returns the patterns to unsubscribe from in Redis.
    pub(super) fn remove_patterns(&self, globs: &[Glob]) -> Vec<Bytes> {
        globs.iter().filter_map(|glob| self.patterns.remove(glob)).collect()
    }

    /// Sends a request and waits for the confirmation of Redis.
    pub(super) async fn order(&self, words: &[&[u8]], confirmations: usize) -> Result<(), Refusal> {
        let lost = || Refusal::text("UNAVAILABLE lost the subscription connection to Redis");
        let (done, is_done) = oneshot::channel();
        let order = Order { request: request(words), confirmations, done };
        self.orders.send(order).await.map_err(|_| lost())?;
        is_done.await.map_err(|_| lost())
    }
}

/// Sends requests and delivers messages until the connection is lost.
async fn relay(mut line: RawConnection, mut orders: mpsc::Receiver<Order>, receiver: &Receiver) {
    let mut waiting: VecDeque<(usize, oneshot::Sender<()>)> = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            frame = line.next() => match frame {
                Ok(frame) => take(&frame, &mut waiting, receiver).await,
                Err(_lost) => return,
            },
            order = orders.recv(), if waiting.len() < ORDERS_MAX => {
                let Some(order) = order else { return };
                if line.send(&order.request).await.is_err() {
                    return;
                }
                waiting.push_back((order.confirmations, order.done));
            }
        }
    }
}

/// The client of a connection to Redis.
struct Receiver {
    client: Arc<Client>,
    account: Arc<Account>,
    patterns: Arc<RedisPatterns>,
}

/// Handles a message for the client or a confirmation.
async fn take(frame: &Bytes, waiting: &mut VecDeque<(usize, oneshot::Sender<()>)>, receiver: &Receiver) {
    let parts: Vec<Bytes> = elements(frame).unwrap_or_default().iter().filter_map(text).collect();
    match &parts[..] {
        // This process delivers messages of its own channels itself.
        [kind, channel, _] if kind == "message" && is_local(channel) => {}
        [kind, _, channel, _] if kind == "pmessage" && is_local(channel) => {}
        [kind, channel, message] if kind == "message" => receiver.deliver(&[kind, channel, message]),
        [kind, sent, channel, message] if kind == "pmessage" => receiver.deliver_matching(sent, channel, message).await,
        _ => confirm(waiting),
    }
}

impl Receiver {
    fn deliver(&self, parts: &[&[u8]]) {
        hub::deliver(&self.account, &self.client, parts);
    }

    /// Delivers a message once for each pattern of the client that matches. The next message waits, so that their order
    /// is preserved.
    async fn deliver_matching(&self, sent: &[u8], channel: &[u8], message: &[u8]) {
        // The client may have just unsubscribed.
        let Some(patterns) = self.patterns.of(sent) else { return };
        let found = |glob: &Glob| self.deliver(&[b"pmessage", glob.pattern(), channel, message]);
        patterns.each_match(&mut Comparison::default(), channel, found).await;
    }
}

fn confirm(waiting: &mut VecDeque<(usize, oneshot::Sender<()>)>) {
    let Some((missing, _)) = waiting.front_mut() else { return };
    *missing = missing.saturating_sub(1);
    if *missing == 0
        && let Some((_, done)) = waiting.pop_front()
    {
        // The receiver may have been dropped.
        let _dropped = done.send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_charged_what_their_patterns_use() {
        let mut channels = Channels::default();
        assert!(channels.insert(b"channel") && !channels.insert(b"channel"));
        assert_eq!(channels.bytes(), SUBSCRIPTION_BYTES + 21);
        // The most expensive pattern: an empty class has two bytes.
        let glob = Glob::new(&b"[]".repeat(512)).unwrap();
        assert!(channels.insert_pattern(&glob) && !channels.insert_pattern(&glob));
        assert!(channels.bytes() > 20 * 1_024, "{}", channels.bytes());
        assert!(channels.remove_pattern(glob.pattern()) && !channels.remove_pattern(glob.pattern()));
        assert!(channels.remove(b"channel") && !channels.remove(b"channel"));
        assert_eq!(channels.bytes(), 0);
    }
}
