//! The part of the statistics for a client that may not know about all keys.
//!
//! Such a client sees the key groups whose names begin with one of its prefixes, and totals over these groups. Numbers that
//! are counted for all keys together are 0, because they would tell about the keys of others. The state of the node, such
//! as the connection to L2, is shown to every client.

use super::{
    Calls, Fills, Learning, Requests, Snapshot, Tally, Upkeep, Window, groups::is_seen_by, histogram::Latency,
    load_figures::LoadFigures, whatif::Estimates,
};
use crate::{
    access::Principal,
    cache::{
        coherence::fence::Coherence,
        prefetch::FetchCounts,
        ttl::{touch_on_read::Touches, tuning::Followed},
    },
    l1::Usage,
};

/// Returns the statistics that a client may see.
pub(super) fn of_snapshot(all: Snapshot, principal: &Principal) -> Snapshot {
    if principal.sees_all() {
        return all;
    }
    let is_seen: Vec<bool> = all.groups.iter().map(|group| is_seen_by(principal, &group.name)).collect();
    let groups = seen(all.groups, &is_seen);
    let total = sum(groups.iter().map(|group| &group.tally));
    let l1 = Usage {
        entries: groups.iter().map(|group| group.entries).sum(),
        bytes: groups.iter().map(|group| group.bytes).sum(),
        ..all.l1
    };
    let mut loads = LoadFigures::default();
    groups.iter().filter_map(|group| group.loads.as_ref()).for_each(|figures| loads.add(figures));
    Snapshot {
        loads,
        load_waiters: 0,
        reads: total.reads,
        fills: Fills::default(),
        l1,
        removals: total.removals,
        flavor: all.flavor,
        calls: Calls::default(),
        requests: Requests::default(),
        l2: all.l2,
        health: all.health,
        coherence: Coherence { invalidations: 0, checked: 0, ..all.coherence },
        flights: 0,
        windows: all.windows.into_iter().map(|window| of_window(window, &is_seen)).collect(),
        what_if: Estimates::default(),
        learning: Learning {
            prefetch: all.learning.prefetch.seen_by(principal),
            ttl: Followed::default(),
            touches: Touches::default(),
        },
        groups,
    }
}

fn of_window(all: Window, is_seen: &[bool]) -> Window {
    let groups = seen(all.groups, is_seen);
    Window {
        name: all.name,
        over: all.over,
        total: sum(groups.iter()),
        groups,
        read: Latency::default(),
        write: Latency::default(),
        requests: Requests::default(),
        prefetch: FetchCounts::default(),
        upkeep: Upkeep::default(),
    }
}

/// Returns the groups that are seen. A group that was added in the meantime is not.
fn seen<T>(groups: Vec<T>, is_seen: &[bool]) -> Vec<T> {
    groups.into_iter().zip(is_seen).filter_map(|(group, is_seen)| is_seen.then_some(group)).collect()
}

fn sum<'t>(tallies: impl Iterator<Item = &'t Tally>) -> Tally {
    let mut sum = Tally::default();
    tallies.for_each(|tally| sum.add(tally));
    sum
}
