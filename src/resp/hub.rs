//! Subscriptions of this node's clients to channels and patterns, and the delivery of messages.
//!
//! Patterns that are literal prefixes are found by the prefixes of the channel. Other patterns belong to the [`lane`] of
//! their client: no pattern is compared under a lock, and a sender compares for at most [`COMPARED_NOW_MAX_NS`].
//!
//! Senders never wait: each message is added to the mailbox of each receiver, and all receivers share its memory. With
//! Redis as L2, messages arrive on the receiver's own connection to Redis (`subscriptions`); this registry then serves
//! only the channels that this process publishes on.
//!
//! [`lane`]: super::lane

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

use super::{
    client_state::Client,
    lane::{Added, Item, Lane, Published, Tally},
    pattern_set::Comparison,
    reply::Reply,
};
use crate::{budget::Account, cache::Turn, clock::stopwatch_ns, glob::Glob};

/// Maximum size in bytes of a channel name. The names of channels for keyspace events may have the size of a key in
/// addition to their prefix.
pub(super) const CHANNEL_MAX_BYTES: usize = 65_536;
/// Maximum number of channels or clients that one hold of a lock visits (about 50 µs).
const VISITED_MAX: usize = 1_024;
/// Time in nanoseconds for which the sender of a message compares patterns, before a last comparison of at most 1 ms.
/// The remaining patterns are compared on the workers of their clients.
const COMPARED_NOW_MAX_NS: u64 = 1_000_000;
/// Maximum time for which PUBLISH waits for the number of receivers. Later receivers are not counted.
pub(super) const COUNTED_WITHIN: Duration = Duration::from_secs(1);

/// Subscribed clients by client ID.
type Listeners = BTreeMap<u64, Arc<Client>>;

/// All subscriptions of this process.
#[derive(Debug)]
pub(super) struct Hub {
    /// Charged for messages until all receivers have received them.
    account: Arc<Account>,
    channels: Mutex<BTreeMap<Vec<u8>, Listeners>>,
    prefixes: Mutex<Prefixes>,
    lanes: Mutex<Lanes>,
    /// Number of subscriptions, so that a message without receivers costs one load.
    count: AtomicUsize,
}

/// Patterns that are literal prefixes, or literal texts, by this text. Several patterns may have the same prefix: `a*`,
/// `a**`, `[a]*`.
#[derive(Debug, Default)]
struct Prefixes {
    patterns: BTreeMap<Vec<u8>, BTreeMap<Bytes, (Glob, Listeners)>>,
    /// Number of prefixes by their length.
    lengths: BTreeMap<usize, usize>,
    /// Number of patterns.
    count: usize,
}

/// Clients with other patterns.
#[derive(Debug, Default)]
struct Lanes {
    clients: Listeners,
    /// Number of clients by pattern.
    patterns: BTreeMap<Bytes, usize>,
}

impl Prefixes {
    fn add(&mut self, client: &Arc<Client>, pattern: Glob) {
        if !self.patterns.contains_key(pattern.literal_prefix()) {
            *self.lengths.entry(pattern.literal_prefix().len()).or_default() += 1;
        }
        let same = self.patterns.entry(pattern.literal_prefix().to_vec()).or_default();
        let (_, listeners) = same.entry(pattern.pattern().clone()).or_insert_with(|| {
            self.count += 1;
            (pattern, Listeners::new())
        });
        listeners.insert(client.id, Arc::clone(client));
    }

    /// Returns `false` if the client is not subscribed.
    fn remove(&mut self, client: u64, pattern: &Glob) -> bool {
        let prefix = pattern.literal_prefix();
        let Some(same) = self.patterns.get_mut(prefix) else { return false };
        let Some((_, listeners)) = same.get_mut(pattern.pattern()) else { return false };
        let was_there = listeners.remove(&client).is_some();
        if listeners.is_empty() {
            same.remove(pattern.pattern());
            self.count -= 1;
        }
        if same.is_empty() {
            self.patterns.remove(prefix);
            let length = self.lengths.entry(prefix.len()).or_default();
            *length -= 1;
            if *length == 0 {
                self.lengths.remove(&prefix.len());
            }
        }
        was_there
    }

    /// Returns the patterns that match a channel, with their clients. Takes no longer than comparisons of keys.
    fn matching(&self, channel: &[u8]) -> Vec<(Bytes, Vec<Arc<Client>>)> {
        let lengths = self.lengths.range(..=channel.len());
        let same = lengths.filter_map(|(length, _)| self.patterns.get(&channel[..*length]));
        let found = same.flat_map(BTreeMap::values).filter(|(glob, _)| glob.matches(channel));
        found.map(|(glob, listeners)| (glob.pattern().clone(), listeners.values().cloned().collect())).collect()
    }
}

