//! A client and what the port knows of it; the registry of all clients.
//!
//! What most clients never use (a transaction, watched keys, channels) is boxed: a connection is small.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use super::{
    command,
    counters::{Counters, Statistics},
    exec::{pubsub::Channels, transaction::Transaction},
    hub::Hub,
    mailbox::Mailbox,
    monitor::Monitors,
    slow::Slow,
};
use crate::{cache::Watch, clock::Tick};

/// A client as others may see it.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) address: String,
    pub(super) local_address: String,
    connected_at: Tick,
    pub(super) names: Mutex<Names>,
    /// Last time it sent something.
    pub(super) used_at: AtomicU64,
    pub(super) db: AtomicU8,
    pub(super) protocol: AtomicU8,
    /// Number of the last command, one more than the row; 0 none.
    pub(super) last_command: AtomicUsize,
    /// Bytes of memory of its buffers.
    pub(super) input_bytes: AtomicUsize,
    pub(super) output_bytes: AtomicUsize,
    /// What others send it.
    pub(super) mailbox: Mailbox,
    /// Its channels and patterns.
    pub(super) channels: AtomicUsize,
    pub(super) patterns: AtomicUsize,
    /// Commands queued in its transaction; negative: none is open.
    pub(super) queued: AtomicI64,
    /// It waits in a blocking command.
    pub(super) blocked: AtomicBool,
    /// It watches all others.
    pub(super) monitors: AtomicBool,
}

/// What a client calls itself.
#[derive(Debug, Default, Clone)]
pub(super) struct Names {
    pub(super) name: Vec<u8>,
    pub(super) library: Vec<u8>,
    pub(super) library_version: Vec<u8>,
}

impl Client {
    /// Of which type CLIENT LIST and CLIENT KILL take it to be.
    pub(super) fn kind(&self) -> &'static str {
        if self.is_subscribed() { "pubsub" } else { "normal" }
    }

    /// Whether it listens to a channel or pattern.
    pub(super) fn is_subscribed(&self) -> bool {
        self.channels.load(Relaxed) + self.patterns.load(Relaxed) > 0
    }

    fn flags(&self) -> String {
        let flags = [
            (self.monitors.load(Relaxed), 'O'),
            (self.is_subscribed(), 'P'),
            (self.queued.load(Relaxed) >= 0, 'x'),
            (self.blocked.load(Relaxed), 'b'),
        ];
        let shown: String = flags.into_iter().filter_map(|(is, flag)| is.then_some(flag)).collect();
        if shown.is_empty() { "N".to_owned() } else { shown }
    }

    /// Bytes of memory of its buffers.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.input_bytes.load(Relaxed) + self.output_bytes.load(Relaxed)
    }

    /// Its line in CLIENT LIST, without a line end.
    pub(super) fn describe(&self, now: Tick) -> Vec<u8> {
        let names = self.names.lock().clone();
        let command = self.last_command.load(Relaxed).checked_sub(1).map_or("NULL", command::name_of);
        let mut head = String::new();
        // Writing to a String cannot fail.
        let _ok = write!(head, "id={} addr={} laddr={} fd=-1 name=", self.id, self.address, self.local_address);
        let mut tail = String::new();
        let _ok = write!(
            tail,
            " age={} idle={} flags={} db={} sub={} psub={} ssub=0 multi={} qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 \
             rbs=0 rbp=0 obl=0 oll=0 omem={} tot-mem={} events=r cmd={command} user=default redir=-1 resp={}",
            now.since(self.connected_at).as_secs(),
            now.since(Tick(self.used_at.load(Relaxed))).as_secs(),
            self.flags(),
            self.db.load(Relaxed),
            self.channels.load(Relaxed),
            self.patterns.load(Relaxed),
            self.queued.load(Relaxed),
            self.input_bytes.load(Relaxed),
            self.output_bytes.load(Relaxed),
            self.buffer_bytes(),
            self.protocol.load(Relaxed),
        );
        let parts: [&[u8]; 7] = [
            head.as_bytes(),
            &names.name,
            tail.as_bytes(),
            b" lib-name=",
            &names.library,
            b" lib-ver=",
            &names.library_version,
        ];
        parts.concat()
    }
}

/// What all RESP connections of a server share.
#[derive(Debug, Default)]
pub struct Shared {
    next_id: AtomicU64,
    clients: Mutex<BTreeMap<u64, Arc<Client>>>,
    pub(super) statistics: Statistics,
    /// When a hostile first line was last logged; 0 never.
    pub(super) hostile_logged_at: AtomicU64,
    /// Most bytes of memory seen.
    pub(super) memory_peak_bytes: AtomicU64,
    pub(super) hub: Hub,
    pub(super) monitors: Monitors,
    pub(super) slow: Slow,
    /// Which keyspace events are sent, as `notify-keyspace-events` has them.
    pub(super) events: super::exec::events::Wanted,
}

