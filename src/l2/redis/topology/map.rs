//! The topology map: the primaries and the keys that each of them holds. One per process; every call reads it without a
//! lock.
//!
//! A single server is a map of one primary that never changes. With Sentinel, the map has one primary that may be
//! replaced; a Redis Cluster has several primaries, which share 16,384 slots. The finders (`sentinel`, `cluster`)
//! install new maps; each worker selects its connections by the map, and the invalidation links follow it (`follow`).
//!
//! **Order of a change** (point 9 of the coherence protocol): first the epoch of every primary that gains or loses
//! slots ends, then the new map becomes visible. Therefore, a read that uses the new map fills L1 in an epoch that
//! started after the change, and a value that was read by the old map is not kept.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};

use super::slots::slot;
use crate::l2::{
    ChangeSink, Source,
    redis::{bans::records::stamp, requests::circuit_breaker::CircuitBreaker, url::Endpoint},
};

/// Marks a slot that no primary serves.
const NOBODY: u8 = u8::MAX;

/// One primary.
#[derive(Debug)]
pub(crate) struct Primary {
    pub(crate) source: Source,
    pub(crate) endpoint: Endpoint,
    pub(crate) breaker: CircuitBreaker,
}

/// Primaries and their slots at some moment.
#[derive(Debug, Default)]
pub(crate) struct Map {
    /// Increases whenever primaries or slots change.
    pub(crate) version: u64,
    /// Epoch of the cluster that this map represents.
    pub(crate) epoch: u64,
    pub(crate) primaries: Vec<Arc<Primary>>,
    /// Source number of each slot; `None` if one primary holds all keys.
    slots: Option<Box<[u8]>>,
    /// Key of each primary's stamp (`bans`) in a cluster, for primaries with slots.
    stamps: Vec<(Source, Vec<u8>)>,
}

/// Returns the keys of the stamps: one per source, in the first slot of the source.
fn stamps_of(slots: &[u8]) -> Vec<(Source, Vec<u8>)> {
    let mut stamps: Vec<(Source, Vec<u8>)> = Vec::new();
    for (slot, number) in slots.iter().enumerate() {
        if let Some(source) = Source::new((*number).into())
            && !stamps.iter().any(|(known, _)| *known == source)
        {
            stamps.push((source, stamp(slot as u16)));
        }
    }
    stamps
}

impl Map {
    /// Returns the primary that holds this key.
    pub(crate) fn of_key(&self, key: &[u8]) -> Option<&Arc<Primary>> {
        match &self.slots {
            None => self.primaries.first(),
            Some(_) => self.of_slot(slot(key)),
        }
    }

    /// Returns the primary that holds this slot.
    pub(crate) fn of_slot(&self, slot: u16) -> Option<&Arc<Primary>> {
        match &self.slots {
            None => self.primaries.first(),
            Some(slots) => self.by_number(slots[usize::from(slot)]),
        }
    }

    fn by_number(&self, number: u8) -> Option<&Arc<Primary>> {
        self.primaries.iter().find(|primary| primary.source.index() == usize::from(number))
    }

    pub(crate) fn of_source(&self, source: Source) -> Option<&Arc<Primary>> {
        self.primaries.iter().find(|primary| primary.source == source)
    }

    /// Returns the key of a cluster primary's stamp.
    pub(crate) fn stamp(&self, source: Source) -> Option<&[u8]> {
        self.stamps.iter().find(|(known, _)| *known == source).map(|(_, stamp)| &stamp[..])
    }

    /// Returns the keys of all stamps.
    pub(crate) fn stamps(&self) -> Vec<Vec<u8>> {
        self.stamps.iter().map(|(_, stamp)| stamp.clone()).collect()
    }

    pub(crate) fn at(&self, endpoint: &Endpoint) -> Option<&Arc<Primary>> {
        self.primaries.iter().find(|primary| primary.endpoint == *endpoint)
    }

    /// Returns the primary that holds all keys, if one does.
    pub(crate) fn only(&self) -> Option<&Arc<Primary>> {
        if self.slots.is_none() { self.primaries.first() } else { None }
    }
}

/// Topology as reported by a cluster or Sentinels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) epoch: u64,
    pub(crate) primaries: Vec<Endpoint>,
    /// Index of each slot's primary; `None` if the only primary holds all keys.
    pub(crate) slots: Option<Vec<Option<usize>>>,
}

/// The current map, and the tasks that wait for a newer one.
#[derive(Debug)]
pub(crate) struct Topology {
    map: ArcSwap<Map>,
    /// Source numbers in use, including those of primaries whose links have not ended yet.
    taken: Mutex<Vec<Source>>,
    changed: watch::Sender<u64>,
    asked: watch::Sender<u64>,
    answered: watch::Sender<u64>,
}

