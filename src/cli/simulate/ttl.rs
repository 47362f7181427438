//! Effects of TTLs on a trace: the TTL that a server would learn, the number of hits later than the recorded TTL, and
//! the time that values were held.

use std::time::Duration;

use hashbrown::HashMap;

use crate::{
    cli::trace::Request,
    clock::{Tick, millis},
    learn::{
        key_template::KeyTemplates,
        recorder::{Happened, Sample},
        ttl::{Advice, Intervals, TtlOffer, TtlSettings},
    },
    model::Key,
};

/// Interval between two updates of the advice in ms of trace time, as on a server.
const ADVISE_EVERY_MS: u64 = 10_000;

/// Learns TTLs as a server does, but from all keys, because a trace is shorter than the traffic of a server. Starts
/// with the minimum TTL and applies advice immediately, without the limit of one hour.
pub(super) struct Tuner {
    settings: TtlSettings,
    intervals: Intervals,
    templates: KeyTemplates,
    /// Advised TTL and longest fresh TTL in ms, by template.
    ttls_ms: HashMap<u64, (u64, u64)>,
    advised_at: Tick,
}

impl Tuner {
    pub(super) fn new(min_ms: u64) -> Self {
        let min = Duration::from_millis(min_ms);
        let settings = TtlSettings::default();
        Self {
            settings: TtlSettings { min, max: settings.max.max(min), ..settings },
            intervals: Intervals::default(),
            templates: KeyTemplates::default(),
            ttls_ms: HashMap::new(),
            advised_at: Tick::ZERO,
        }
    }

    /// Learns from the request and returns the TTL offer for a value of this key.
    pub(super) fn offer(&mut self, key: &[u8], now: Tick) -> TtlOffer {
        let template = self.templates.learn(key);
        if let Ok(key) = Key::copied(key) {
            let name = || template.name(&key);
            self.intervals.note(&key, (template.hash, name), Happened::Hit(Sample::Key), now);
        }
        if now.0.saturating_sub(self.advised_at.0) >= ADVISE_EVERY_MS {
            self.advised_at = now;
            let settings = self.settings;
            let fresh_ms = |advice: &Advice| settings.fresh_ms(advice.change.map(|change| change.mean_ms));
            let advice = self.intervals.advice(&settings);
            self.ttls_ms.extend(advice.iter().map(|advice| (advice.template, (advice.ttl_ms, fresh_ms(advice)))));
        }
        let shortest_ms = millis(self.settings.min);
        let advised = self.ttls_ms.get(&template.hash).copied();
        let (ttl_ms, fresh_ms) = advised.unwrap_or((shortest_ms, u64::MAX));
        TtlOffer { template: template.hash, ttl_ms, is_advised: advised.is_some(), shortest_ms, fresh_ms }
    }
}

/// One value in the cache.
struct Held {
    filled_at: Tick,
    expires_at: Tick,
    /// Time until which the value is fresh according to its recorded TTL.
    right_until: Tick,
    bytes: u64,
}

/// Record of stale hits and held bytes.
#[derive(Default)]
pub(super) struct Ledger {
    held: HashMap<Vec<u8>, Held>,
    stale: u64,
    byte_ms: u128,
    /// Latest time seen, in ms.
    now_ms: u64,
}

impl Ledger {
    /// Records a request. A value counts as held from its fill to its expiry or the next fill.
    pub(super) fn note(&mut self, request: &Request, hit: bool, now: Tick, expires_at: Tick, recorded_ms: Option<u64>) {
        self.now_ms = now.0;
        if hit {
            let is_stale = |held: &Held| now >= held.right_until;
            self.stale += u64::from(self.held.get(&request.key).is_some_and(is_stale));
            return;
        }
        let right_until = recorded_ms.map_or(Tick::FAR, |ms| Tick(now.0 + ms));
        let held = Held { filled_at: now, expires_at, right_until, bytes: request.size };
        if let Some(before) = self.held.insert(request.key.clone(), held) {
            self.byte_ms += before.byte_ms(now.0);
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        self.now_ms > 0
    }

    /// Returns the number of hits later than the recorded TTL.
    pub(super) fn stale(&self) -> u64 {
        self.stale
    }

    /// Returns the sum of bytes times seconds held of all values, as if none had been evicted.
    pub(super) fn byte_seconds(&self) -> f64 {
        let open: u128 = self.held.values().map(|held| held.byte_ms(self.now_ms)).sum();
        (self.byte_ms + open) as f64 / 1e3
    }
}

impl Held {
    fn byte_ms(&self, now_ms: u64) -> u128 {
        let end = self.expires_at.0.min(now_ms);
        u128::from(self.bytes) * u128::from(end.saturating_sub(self.filled_at.0))
    }
}
