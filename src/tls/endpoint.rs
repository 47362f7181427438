//! The current TLS configuration of each port, and its reloads.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_rustls::rustls::ServerConfig;

use super::{
    load::{Loaded, load},
    settings::Settings,
};
use crate::{files::Stamp, socket::Protocol};

/// TLS of the three ports.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// The gRPC port.
    pub grpc: Arc<Endpoint>,
    /// The RESP port.
    pub resp: Arc<Endpoint>,
    /// The HTTP port.
    pub http: Arc<Endpoint>,
}

/// TLS of one port.
pub struct Endpoint {
    /// The port.
    pub port: Protocol,
    /// Handshakes that failed since start.
    pub failed_handshakes: AtomicU64,
    /// Changes of files that were rejected since start.
    pub rejected_reloads: AtomicU64,
    /// Held during a reload, so that one change of a file is read and counted once.
    reloading: Mutex<()>,
    /// The port had TLS at any time.
    was_on: AtomicBool,
    current: ArcSwap<Current>,
}

#[derive(Default)]
struct Current {
    /// `None` = no TLS.
    settings: Option<Settings>,
    loaded: Option<Loaded>,
    /// State of the files when they were last read.
    stamps: Vec<Stamp>,
}

/// Checked TLS of a port that is not in use yet; `None` = the TLS in use stays.
pub struct Prepared(Option<Current>);

impl Default for Endpoints {
    fn default() -> Self {
        let new = |port| Arc::new(Endpoint::new(port));
        Self { grpc: new(Protocol::Grpc), resp: new(Protocol::Resp), http: new(Protocol::Http) }
    }
}

impl Endpoints {
    /// Returns the endpoints in the order of [`Protocol::ALL`].
    #[must_use]
    pub fn all(&self) -> [&Arc<Endpoint>; 3] {
        [&self.grpc, &self.resp, &self.http]
    }

    /// Reads the files that changed since they were last read. A faulty file changes nothing.
    pub fn reload_changed(&self) {
        for endpoint in self.all() {
            endpoint.reload(false);
        }
    }

    /// Reads all files. A faulty file changes nothing.
    pub fn reload_all(&self) {
        for endpoint in self.all() {
            endpoint.reload(true);
        }
    }

    /// Returns whether a port has TLS.
    #[must_use]
    pub fn is_any_on(&self) -> bool {
        self.all().iter().any(|endpoint| endpoint.is_on())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("port", &self.port).field("is_on", &self.is_on()).finish_non_exhaustive()
    }
}

impl Endpoint {
    fn new(port: Protocol) -> Self {
        Self {
            port,
            failed_handshakes: AtomicU64::new(0),
            rejected_reloads: AtomicU64::new(0),
            reloading: Mutex::default(),
            was_on: AtomicBool::new(false),
            current: ArcSwap::default(),
        }
    }

    /// Reads and checks the files of `settings`; `None` = no TLS. The files of settings that are already in use are not
    /// read, so that a faulty file does not prevent changes of other settings.
    ///
    /// # Errors
    /// The faulty file and the reason. The fault is counted if the port has TLS already.
    pub fn prepare(&self, settings: Option<Settings>) -> Result<Prepared, String> {
        if self.current.load().settings == settings {
            return Ok(Prepared(None));
        }
        // The state before the files are read: a change in between is noticed later.
        let stamps = stamps(settings.as_ref());
        let loaded = settings.as_ref().map(|settings| load(self.port, settings)).transpose();
        let loaded = loaded.inspect_err(|_| {
            if self.is_on() {
                self.rejected_reloads.fetch_add(1, Relaxed);
            }
        })?;
        Ok(Prepared(Some(Current { settings, loaded, stamps })))
    }

    /// Uses `prepared` for new connections.
    pub fn install(&self, prepared: Prepared) {
        let Some(next) = prepared.0 else { return };
        self.was_on.fetch_or(next.loaded.is_some(), Relaxed);
        self.current.store(Arc::new(next));
    }

    /// Returns whether the port has TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.current.load().loaded.is_some()
    }

    /// Returns the configuration for a new connection; `None` = no TLS.
    #[must_use]
    pub fn config(&self) -> Option<Arc<ServerConfig>> {
        self.current.load().loaded.as_ref().map(|loaded| Arc::clone(&loaded.config))
    }

    /// Returns the end of the validity of the certificate in seconds since 1970; `None` without TLS.
    #[must_use]
    pub fn not_after(&self) -> Option<u64> {
        self.current.load().loaded.as_ref().map(|loaded| loaded.not_after)
    }

    /// Returns whether the port had TLS at any time since start.
    #[must_use]
    pub fn was_on(&self) -> bool {
        self.was_on.load(Relaxed)
    }

    fn reload(&self, even_unchanged: bool) {
        let _one_at_a_time = self.reloading.lock();
        let before = self.current.load_full();
        let (Some(settings), Some(kept)) = (&before.settings, &before.loaded) else { return };
        let stamps = stamps(Some(settings));
        if stamps == before.stamps && !even_unchanged {
            return;
        }
        let port = self.port.name();
        let loaded = match load(self.port, settings) {
            Ok(loaded) => {
                tracing::info!(port, not_after = loaded.not_after, "loaded TLS files");
                loaded
            }
            Err(error) => {
                self.rejected_reloads.fetch_add(1, Relaxed);
                tracing::error!(port, %error, "rejected TLS files; keeping the current certificate");
                Loaded { config: Arc::clone(&kept.config), not_after: kept.not_after }
            }
        };
        let next = Arc::new(Current { settings: Some(settings.clone()), loaded: Some(loaded), stamps });
        // New settings that were installed at the same time take precedence.
        let _replaced = self.current.compare_and_swap(&before, next);
    }
}

fn stamps(settings: Option<&Settings>) -> Vec<Stamp> {
    settings.into_iter().flat_map(Settings::files).map(|file| Stamp::of(&file.path)).collect()
}