impl Topology {
    /// Creates an empty topology.
    pub(crate) fn unknown() -> Self {
        Self {
            map: ArcSwap::from_pointee(Map::default()),
            taken: Mutex::new(Vec::new()),
            changed: watch::Sender::new(0),
            asked: watch::Sender::new(0),
            answered: watch::Sender::new(0),
        }
    }

    /// Creates the topology of one server that holds all keys and is never replaced.
    pub(crate) fn fixed(endpoint: Endpoint) -> Self {
        let topology = Self::unknown();
        let primary = Primary { source: Source::ONLY, endpoint, breaker: CircuitBreaker::default() };
        let map = Map { version: 1, primaries: vec![Arc::new(primary)], ..Map::default() };
        topology.map.store(Arc::new(map));
        topology.changed.send_replace(1);
        topology
    }

    pub(crate) fn map(&self) -> arc_swap::Guard<Arc<Map>> {
        self.map.load()
    }

    /// Returns a receiver that is notified of each new map.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Requests a refresh, because something contradicts the map.
    pub(crate) fn ask(&self) {
        self.asked.send_modify(|number| *number += 1);
    }

    /// Requests a refresh and waits for it; returns `false` if none completes within `patience`.
    pub(crate) async fn refreshed(&self, patience: Duration) -> bool {
        self.ask();
        let wanted = *self.asked.borrow();
        let mut answered = self.answered.subscribe();
        timeout(patience, answered.wait_for(|number| *number >= wanted)).await.is_ok_and(|seen| seen.is_ok())
    }

    /// Returns a receiver of refresh requests, for the finder.
    pub(crate) fn questions(&self) -> watch::Receiver<u64> {
        self.asked.subscribe()
    }

    /// Completes all refresh requests up to this number.
    pub(crate) fn answer(&self, number: u64) {
        self.answered.send_replace(number);
    }

    /// Makes a new map visible, after `sink` has ended the epochs of all primaries whose slots change.
    ///
    /// # Errors
    /// If there are more primaries than Terrace can follow; the map does not change then.
    pub(crate) fn install(&self, view: &View, sink: &dyn ChangeSink) -> Result<(), String> {
        let mut taken = self.taken.lock();
        let old = self.map.load_full();
        let primaries = assign(view, &old, &mut taken)?;
        let slots = view.slots.as_ref().map(|slots| {
            let number = |at: &Option<usize>| at.map_or(NOBODY, |at| primaries[at].source.index() as u8);
            slots.iter().map(number).collect::<Box<[u8]>>()
        });
        let is_same = slots == old.slots && same_primaries(&primaries, &old.primaries);
        if !is_same {
            for source in concerned(&old, &primaries, slots.as_deref()) {
                sink.flushed(source);
            }
        }
        let version = old.version + u64::from(!is_same);
        let stamps = slots.as_deref().map(stamps_of).unwrap_or_default();
        self.map.store(Arc::new(Map { version, epoch: view.epoch, primaries, slots, stamps }));
        if !is_same {
            self.changed.send_replace(version);
        }
        Ok(())
    }

    /// Makes a source number available again, after the link of its removed primary has ended.
    pub(crate) fn release(&self, source: Source) {
        self.taken.lock().retain(|taken| *taken != source);
    }
}

/// Returns the primaries of the view: known primaries unchanged, new primaries with unused source numbers.
fn assign(view: &View, old: &Map, taken: &mut Vec<Source>) -> Result<Vec<Arc<Primary>>, String> {
    let mut primaries = Vec::with_capacity(view.primaries.len());
    for endpoint in &view.primaries {
        if let Some(known) = old.at(endpoint) {
            primaries.push(Arc::clone(known));
            continue;
        }
        let source = Source::all()
            .find(|source| !taken.contains(source))
            .ok_or_else(|| format!("the Redis Cluster has more primaries than the maximum of {}", Source::MAX))?;
        taken.push(source);
        primaries.push(Arc::new(Primary { source, endpoint: endpoint.clone(), breaker: CircuitBreaker::default() }));
    }
    Ok(primaries)
}

fn same_primaries(new: &[Arc<Primary>], old: &[Arc<Primary>]) -> bool {
    new.len() == old.len() && new.iter().all(|primary| old.iter().any(|known| known.source == primary.source))
}

