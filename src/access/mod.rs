//! Access control: who may do what.
//!
//! A port authenticates ([`Access::of_connection`], [`Access::log_in`]) and receives an [`Identity`]: the user and its
//! [`Principal`], the permissions. The facade authorizes: each handle of the cache carries the principal of its client, so
//! that all ports use the same checks. Each change of the users file, the configuration or the clock (expiry) starts a new
//! generation; a port then asks for the [current](Access::current) identity, and ends what the client may no longer do.

mod authorization;
mod principal;
mod secret_hash;
mod users_file;
mod verbs;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

pub use self::{
    authorization::Credentials,
    principal::{Denials, Prefixes, Principal},
    secret_hash::{SecretHash, is_same, new_token, random_digits},
    users_file::{BUILT_IN_ROLES, User, Users},
    verbs::Verbs,
};
use crate::{clock::Clock, files::Stamp, secret::Secret, socket::Protocol};

/// Interval at which the users file is checked. A change takes effect when two checks have seen the same file.
pub const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of intervals between checks in which a reload waits for a users file that is being written.
const RELOAD_CHECKS_MAX: u32 = 5;
/// Delay of the response to the first failed login of a connection. Each further failure doubles the delay.
const FAILED_LOGIN_DELAY: Duration = Duration::from_millis(100);
/// Maximum delay of the response to a failed login.
const FAILED_LOGIN_DELAY_MAX: Duration = Duration::from_secs(3);
/// Number of users with metrics of their own; further users share the name `other`.
const COUNTED_USERS_MAX: usize = 256;
/// Name of the user of `resp.password_file`, as in Redis.
pub const DEFAULT_USER: &str = "default";
/// Name in logs for a user that does not exist: the text of the client may be a secret that was typed in the wrong place.
pub const UNKNOWN_USER: &str = "unknown";
/// Name of clients on this machine without credentials.
const LOCAL: &str = "local";
/// Name of other clients without credentials.
const ANONYMOUS: &str = "anonymous";

/// Role of clients without credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum GuestRole {
    /// The default.
    #[default]
    Auto,
    /// No access.
    None,
    /// This role.
    Role(String),
}

/// Settings of access control.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessSettings {
    /// The users file.
    pub file: Option<PathBuf>,
    /// Role of clients on this machine without credentials.
    pub local: GuestRole,
    /// Role of other clients without credentials.
    pub anonymous: GuestRole,
    /// Accept secrets on connections from other machines without TLS.
    pub accepts_plaintext: bool,
    /// The password of the RESP port.
    pub password: Option<Secret<Vec<u8>>>,
}

/// The client's end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'p> {
    /// Address, for logs.
    pub address: &'p str,
    /// The client runs on this machine.
    pub is_local: bool,
    /// Nobody else can read the connection: TLS, loopback or a Unix socket.
    pub is_private: bool,
}

/// Proof of an identity, kept to check it again.
#[derive(Debug, Clone)]
enum Login {
    Secret(SecretHash),
    /// A name in a client certificate, and the end of its validity in milliseconds since 1970.
    Certificate(String, u64),
    /// The password of the RESP port.
    Password(Secret<Vec<u8>>),
    Guest {
        is_local: bool,
        port: Protocol,
    },
}

/// An authenticated client.
#[derive(Debug, Clone)]
pub struct Identity {
    login: Login,
    principal: Arc<Principal>,
    generation: u64,
}

impl Identity {
    /// Returns the permissions.
    #[must_use]
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }
}

/// Reason why a login failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginFailure {
    /// The secret is of no user, or of another user than the named one, or the user has expired.
    Wrong,
    /// Others can read the connection.
    Plaintext,
}

impl LoginFailure {
    /// Returns the reason, for the client.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Wrong => "the credentials are not valid",
            Self::Plaintext => {
                "credentials are accepted over TLS, loopback and Unix sockets only; use TLS, or set auth.plaintext = \"allow\""
            }
        }
    }
}

/// Users and roles of the server.
#[derive(Debug)]
pub struct Access {
    state: ArcSwap<State>,
    generation: watch::Sender<u64>,
    /// The current generation, which each request compares.
    current: AtomicU64,
    clock: Clock,
    /// First end of a certificate in use, in milliseconds since 1970.
    next_end_ms: AtomicU64,
    /// Held during a reload.
    loading: Mutex<FileState>,
    denials: DenialCounts,
    accepted: [AtomicU64; 3],
    failed: [AtomicU64; 3],
    rejected_files: AtomicU64,
}

#[derive(Debug)]
struct State {
    settings: AccessSettings,
    users: Users,
    local: Option<Arc<Principal>>,
    anonymous: Option<Arc<Principal>>,
    /// The user of the password of the RESP port.
    default: Arc<Principal>,
}

