//! A client and what the port knows of it; the registry of all clients.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use super::{
    command,
    counters::{Counters, Statistics},
};
use crate::clock::Tick;

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
}

/// What a client calls itself.
#[derive(Debug, Default, Clone)]
pub(super) struct Names {
    pub(super) name: Vec<u8>,
    pub(super) library: Vec<u8>,
    pub(super) library_version: Vec<u8>,
}

impl Client {
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
            " age={} idle={} flags=N db={} sub=0 psub=0 ssub=0 multi=-1 qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 \
             rbs=0 rbp=0 obl=0 oll=0 omem={} tot-mem={} events=r cmd={command} user=default redir=-1 resp={}",
            now.since(self.connected_at).as_secs(),
            now.since(Tick(self.used_at.load(Relaxed))).as_secs(),
            self.db.load(Relaxed),
            self.input_bytes.load(Relaxed),
            self.output_bytes.load(Relaxed),
            self.input_bytes.load(Relaxed) + self.output_bytes.load(Relaxed),
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
}

impl Shared {
    /// All clients, oldest first.
    pub(super) fn clients(&self) -> Vec<Arc<Client>> {
        self.clients.lock().values().cloned().collect()
    }

    /// How many clients are connected.
    pub(super) fn client_count(&self) -> usize {
        self.clients.lock().len()
    }
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
        }
    }

    /// Whether a GET of this client is a user read of the logical view.
    #[inline]
    pub(super) fn reads_plainly(&self) -> bool {
        self.db == 0 && self.authenticated && !self.no_touch
    }

    /// Selects a database.
    pub(super) fn select(&mut self, db: u8) {
        self.db = db;
        self.client.db.store(db, Relaxed);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.clients.lock().remove(&self.client.id);
    }
}