/// Returns the sources whose set of keys changes.
fn concerned(old: &Map, primaries: &[Arc<Primary>], slots: Option<&[u8]>) -> Vec<Source> {
    let everyone = || old.primaries.iter().chain(primaries).map(|primary| primary.source).collect::<Vec<_>>();
    let mut sources = match (old.slots.as_deref(), slots) {
        (Some(before), Some(after)) => {
            let changed = before.iter().zip(after).filter(|(before, after)| before != after);
            changed.flat_map(|(before, after)| [*before, *after]).filter_map(|n| Source::new(n.into())).collect()
        }
        (None, None) => everyone()
            .into_iter()
            .filter(|s| old.of_source(*s).is_none() || !primaries.iter().any(|p| p.source == *s))
            .collect(),
        (Some(_), None) | (None, Some(_)) => everyone(),
    };
    sources.sort_unstable();
    sources.dedup();
    sources
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l2::{Ban, redis::topology::slots::SLOTS};

    /// Records flushed sources.
    #[derive(Default)]
    struct Sink(Mutex<Vec<usize>>);

    impl ChangeSink for Sink {
        fn invalidated(&self, _key: &[u8]) {}
        fn flushed(&self, source: Source) {
            self.0.lock().push(source.index());
        }
        fn banned(&self, _ban: &Arc<Ban>) {}
    }

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::Tcp("127.0.0.1".to_owned(), port)
    }

    /// Returns a view in which the slots up to `border` belong to the first primary and the others to the second.
    fn halves(epoch: u64, ports: [u16; 2], border: usize) -> View {
        let slots = (0..SLOTS).map(|slot| Some(usize::from(slot >= border))).collect();
        View { epoch, primaries: ports.map(endpoint).to_vec(), slots: Some(slots) }
    }

    fn port_of(topology: &Topology, key: &[u8]) -> u16 {
        match &topology.map().of_key(key).unwrap().endpoint {
            Endpoint::Tcp(_, port) => *port,
            Endpoint::Unix(_) => 0,
        }
    }

    #[test]
    fn a_change_of_slots_ends_the_epochs_of_those_concerned_and_of_nobody_else() {
        let (topology, sink) = (Topology::unknown(), Sink::default());
        topology.install(&halves(1, [7000, 7001], 8_000), &sink).unwrap();
        assert_eq!((port_of(&topology, b"foo"), port_of(&topology, b"foo{hash_tag}")), (7001, 7000));
        sink.0.lock().clear();
        topology.install(&halves(2, [7000, 7001], 8_000), &sink).unwrap();
        assert!(sink.0.lock().is_empty(), "only the cluster's epoch is new");
        assert_eq!((topology.map().epoch, topology.map().version), (2, 1));
        topology.install(&halves(3, [7000, 7001], 13_000), &sink).unwrap();
        assert_eq!(*sink.0.lock(), [0, 1]);
        assert_eq!(port_of(&topology, b"foo"), 7000);
    }

    #[test]
    fn a_primary_that_takes_over_gets_a_number_of_its_own() {
        let (topology, sink) = (Topology::unknown(), Sink::default());
        topology.install(&halves(1, [7000, 7001], 8_000), &sink).unwrap();
        sink.0.lock().clear();
        topology.install(&halves(2, [7002, 7001], 8_000), &sink).unwrap();
        assert_eq!(*sink.0.lock(), [0, 2], "the old one's slots went to the new one; 7001 keeps its copies");
        topology.release(Source::ONLY);
        topology.install(&halves(3, [7003, 7001], 8_000), &sink).unwrap();
        assert_eq!(topology.map().at(&endpoint(7003)).unwrap().source, Source::ONLY);
    }

    #[test]
    fn behind_sentinels_one_primary_follows_another() {
        let (topology, sink) = (Topology::unknown(), Sink::default());
        let view = |epoch, port| View { epoch, primaries: vec![endpoint(port)], slots: None };
        topology.install(&view(1, 7000), &sink).unwrap();
        topology.install(&view(2, 7001), &sink).unwrap();
        assert_eq!(port_of(&topology, b"any"), 7001);
        assert!(topology.map().only().is_some());
        assert_eq!(*sink.0.lock(), [0, 0, 1]);
    }

    #[test]
    fn more_primaries_than_can_be_followed_are_refused_by_name() {
        let (topology, sink) = (Topology::unknown(), Sink::default());
        let primaries: Vec<Endpoint> = (0..=Source::MAX as u16).map(endpoint).collect();
        let view = View { epoch: 1, primaries, slots: Some(vec![None; SLOTS]) };
        assert!(topology.install(&view, &sink).unwrap_err().contains("more primaries"));
        assert_eq!(topology.map().version, 0);
    }
}
