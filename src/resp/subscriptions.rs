//! Subscriptions of one client, and its connection to Redis for messages.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    client_state::Client,
    hub::{self, Hub},
    keyspace_events::is_local,
    reply::Refusal,
};
use crate::budget::Account;
use crate::cache::{RawConnection, elements, multi_key::passthrough::request, text};

/// Maximum number of subscription changes that wait for the Redis connection of a subscriber.
const ORDERS_MAX: usize = 16;
/// Approximate memory of a subscription without its name: entries of two trees and of one table.
const SUBSCRIPTION_BYTES: usize = 256;

/// Subscriptions of one client.
#[derive(Debug, Default)]
pub(super) struct Channels {
    pub(super) names: BTreeSet<Vec<u8>>,
    pub(super) patterns: BTreeSet<Vec<u8>>,
    /// Size of all names and patterns in bytes.
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

    /// Returns the approximate memory of the subscriptions in bytes. The hub has a copy of each name.
    pub(super) fn bytes(&self) -> usize {
        self.count() * SUBSCRIPTION_BYTES + 2 * self.name_bytes
    }

    /// Adds a channel or a pattern. Returns `false` if the client is already subscribed to it.
    pub(super) fn insert(&mut self, name: &[u8], is_pattern: bool) -> bool {
        let names = if is_pattern { &mut self.patterns } else { &mut self.names };
        let is_new = names.insert(name.to_vec());
        self.name_bytes += if is_new { name.len() } else { 0 };
        is_new
    }

    /// Removes a channel or a pattern. Returns `false` if the client is not subscribed to it.
    pub(super) fn remove(&mut self, name: &[u8], is_pattern: bool) -> bool {
        let names = if is_pattern { &mut self.patterns } else { &mut self.names };
        let was_there = names.remove(name);
        self.name_bytes -= if was_there { name.len() } else { 0 };
        was_there
    }

    pub(super) fn show(&self, client: &Client) {
        client.channels.store(self.names.len(), Relaxed);
        client.patterns.store(self.patterns.len(), Relaxed);
    }
}

/// A subscriber's connection to Redis.
#[derive(Debug)]
pub(super) struct Bridge {
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
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
        let task = tokio::spawn(async move {
            relay(line, queue, &client, &account).await;
            // Messages may have been lost; closing the connection makes the client reconnect.
            client.mailbox.close();
        });
        Self { orders, task }
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
async fn relay(mut line: RawConnection, mut orders: mpsc::Receiver<Order>, client: &Client, account: &Arc<Account>) {
    let mut waiting: VecDeque<(usize, oneshot::Sender<()>)> = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            frame = line.next() => match frame {
                Ok(frame) => take(&frame, &mut waiting, client, account),
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

/// Handles a message for the client or a confirmation.
fn take(frame: &Bytes, waiting: &mut VecDeque<(usize, oneshot::Sender<()>)>, client: &Client, account: &Arc<Account>) {
    let parts: Vec<Bytes> = elements(frame).unwrap_or_default().iter().filter_map(text).collect();
    let kind = parts.first().map(|kind| &kind[..]);
    let channel = match kind {
        Some(b"message") => parts.get(1),
        Some(b"pmessage") => parts.get(2),
        Some(_) | None => None,
    };
    match channel {
        // This process delivers messages of its own channels itself.
        Some(channel) if is_local(channel) => {}
        Some(_) => hub::deliver(account, client, &parts.iter().map(|part| &part[..]).collect::<Vec<_>>()),
        None => confirm(waiting),
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