impl Lanes {
    fn add(&mut self, client: &Arc<Client>, pattern: Glob) {
        let lane = client.lane.get_or_init(|| Lane::new(Arc::clone(client.mailbox.account())));
        *self.patterns.entry(pattern.pattern().clone()).or_default() += 1;
        lane.patterns.insert(pattern);
        self.clients.insert(client.id, Arc::clone(client));
    }

    /// Returns `false` if the client is not subscribed.
    fn remove(&mut self, client: u64, pattern: &[u8]) -> bool {
        let Some(lane) = self.clients.get(&client).and_then(|client| client.lane.get()) else { return false };
        if !lane.patterns.remove(pattern) {
            return false;
        }
        if lane.patterns.is_empty() {
            self.clients.remove(&client);
        }
        if let Some(count) = self.patterns.get_mut(pattern) {
            *count -= 1;
            if *count == 0 {
                self.patterns.remove(pattern);
            }
        }
        true
    }
}

impl Hub {
    pub(super) fn new(account: Arc<Account>) -> Self {
        Self {
            account,
            channels: Mutex::default(),
            prefixes: Mutex::default(),
            lanes: Mutex::default(),
            count: AtomicUsize::new(0),
        }
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

    /// Subscribes a client to a pattern. The client must not be subscribed yet, and its worker runs the caller.
    pub(super) fn subscribe_pattern(&self, client: &Arc<Client>, pattern: Glob) {
        if pattern.is_prefix() {
            self.prefixes.lock().add(client, pattern);
        } else {
            self.lanes.lock().add(client, pattern);
        }
        self.count.fetch_add(1, Relaxed);
    }

    /// Removes a subscription to a pattern.
    pub(super) fn unsubscribe_pattern(&self, client: u64, pattern: &[u8]) {
        let was_there = self.lanes.lock().remove(client, pattern)
            // No client is subscribed to a pattern that is too long.
            || Glob::new(pattern).is_ok_and(|pattern| self.prefixes.lock().remove(client, &pattern));
        self.count.fetch_sub(usize::from(was_there), Relaxed);
    }

    /// Sends a message to all subscribers.
    pub(super) fn publish(&self, channel: &[u8], message: &[u8]) {
        if self.is_heard() {
            let _receivers = self.publish_prefixes(channel, message);
            self.publish_lanes(channel, message, None);
        }
    }

    /// Same as [`Hub::publish`], and returns the number of deliveries. A client with several matching subscriptions counts
    /// several times. Deliveries after `within` are not counted.
    pub(super) async fn publish_and_count(&self, channel: &[u8], message: &[u8], within: Duration) -> u64 {
        if !self.is_heard() {
            return 0;
        }
        let receivers = self.publish_prefixes(channel, message);
        let (done, is_done) = oneshot::channel();
        let matched = Arc::new(AtomicU64::new(0));
        self.publish_lanes(channel, message, Some(Tally { receivers: Arc::clone(&matched), _done: done }));
        if !within.is_zero() {
            // The sender is dropped, without a message, when all patterns are compared.
            let _dropped = timeout(within, is_done).await;
        }
        receivers + matched.load(Relaxed)
    }

    /// Sends a message to the subscribers of the channel and of its prefixes. Returns their number.
    fn publish_prefixes(&self, channel: &[u8], message: &[u8]) -> u64 {
        let direct: Vec<_> = self.channels.lock().get(channel).into_iter().flatten().map(|(_, c)| c.clone()).collect();
        let receivers = self.deliver_all(&direct, &[b"message", channel, message]);
        let matching = self.prefixes.lock().matching(channel);
        let deliver =
            |(pattern, clients): &(Bytes, Vec<_>)| self.deliver_all(clients, &[b"pmessage", pattern, channel, message]);
        receivers + matching.iter().map(deliver).sum::<u64>()
    }

    /// Sends one message to each receiver in its current protocol. Returns the number of receivers. The account is charged
    /// for the message, once for each protocol.
    fn deliver_all(&self, clients: &[Arc<Client>], parts: &[&[u8]]) -> u64 {
        let mut messages: [Option<Bytes>; 2] = [None, None];
        for client in clients {
            let resp3 = client.protocol.load(Relaxed) == 3;
            let message =
                messages[usize::from(resp3)].get_or_insert_with(|| self.account.held_bytes(encoded(resp3, parts)));
            match client.lane.get() {
                Some(lane) if lane.is_busy() => self.enqueue(client, lane, Item::Ready(message.clone())),
                Some(_) | None => client.mailbox.post(message.clone()),
            }
        }
        clients.len() as u64
    }

    /// Sends a message to the clients whose other patterns match.
    fn publish_lanes(&self, channel: &[u8], message: &[u8], mut tally: Option<Tally>) {
        let until_ns = stopwatch_ns() + COMPARED_NOW_MAX_NS;
        let mut published: Option<Arc<Published>> = None;
        let mut share = || {
            let held = |bytes: &[u8]| self.account.held_bytes(Bytes::copy_from_slice(bytes));
            let create = || Arc::new(Published::new(held(channel), held(message), tally.take()));
            Arc::clone(published.get_or_insert_with(create))
        };
        let mut from = Some(Bound::Unbounded);
        while let Some(start) = from.take() {
            let page: Vec<Arc<Client>> = self
                .lanes
                .lock()
                .clients
                .range((start, Bound::Unbounded))
                .take(VISITED_MAX)
                .map(|(_, c)| c.clone())
                .collect();
            from = page.last().filter(|_| page.len() == VISITED_MAX).map(|last| Bound::Excluded(last.id));
            page.iter().for_each(|client| self.offer(client, channel, until_ns, &mut share));
        }
    }

    /// Compares a channel with the patterns of a client until `until_ns`, unless earlier messages wait, and leaves the
    /// remaining patterns to the worker of the client.
    fn offer(
        &self,
        client: &Arc<Client>,
        channel: &[u8],
        until_ns: u64,
        published: &mut impl FnMut() -> Arc<Published>,
    ) {
        let Some(lane) = client.lane.get() else { return };
        let mut comparison = Comparison::default();
        if stopwatch_ns() > until_ns {
            return self.enqueue(client, lane, Item::Compare(published(), comparison));
        }
        let must_wait = lane.is_busy();
        while let Some(glob) = comparison.next(&lane.patterns, channel) {
            if must_wait || stopwatch_ns() > until_ns {
                comparison.put_back(glob);
                return self.enqueue(client, lane, Item::Compare(published(), comparison));
            }
            if glob.matches(channel) {
                deliver_match(&self.account, client, &published(), &glob);
            }
        }
    }

    fn enqueue(&self, client: &Arc<Client>, lane: &Lane, item: Item) {
        match lane.add(item) {
            Added::Waits => {}
            Added::First => drop(lane.worker.spawn(compare_waiting(Arc::clone(client), Arc::clone(&self.account)))),
            Added::Full => client.mailbox.close(),
        }
    }

    /// Returns the channels with a subscriber that match the pattern.
    pub(super) async fn channels(&self, pattern: Option<&Glob>) -> Vec<Vec<u8>> {
        let (mut found, mut turn) = (Vec::new(), Turn::begin());
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
            for name in page {
                if pattern.is_none_or(|pattern| pattern.matches(&name)) {
                    found.push(name);
                }
                turn.pause().await;
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
        self.prefixes.lock().count + self.lanes.lock().patterns.len()
    }

    /// Returns the number of channels with a subscriber.
    pub(super) fn channel_count(&self) -> usize {
        self.channels.lock().len()
    }
}

/// Compares the messages that wait for a client with its patterns, one after another.
async fn compare_waiting(client: Arc<Client>, account: Arc<Account>) {
    let Some(lane) = client.lane.get() else { return };
    let mut turn = Turn::begin();
    while let Some(item) = lane.take() {
        match item {
            Item::Ready(message) => client.mailbox.post(message),
            Item::Compare(published, mut comparison) => {
                let found = |glob: &Glob| deliver_match(&account, &client, &published, glob);
                lane.patterns.each_match(&mut comparison, &published.channel, found).await;
            }
        }
        turn.pause().await;
    }
}

/// Sends a message to a client with a matching pattern.
fn deliver_match(account: &Arc<Account>, client: &Client, published: &Published, glob: &Glob) {
    let resp3 = client.protocol.load(Relaxed) == 3;
    let message = published.encoded(glob.pattern(), resp3, || {
        let parts = [b"pmessage", &glob.pattern()[..], &published.channel, &published.message];
        account.held_bytes(encoded(resp3, &parts))
    });
    client.mailbox.post(message);
    published.count();
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
