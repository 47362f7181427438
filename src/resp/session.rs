//! State of one connection.
//!
//! Rarely used parts (transaction, watched keys, channels) are boxed, so that a connection is small.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{
    acl_log::{Reason, Refused},
    client_state::Client,
    counters::WorkerCounters,
    port_state::PortState,
    subscriptions::Channels,
    transaction_queue::TransactionQueue,
};
use crate::{
    access::{Access, Identity, Principal, Verbs},
    budget::Account,
    cache::KeyWatch,
    clock::Tick,
    socket::{PeerCertificate, Protocol},
};

/// Database that shows the learned state.
pub(super) const DB_LEARNED: u8 = 2;

/// Replies that a client receives (CLIENT REPLY).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replies {
    /// All replies.
    On,
    /// No replies.
    Off,
    /// Skips the reply of the next command; set by CLIENT REPLY SKIP, which has no reply itself.
    SkipNext,
    /// Skips the reply of the current command.
    Skip,
}

/// State of one connection.
pub(super) struct Session {
    shared: Arc<PortState>,
    pub(super) client: Arc<Client>,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) db: u8,
    /// The authenticated client; `None` before AUTH.
    pub(super) identity: Option<Arc<Identity>>,
    /// Number of failed logins since the last successful one.
    pub(super) failed_logins: u32,
    /// The client runs on this machine.
    pub(super) is_local: bool,
    /// Nobody else can read the connection.
    pub(super) is_private: bool,
    /// The verified certificate of the client.
    pub(super) certificate: Option<Arc<PeerCertificate>>,
    /// Reads of the client are inspection (CLIENT NO-TOUCH).
    pub(super) no_touch: bool,
    /// The connection closes after the reply.
    pub(super) closing: bool,
    pub(super) replies: Replies,
    /// Open transaction, between MULTI and EXEC.
    pub(super) transaction: Option<Box<TransactionQueue>>,
    /// A command of a transaction runs; it must not block.
    pub(super) in_exec: bool,
    /// Keys of WATCH.
    pub(super) watch: Option<Box<KeyWatch>>,
    /// Subscriptions of the client.
    pub(super) channels: Option<Box<Channels>>,
}

impl Session {
    /// Creates a session and registers its client until the session is dropped.
    pub(super) fn new(
        shared: &Arc<PortState>,
        address: String,
        local_address: String,
        account: Arc<Account>,
        now: Tick,
    ) -> Self {
        let client = shared.register(address, local_address, account, now);
        let counters = shared.statistics.of_this_thread();
        Self {
            shared: Arc::clone(shared),
            client,
            counters,
            db: 0,
            identity: None,
            failed_logins: 0,
            is_local: false,
            is_private: false,
            certificate: None,
            no_touch: false,
            closing: false,
            replies: Replies::On,
            transaction: None,
            in_exec: false,
            watch: None,
            channels: None,
        }
    }

    /// Returns `true` if GETs of this client are user reads of db 0 that no feature has to see one by one.
    #[inline]
    pub(super) fn reads_plainly(&self) -> bool {
        self.db == 0
            && self.is_authenticated()
            && !self.no_touch
            && self.transaction.is_none()
            && self.replies == Replies::On
            && !self.is_limited()
            && !self.shared.monitors.any()
            && !self.shared.slow.is_fine()
    }

    /// Returns `true` if the client is authenticated, or needs no credentials.
    #[inline]
    pub(super) fn is_authenticated(&self) -> bool {
        self.identity.is_some()
    }

    /// Returns the identity of a client that has sent no credentials on this connection.
    pub(super) fn identity_of_connection(&self, access: &Access) -> Option<Identity> {
        let certified = self.certificate.as_deref().map(PeerCertificate::certified);
        access.of_connection(certified, self.is_local, Protocol::Resp)
    }

    /// Changes the identity of the client.
    pub(super) fn set_identity(&mut self, identity: Option<Identity>) {
        self.identity = identity.map(Arc::new);
        self.client.identity.lock().clone_from(&self.identity);
    }

    /// Records in ACL LOG what the client was refused; by default as the user of the client.
    pub(super) fn note_refused(&self, reason: Reason, object: &[u8], user: Option<Arc<str>>, command: &str, now: Tick) {
        let refused = Refused {
            reason,
            in_transaction: self.transaction.is_some() || self.in_exec,
            object: object.to_vec(),
            user: user.unwrap_or_else(|| self.client.user()),
        };
        self.shared.acl_log.note(refused, &self.client, command, now);
    }

    /// Ends everything that the client has begun with other permissions: the commands of a transaction were checked with them,
    /// and messages of subscriptions and MONITOR are not checked. A subscriber is disconnected, because it would wait for
    /// messages in vain.
    pub(super) fn give_up_for(&mut self, principal: &Principal) {
        if principal.may_everywhere(Verbs::ALL) {
            return;
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.fail();
        }
        self.closing |= self.client.is_subscribed() || self.client.monitors.load(Relaxed);
        if !principal.may_everywhere(Verbs::INSPECT) && self.db == DB_LEARNED {
            self.select(0);
        }
    }

    /// Returns `true` for a RESP2 subscriber, which cannot distinguish replies from messages and may only manage its
    /// subscriptions.
    #[inline]
    pub(super) fn is_limited(&self) -> bool {
        self.channels.is_some() && self.client.is_subscribed() && self.client.protocol.load(Relaxed) == 2
    }

    /// Returns the memory in bytes of the transaction, the watched keys and the subscriptions.
    #[inline]
    pub(super) fn held_bytes(&self) -> usize {
        let transaction = self.transaction.as_ref().map_or(0, |transaction| transaction.bytes());
        let watch = self.watch.as_ref().map_or(0, |watch| watch.bytes());
        let channels = self.channels.as_ref().map_or(0, |channels| channels.bytes());
        transaction + watch + channels
    }

    /// Ends the transaction and removes its watched keys.
    pub(super) fn end_transaction(&mut self) -> Option<Box<TransactionQueue>> {
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

    /// Ends MONITOR.
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
        self.shared.unregister(&self.client);
    }
}