/// The users file as the last check saw it, and as it was read.
#[derive(Debug)]
struct FileState {
    seen: Option<Stamp>,
    loaded: Option<Stamp>,
}

/// Counters of rejected operations by user. They outlive reloads.
#[derive(Debug, Default)]
struct DenialCounts(Mutex<HashMap<Arc<str>, Arc<Denials>>>);

impl DenialCounts {
    /// Returns the principal with the counters of its user.
    fn counted(&self, principal: Principal) -> Arc<Principal> {
        let mut counts = self.0.lock();
        let is_surplus = counts.len() >= COUNTED_USERS_MAX && !counts.contains_key(principal.name());
        let name = if is_surplus { Arc::from("other") } else { Arc::clone(principal.name()) };
        Arc::new(principal.counted_by(Arc::clone(counts.entry(name).or_default())))
    }
}

impl Access {
    /// Reads the users file and checks the settings.
    ///
    /// # Errors
    /// The faults, each with its place.
    pub fn new(settings: AccessSettings, clock: Clock) -> Result<Arc<Self>, Vec<String>> {
        let stamp = settings.file.as_deref().map(Stamp::of);
        let denials = DenialCounts::default();
        let state = State::read(settings, &denials)?;
        let access = Self {
            state: ArcSwap::from_pointee(state),
            generation: watch::Sender::new(1),
            current: AtomicU64::new(1),
            clock,
            next_end_ms: AtomicU64::new(u64::MAX),
            loading: Mutex::new(FileState { seen: stamp.clone(), loaded: stamp }),
            denials,
            accepted: Default::default(),
            failed: Default::default(),
            rejected_files: AtomicU64::new(0),
        };
        Ok(Arc::new(access))
    }

    /// Returns whether these settings are in use.
    #[must_use]
    pub fn uses(&self, settings: &AccessSettings) -> bool {
        self.state.load().settings == *settings
    }

    /// Waits until the users file of new settings has been completely written, as [`Access::follow_file`] does: two checks
    /// see the same file. Does not wait for the file that is in use.
    ///
    /// # Errors
    /// The file changed between all checks, which is counted.
    pub async fn wait_for_file(&self, settings: &AccessSettings) -> Result<(), String> {
        let Some(path) = &settings.file else { return Ok(()) };
        let mut seen = stamp_of(path).await;
        if self.loading.lock().loaded == seen {
            return Ok(());
        }
        for _ in 0..RELOAD_CHECKS_MAX {
            tokio::time::sleep(FILE_CHECK_INTERVAL).await;
            let found = stamp_of(path).await;
            if found == seen {
                return Ok(());
            }
            seen = found;
        }
        self.rejected_files.fetch_add(1, Relaxed);
        let within = FILE_CHECK_INTERVAL * RELOAD_CHECKS_MAX;
        Err(format!("auth.file: {} is still being written after {} s", path.display(), within.as_secs()))
    }

    /// Replaces the settings and reads the users file again. Faulty settings change nothing.
    ///
    /// # Errors
    /// As [`Access::new`].
    pub fn reload(&self, settings: AccessSettings) -> Result<(), Vec<String>> {
        let mut loading = self.loading.lock();
        let stamp = settings.file.as_deref().map(Stamp::of);
        let state = State::read(settings, &self.denials).inspect_err(|_| {
            self.rejected_files.fetch_add(1, Relaxed);
        })?;
        *loading = FileState { seen: stamp.clone(), loaded: stamp };
        self.state.store(Arc::new(state));
        self.begin_generation();
        Ok(())
    }

    /// Reads the users file again if it has changed before the previous call: an editor or a script may truncate the file
    /// before it writes the new contents, and a part of a file may be valid. A faulty file changes nothing and is logged once.
    pub fn follow_file(&self) {
        let state = self.state.load_full();
        let Some(path) = &state.settings.file else { return };
        let found = Stamp::of(path);
        let is_settled = {
            let mut loading = self.loading.lock();
            let is_settled = loading.seen.as_ref() == Some(&found) && loading.loaded.as_ref() != Some(&found);
            if is_settled {
                loading.loaded = Some(found.clone());
            }
            loading.seen = Some(found);
            is_settled
        };
        if is_settled {
            match self.reload(state.settings.clone()) {
                Ok(()) => tracing::info!(path = %path.display(), "reloaded the users file"),
                Err(faults) => {
                    for fault in &faults {
                        tracing::error!("auth.file: {fault}");
                    }
                    tracing::error!("rejected the users file; keeping the current users");
                }
            }
        }
    }

