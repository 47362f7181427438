//! Client state that other connections access: CLIENT LIST, CLIENT KILL and messages to the client.

use std::{
    fmt::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use super::{lane::Lane, mailbox::Mailbox};
use crate::{
    access::{Access, DEFAULT_USER, Identity},
    budget::Account,
    clock::Tick,
};

/// Maximum size of each name that a client reports about itself (CLIENT SETNAME, CLIENT SETINFO).
pub(super) const NAME_MAX_BYTES: usize = 256;

/// Client state that other connections access.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) address: String,
    pub(super) local_address: String,
    connected_at: Tick,
    pub(super) names: Mutex<Names>,
    /// The authenticated client; `None` before AUTH.
    pub(super) identity: Mutex<Option<Arc<Identity>>>,
    /// Time of the last request.
    pub(super) used_at: AtomicU64,
    pub(super) db: AtomicU8,
    pub(super) protocol: AtomicU8,
    /// Row number of the last command plus one; 0 before the first command.
    pub(super) last_command: AtomicUsize,
    /// Memory of the input buffer in bytes.
    pub(super) input_bytes: AtomicUsize,
    pub(super) output_bytes: AtomicUsize,
    /// Messages from other connections.
    pub(super) mailbox: Mailbox,
    /// Patterns that may take long to compare, after the client has subscribed to one.
    pub(super) lane: OnceLock<Lane>,
    /// Number of subscribed channels.
    pub(super) channels: AtomicUsize,
    pub(super) patterns: AtomicUsize,
    /// Number of commands queued in the open transaction; negative without one.
    pub(super) queued: AtomicI64,
    /// The client waits in a blocking command.
    pub(super) blocked: AtomicBool,
    /// The client runs MONITOR.
    pub(super) monitors: AtomicBool,
}

/// Returns the name of a user as Redis would show it: clients without credentials are its user `default`.
pub(super) fn shown_user(name: &Arc<str>) -> Arc<str> {
    match &**name {
        "local" | "anonymous" => DEFAULT_USER.into(),
        _ => Arc::clone(name),
    }
}

/// Names that the client reports about itself.
#[derive(Debug, Default, Clone)]
pub(super) struct Names {
    pub(super) name: Vec<u8>,
    pub(super) library: Vec<u8>,
    pub(super) library_version: Vec<u8>,
}

impl Client {
    pub(super) fn new(id: u64, address: String, local_address: String, account: Arc<Account>, now: Tick) -> Self {
        Self {
            id,
            address,
            local_address,
            connected_at: now,
            names: Mutex::default(),
            identity: Mutex::default(),
            used_at: AtomicU64::new(now.0),
            db: AtomicU8::new(0),
            protocol: AtomicU8::new(2),
            last_command: AtomicUsize::new(0),
            input_bytes: AtomicUsize::new(0),
            output_bytes: AtomicUsize::new(0),
            mailbox: Mailbox::new(account),
            lane: OnceLock::new(),
            channels: AtomicUsize::new(0),
            patterns: AtomicUsize::new(0),
            queued: AtomicI64::new(-1),
            blocked: AtomicBool::new(false),
            monitors: AtomicBool::new(false),
        }
    }

    /// Returns the client type for CLIENT LIST and CLIENT KILL.
    pub(super) fn kind(&self) -> &'static str {
        if self.is_subscribed() { "pubsub" } else { "normal" }
    }

    /// Returns `true` if the client is subscribed to a channel or pattern.
    pub(super) fn is_subscribed(&self) -> bool {
        self.channels.load(Relaxed) + self.patterns.load(Relaxed) > 0
    }

    /// Returns the name of the user, as ACL WHOAMI shows it.
    pub(super) fn user(&self) -> Arc<str> {
        let identity = self.identity.lock();
        identity.as_ref().map_or_else(|| DEFAULT_USER.into(), |identity| shown_user(identity.principal().name()))
    }

    /// Returns `true` if the client has lost its access, or may no longer receive what it has requested.
    pub(super) fn is_revoked(&self, access: &Access) -> bool {
        let Some(identity) = self.identity.lock().clone() else { return false };
        match access.current(&identity) {
            None => true,
            // The next command of the client has the new permissions.
            Some(now) => self.receives_events() && !now.principal().is_same(identity.principal()),
        }
    }

    fn receives_events(&self) -> bool {
        self.is_subscribed() || self.monitors.load(Relaxed) || self.blocked.load(Relaxed)
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

    /// Returns the memory of the buffers in bytes.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.input_bytes.load(Relaxed) + self.output_bytes.load(Relaxed)
    }

    /// Returns the row number of the last command; `None` before the first command.
    pub(super) fn last_command(&self) -> Option<usize> {
        self.last_command.load(Relaxed).checked_sub(1)
    }

    /// Returns the line of the client in CLIENT LIST, without a line end. `command` is the name of the last command.
    pub(super) fn describe(&self, now: Tick, command: &str) -> Vec<u8> {
        let names = self.names.lock().clone();
        let mut head = String::new();
        // Writing to a String cannot fail.
        let _ok = write!(head, "id={} addr={} laddr={} fd=-1 name=", self.id, self.address, self.local_address);
        let mut tail = String::new();
        let _ok = write!(
            tail,
            " age={} idle={} flags={} db={} sub={} psub={} ssub=0 multi={} qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 \
             rbs=0 rbp=0 obl=0 oll=0 omem={} tot-mem={} events=r cmd={command} user={} redir=-1 resp={}",
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
            self.user(),
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