impl Shared {
    /// All clients, oldest first. Who was ended is gone for all others, even before its task has noticed.
    pub(super) fn clients(&self) -> Vec<Arc<Client>> {
        self.clients.lock().values().filter(|client| !client.mailbox.is_closed()).cloned().collect()
    }

    /// The most bytes of memory seen so far, these included.
    pub(super) fn note_peak(&self, used_bytes: u64) -> u64 {
        self.memory_peak_bytes.fetch_max(used_bytes, Relaxed).max(used_bytes)
    }

    /// How many clients are connected.
    pub(super) fn client_count(&self) -> usize {
        self.clients.lock().len()
    }
}

/// Which replies a client wants (CLIENT REPLY).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replies {
    /// All.
    On,
    /// None.
    Off,
    /// Not the one to CLIENT REPLY SKIP itself ...
    SkipNext,
    /// ... nor the one after it.
    Skip,
}

/// One connection's own state.
pub(super) struct Session {
    shared: Arc<Shared>,
    pub(super) client: Arc<Client>,
    pub(super) counters: Arc<Counters>,
    pub(super) db: u8,
    pub(super) authenticated: bool,
    /// Its reads are inspection (CLIENT NO-TOUCH).
    pub(super) no_touch: bool,
    /// The connection ends once the reply is sent.
    pub(super) closing: bool,
    pub(super) replies: Replies,
    /// Between MULTI and EXEC.
    pub(super) transaction: Option<Box<Transaction>>,
    /// A command of a transaction runs: nothing may wait.
    pub(super) in_exec: bool,
    /// What WATCH was told.
    pub(super) watch: Option<Box<Watch>>,
    /// What SUBSCRIBE was told.
    pub(super) channels: Option<Box<Channels>>,
}

impl Session {
    /// A new client, entered into the registry until this is dropped.
    pub(super) fn new(shared: &Arc<Shared>, address: String, local_address: String, now: Tick) -> Self {
        let id = shared.next_id.fetch_add(1, Relaxed) + 1;
        let client = Arc::new(Client {
            id,
            address,
            local_address,
            connected_at: now,
            names: Mutex::default(),
            used_at: AtomicU64::new(now.0),
            db: AtomicU8::new(0),
            protocol: AtomicU8::new(2),
            last_command: AtomicUsize::new(0),
            input_bytes: AtomicUsize::new(0),
            output_bytes: AtomicUsize::new(0),
            mailbox: Mailbox::default(),
            channels: AtomicUsize::new(0),
            patterns: AtomicUsize::new(0),
            queued: AtomicI64::new(-1),
            blocked: AtomicBool::new(false),
            monitors: AtomicBool::new(false),
        });
        shared.clients.lock().insert(id, Arc::clone(&client));
        let counters = shared.statistics.of_this_thread();
        Self {
            shared: Arc::clone(shared),
            client,
            counters,
            db: 0,
            authenticated: false,
            no_touch: false,
            closing: false,
            replies: Replies::On,
            transaction: None,
            in_exec: false,
            watch: None,
            channels: None,
        }
    }

    /// Whether a GET of this client is a user read of the logical view that nobody watches one by one.
    #[inline]
    pub(super) fn reads_plainly(&self) -> bool {
        self.db == 0
            && self.authenticated
            && !self.no_touch
            && self.transaction.is_none()
            && self.replies == Replies::On
            && !self.is_limited()
            && !self.shared.monitors.any()
            && !self.shared.slow.is_fine()
    }

    /// A subscriber in RESP2 cannot tell replies from messages: it may only manage its subscriptions.
    #[inline]
    pub(super) fn is_limited(&self) -> bool {
        self.channels.is_some() && self.client.is_subscribed() && self.client.protocol.load(Relaxed) == 2
    }

    /// Ends the transaction and what it watches.
    pub(super) fn end_transaction(&mut self) -> Option<Box<Transaction>> {
        self.watch = None;
        self.client.queued.store(-1, Relaxed);
        self.transaction.take()
    }

    /// Ends all subscriptions.
    pub(super) fn end_subscriptions(&mut self) {
        if let Some(channels) = self.channels.take() {
            channels.end(&self.shared.hub, &self.client);
        }
    }

    /// Ends the watching of others.
    pub(super) fn end_monitor(&mut self) {
        if self.client.monitors.swap(false, Relaxed) {
            self.shared.monitors.remove(self.client.id);
        }
    }

    /// Selects a database.
    pub(super) fn select(&mut self, db: u8) {
        self.db = db;
        self.client.db.store(db, Relaxed);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end_subscriptions();
        self.end_monitor();
        self.shared.clients.lock().remove(&self.client.id);
    }
}
