//! What TTLs do to a trace: the one that a server would learn, how often a value was older than its recorded TTL, and how
//! long values were held.

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

/// How often advice is made anew, ms of the trace's time: as on a server.
const ADVISE_EVERY_MS: u64 = 10_000;

/// Learns TTLs as a server does, but from all keys: a trace is shorter than what a server sees. It begins with the
/// shortest, and takes advice as it comes, without the bound of an hour.
pub(super) struct Tuner {
    settings: TtlSettings,
    intervals: Intervals,
    templates: KeyTemplates,
    /// What is advised, and what changes allow, by template.
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

    /// What a value of this key would be offered now; learns from the request.
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

/// One value that is held.
struct Held {
    filled_at: Tick,
    expires_at: Tick,
    /// Until when its source said it would be right.
    right_until: Tick,
    bytes: u64,
}

/// What became of values.
#[derive(Default)]
pub(super) struct Ledger {
    held: HashMap<Vec<u8>, Held>,
    stale: u64,
    byte_ms: u128,
    /// The latest time seen.
    now_ms: u64,
}

impl Ledger {
    /// Notes a request. A value counts as held from its fill to its end or the next fill.
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

    /// Hits on what was no longer right.
    pub(super) fn stale(&self) -> u64 {
        self.stale
    }

    /// Bytes times seconds of all values, as if none had been evicted.
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