    /// Starts a new generation if a user or a certificate expired between `since_ms` and now. Returns the current time.
    pub fn end_expired(&self, since_ms: u64) -> u64 {
        let now_ms = self.clock.unix().0;
        let state = self.state.load();
        let is_over = |user: &Arc<User>| user.expires_at_ms.is_some_and(|at| since_ms < at && at <= now_ms);
        let is_certificate_over = self.next_end_ms.load(Relaxed) < now_ms;
        if is_certificate_over {
            // Connections that go on set it again.
            self.next_end_ms.store(u64::MAX, Relaxed);
        }
        if is_certificate_over || state.users.by_name.values().any(is_over) {
            self.begin_generation();
        }
        now_ms
    }

    fn begin_generation(&self) {
        self.generation.send_modify(|generation| {
            *generation += 1;
            self.current.store(*generation, Release);
        });
    }

    /// Returns a receiver that is notified of each new generation.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Returns whether a users file is in use.
    #[must_use]
    pub fn has_users(&self) -> bool {
        self.state.load().settings.file.is_some()
    }

    /// Returns the path of the users file.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        self.state.load().settings.file.clone()
    }

    /// Returns whether the RESP port has a password.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.state.load().settings.password.is_some()
    }

    /// Returns whether clients without credentials have a role that was set explicitly.
    #[must_use]
    pub fn decides_about_guests(&self) -> bool {
        self.state.load().settings.anonymous != GuestRole::Auto
    }

    /// Returns the name of a user that exists: one of the users file, or `default`.
    #[must_use]
    pub fn known_user(&self, name: &[u8]) -> Option<Arc<str>> {
        let name = std::str::from_utf8(name).ok()?;
        let state = self.state.load();
        let known = state.users.by_name.get_key_value(name).map(|(known, _)| Arc::clone(known));
        known.or_else(|| (name == DEFAULT_USER).then(|| name.into()))
    }

    /// Returns the names of all users, sorted.
    #[must_use]
    pub fn user_names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.state.load().users.by_name.keys().cloned().collect();
        names.sort();
        names
    }

    /// Returns the permissions of a user, and its number of secrets.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<(Arc<Principal>, usize)> {
        let state = self.state.load();
        state.users.by_name.get(name).map(|user| (Arc::clone(&user.principal), user.secrets.len()))
    }

    /// Returns the identity of a connection whose client has sent no credentials: the user of its certificate, given as its names
    /// and the end of its validity in seconds since 1970, or else a guest. `None` if guests have no access to the port. With a
    /// password, the RESP port gives them none.
    #[must_use]
    pub fn of_connection(
        &self,
        certificate: Option<(&[String], u64)>,
        is_local: bool,
        port: Protocol,
    ) -> Option<Identity> {
        let of_certificate = certificate.and_then(|(names, not_after_s)| self.of_certificate(names, not_after_s));
        of_certificate.or_else(|| self.identity(Login::Guest { is_local, port }))
    }

    /// Returns the identity of the user with a name in a client certificate: `uri:...` or `dns:...`.
    fn of_certificate(&self, names: &[String], not_after_s: u64) -> Option<Identity> {
        let not_after_ms = not_after_s.saturating_mul(1_000);
        names.iter().find_map(|name| self.identity(Login::Certificate(name.clone(), not_after_ms)))
    }

    /// Authenticates a client by a secret, and by the name of its user if it is given.
    ///
    /// # Errors
    /// The failure, which is counted and logged. The port delays its answer by [`Access::delay`].
    pub fn log_in(
        &self,
        user: Option<&[u8]>,
        secret: &[u8],
        port: Protocol,
        peer: Peer<'_>,
    ) -> Result<Identity, LoginFailure> {
        let result = self.try_log_in(user, secret, port, peer);
        match &result {
            Ok(_) => self.accepted[port as usize].fetch_add(1, Relaxed),
            Err(failure) => {
                let known = user.and_then(|user| self.known_user(user));
                tracing::warn!(
                    port = port.name(),
                    peer = peer.address,
                    user = known.as_deref().unwrap_or(UNKNOWN_USER),
                    reason = failure.reason(),
                    "failed login"
                );
                self.failed[port as usize].fetch_add(1, Relaxed)
            }
        };
        result
    }

    fn try_log_in(
        &self,
        user: Option<&[u8]>,
        secret: &[u8],
        port: Protocol,
        peer: Peer<'_>,
    ) -> Result<Identity, LoginFailure> {
        let state = self.state.load();
        if let Some(password) = &state.settings.password
            && port == Protocol::Resp
            && user.is_none_or(|user| user == DEFAULT_USER.as_bytes())
        {
            let is_right = is_same(password.expose(), secret);
            return is_right
                .then(|| self.identity(Login::Password(password.clone())))
                .flatten()
                .ok_or(LoginFailure::Wrong);
        }
        if !peer.is_private && !state.settings.accepts_plaintext {
            return Err(LoginFailure::Plaintext);
        }
        let identity = self.identity(Login::Secret(SecretHash::of(secret))).ok_or(LoginFailure::Wrong)?;
        if user.is_some_and(|user| user != identity.principal.name().as_bytes()) {
            return Err(LoginFailure::Wrong);
        }
        Ok(identity)
    }

    /// Returns the identity with its current permissions; `None` if it is no longer valid.
    #[inline]
    #[must_use]
    pub fn current(&self, identity: &Identity) -> Option<Identity> {
        if self.is_current(identity) { Some(identity.clone()) } else { self.identity(identity.login.clone()) }
    }

    /// Returns whether nothing has changed since the identity was checked.
    #[inline]
    #[must_use]
    pub fn is_current(&self, identity: &Identity) -> bool {
        identity.generation == self.current.load(Acquire)
    }

    fn identity(&self, login: Login) -> Option<Identity> {
        // Read first: a change after this is found by the next check.
        let generation = self.current.load(Acquire);
        let state = self.state.load();
        let now_ms = self.clock.unix().0;
        let valid = |user: &Arc<User>| {
            let is_over = user.expires_at_ms.is_some_and(|at| at <= now_ms);
            (!is_over).then(|| Arc::clone(&user.principal))
        };
        if let Login::Certificate(_, not_after_ms) = &login {
            self.next_end_ms.fetch_min(*not_after_ms, Relaxed);
        }
        let principal = match &login {
            Login::Secret(secret) => state.users.by_secret.get(secret).and_then(valid)?,
            Login::Certificate(name, not_after_ms) if now_ms <= *not_after_ms => {
                state.users.by_certificate.get(name).and_then(valid)?
            }
            Login::Certificate(..) => return None,
            Login::Password(password) => {
                state.settings.password.as_ref().filter(|current| *current == password)?;
                Arc::clone(&state.default)
            }
            Login::Guest { port: Protocol::Resp, .. } if state.settings.password.is_some() => return None,
            Login::Guest { is_local: true, .. } => state.local.clone()?,
            Login::Guest { is_local: false, .. } => state.anonymous.clone()?,
        };
        Some(Identity { login, principal, generation })
    }

    /// Returns the delay of the answer to the failed login with this number on its connection, from 1.
    #[must_use]
    pub fn delay(failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        FAILED_LOGIN_DELAY.saturating_mul(factor).min(FAILED_LOGIN_DELAY_MAX)
    }

    /// Returns the number of accepted and of failed logins on a port since the start.
    #[must_use]
    pub fn logins(&self, port: Protocol) -> (u64, u64) {
        (self.accepted[port as usize].load(Relaxed), self.failed[port as usize].load(Relaxed))
    }

    /// Returns the number of rejected operations by user and verb.
    #[must_use]
    pub fn denials(&self) -> Vec<(Arc<str>, &'static str, u64)> {
        let denials = self.denials.0.lock();
        denials
            .iter()
            .flat_map(|(user, counts)| counts.counts().map(|(verb, count)| (Arc::clone(user), verb, count)))
            .collect()
    }

    /// Returns the number of users files that were rejected since the start.
    #[must_use]
    pub fn rejected_files(&self) -> u64 {
        self.rejected_files.load(Relaxed)
    }
}

/// Returns the state of a path, whose file system may not answer.
async fn stamp_of(path: &Path) -> Option<Stamp> {
    let path = path.to_owned();
    // Fails only if the runtime ends.
    tokio::task::spawn_blocking(move || Stamp::of(&path)).await.ok()
}

impl State {
    fn read(settings: AccessSettings, denials: &DenialCounts) -> Result<Self, Vec<String>> {
        let users = match &settings.file {
            Some(path) => Users::read(path, |principal| denials.counted(principal))?,
            None => Users::default(),
        };
        let mut faults = Vec::new();
        let has_file = settings.file.is_some();
        let mut guest = |role: &GuestRole, key: &str, name: &str, default: Option<Principal>| match role {
            GuestRole::Auto => default,
            GuestRole::None => None,
            GuestRole::Role(role) => {
                let found = users.role(role, name);
                if found.is_none() {
                    let known = BUILT_IN_ROLES.join(", ");
                    faults.push(format!("{key}: unknown role {role:?}; expected none, {known} or a role of auth.file"));
                }
                found
            }
        };
        let local = guest(&settings.local, "auth.local", LOCAL, (!has_file).then(|| Principal::admin(LOCAL)));
        let anonymous = guest(&settings.anonymous, "auth.anonymous", ANONYMOUS, None);
        if !faults.is_empty() {
            return Err(faults);
        }
        let counted = |principal| denials.counted(principal);
        let default = counted(Principal::admin(DEFAULT_USER));
        Ok(Self { users, local: local.map(counted), anonymous: anonymous.map(counted), default, settings })
    }
}
