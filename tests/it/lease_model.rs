//! A model of load leases: an exhaustive search of all interleavings of a few operations on one key.
//!
//! **Invariant.** After an invalidation is acknowledged, no key shows a value that a load read before that invalidation
//! began, whether the value was stored before or after the acknowledgement. While Redis keeps the record, at most one
//! client has an exclusive grant. Not included: changes by other clients of Redis that leave no trace (the value, its
//! length and its expiration time are as before), and writes that Redis itself loses.
//!
//! **Worlds.** Each module models one group of rules; a state of one world has only what these rules need:
//! * [`fencing`]: writes, loads, takeovers, the end of leases, lost records, failovers, FLUSHDB;
//! * [`first_use`]: the marker, and nodes that omit the DEL of the record;
//! * [`bans`]: pattern bans around an acquire and a fill, standalone and in a cluster;
//! * [`tags`]: tag ids around a load;
//! * [`waiters`]: wake-ups, and flights that an invalidation detaches;
//! * [`slots`]: a slot of a cluster that moves.
//!
//! **The protocol** of each world has no violation. Each **shortcut** removes one rule, and the search finds a violation.
//! A **redundant** rule can be removed alone, because another rule prevents the same fault. `cargo test lease_model --
//! --nocapture` prints the number of states, and the shortest path to each violation. `TERRACE_CHECK_FULL=1` searches
//! larger worlds.

mod bans;
mod fencing;
mod first_use;
mod search;
mod slots;
mod tags;
mod waiters;

use self::{
    fencing::{Epoch, NOTHING},
    search::{Search, World},
};
use crate::support::setting_from_environment;

/// Searches a world that must have no violation.
fn holds<S: World>(name: &str, start: S, rules: &S::Rules) {
    let search = Search::run(start, rules);
    println!("{name}: {search}");
    assert!(search.trace.is_none(), "{name}: {search}");
    assert!(search.shows_load, "{name}: no load is ever shown after an invalidation");
}

/// Searches a world without one of its rules: there must be a violation.
fn fails<S: World>(name: &str, start: S, rules: S::Rules) {
    let search = Search::run(start, &rules);
    println!("without a rule: {name}: {search}");
    assert!(search.trace.is_some(), "no violation found: {name}");
}

/// Searches a world without one of its rules, of which another one prevents the same fault.
fn still_holds<S: World>(name: &str, start: S, rules: S::Rules) {
    let search = Search::run(start, &rules);
    println!("without a redundant rule: {name}: {search}");
    assert!(search.trace.is_none(), "{name}: {search}");
}

/// Returns the larger of two bounds for a full search.
fn bound<T>(usual: T, full: T) -> T {
    if setting_from_environment("TERRACE_CHECK_FULL", 0) == 1 { full } else { usual }
}

/// Writes around loads.
const WRITES: fencing::Scope = fencing::Scope { loaders: 2, writers: 2, initial: true, expiry: true, ..NOTHING };
/// Takeovers while another client writes to Redis.
const TAKEOVERS: fencing::Scope = fencing::Scope { loaders: 3, writers: 1, direct: 1, initial: true, ..NOTHING };
/// Leases that end in each way, and negative answers.
const ENDS: fencing::Scope =
    fencing::Scope { loaders: 2, writers: 1, ends: true, lost_replies: true, absent: true, ..NOTHING };
/// Many clients that refresh.
const STORM: fencing::Scope = fencing::Scope { loaders: 3, ends: true, initial: true, ..NOTHING };
/// Redis loses what it stores.
const LOSSES: fencing::Scope =
    fencing::Scope { loaders: 2, writers: 1, evictions: 1, flushes: 1, failovers: 1, ..NOTHING };
/// A primary that becomes the primary again.
const FAILOVERS: fencing::Scope = fencing::Scope { loaders: 2, writers: 1, failovers: 2, ..NOTHING };

#[test]
fn leases_are_fenced() {
    use fencing::{PROTOCOL, Rules, Scope, State};
    for (name, scope) in [
        ("writes", Scope { loaders: bound(2, 3), ..WRITES }),
        ("takeovers", Scope { writers: bound(1, 2), ..TAKEOVERS }),
        ("ends", Scope { loaders: bound(2, 3), ..ENDS }),
        ("storm", Scope { lost_replies: bound(false, true), ..STORM }),
        ("losses", Scope { loaders: bound(2, 3), initial: bound(false, true), ..LOSSES }),
        ("failovers", Scope { loaders: bound(2, 3), ..FAILOVERS }),
    ] {
        let search = Search::run(State::start(scope), &PROTOCOL);
        println!("{name}: {search}");
        assert!(search.trace.is_none(), "{name}: {search}");
        assert!(search.shows_load || scope.writers == 0, "{name}: no load is ever shown after an invalidation");
    }
    let shortcuts: [(&str, Scope, Rules); 14] = [
        ("writes leave the record", WRITES, Rules { delete_record: false, ..PROTOCOL }),
        ("writes delete the record after the write", WRITES, Rules { delete_first: false, ..PROTOCOL }),
        ("fills ignore the generation", WRITES, Rules { check_generation: false, ..PROTOCOL }),
        ("each record begins with generation 1", WRITES, Rules { random_generations: false, ..PROTOCOL }),
        ("fills ignore the fingerprint", TAKEOVERS, Rules { check_fingerprint: false, ..PROTOCOL }),
        ("takeovers of a changed key keep the generation", TAKEOVERS, Rules { redraw: false, ..PROTOCOL }),
        ("everybody gets a lease", STORM, Rules { exclusive: false, ..PROTOCOL }),
        ("a release ends any lease", STORM, Rules { own_release: false, ..PROTOCOL }),
        ("a failure ends any lease", STORM, Rules { own_failure: false, ..PROTOCOL }),
        ("a failure is noted after a write", ENDS, Rules { own_failure: false, ..PROTOCOL }),
        ("a close ends any exclusive time", STORM, Rules { own_close: false, ..PROTOCOL }),
        ("no store epoch", LOSSES, Rules { epoch: Epoch::Ignored, ..PROTOCOL }),
        ("the epoch of the connection", FAILOVERS, Rules { epoch: Epoch::OfConnection, ..PROTOCOL }),
        (
            "each record begins with generation 1, and records are lost",
            LOSSES,
            Rules { random_generations: false, ..PROTOCOL },
        ),
    ];
    for (name, scope, rules) in shortcuts {
        fails(name, State::start(scope), rules);
    }
    still_holds("a fill without an answer is repeated", State::start(ENDS), Rules { repeat_fill: true, ..PROTOCOL });
    let of_connection = Rules { epoch: Epoch::OfConnection, ..PROTOCOL };
    still_holds("the epoch of the connection, one failover", State::start(LOSSES), of_connection);
}

#[test]
fn the_first_use_is_fenced() {
    use first_use::{CLUSTER, Rules, STANDALONE, Scope, State};
    let scope = Scope { loaders: 2, writers: 1, evictions: 1, losses: 1, starts: 0, failovers: 0 };
    let large = Scope { loaders: bound(2, 3), starts: bound(0, 1), ..scope };
    holds("first use, standalone", State::start(large), &STANDALONE);
    holds("first use, cluster", State::start(large), &CLUSTER);
    let starts = Scope { starts: 1, evictions: 0, ..scope };
    let failovers = Scope { failovers: 1, losses: bound(0, 1), ..scope };
    holds("first use and failover, standalone", State::start(failovers), &STANDALONE);
    holds("first use and failover, cluster", State::start(failovers), &CLUSTER);
    for (name, scope, rules) in [
        ("fills ignore the marker", scope, Rules { check_marker: false, ..STANDALONE }),
        ("all markers are equal", scope, Rules { random_marker: false, ..STANDALONE }),
        ("tokens before the marker is old", scope, Rules { wait: false, ..STANDALONE }),
        ("tokens before the marker is old, cluster", scope, Rules { wait: false, ..CLUSTER }),
        ("a node without a link omits the DEL", scope, Rules { lost_link_deletes: false, ..STANDALONE }),
        ("a node omits the DEL after its start", starts, Rules { start_deletes: false, ..STANDALONE }),
        ("the DEL is omitted at once, cluster", scope, Rules { absent_long: false, ..CLUSTER }),
        ("fills without a time limit, cluster", scope, Rules { time_limit: false, ..CLUSTER }),
        ("the marker has no epoch, cluster", failovers, Rules { marker_has_epoch: false, ..CLUSTER }),
        ("all markers are equal, cluster", scope, Rules { random_marker: false, ..CLUSTER }),
    ] {
        fails(name, State::start(scope), rules);
    }
    let no_epoch = Rules { marker_has_epoch: false, ..STANDALONE };
    still_holds("the marker has no epoch", State::start(failovers), no_epoch);
    still_holds("the DEL is omitted at once", State::start(scope), Rules { absent_long: false, ..STANDALONE });
}

#[test]
fn bans_are_fenced() {
    use bans::{CLUSTER, Rules, STANDALONE, Scope, State};
    let scope = Scope { loaders: 2, writers: 1, bans: 1, absent: true };
    for large in [Scope { loaders: bound(2, 3), ..scope }, Scope { bans: bound(1, 2), absent: false, ..scope }] {
        holds("bans, standalone", State::start(large), &STANDALONE);
        holds("bans, cluster", State::start(large), &CLUSTER);
    }
    for (name, rules) in [
        ("fills do not compare the ban number", Rules { compare_in_script: false, ..STANDALONE }),
        ("nodes send fills in spite of a ban", Rules { compare_at_node: false, ..STANDALONE }),
        ("a ban that was retired matches nothing", Rules { unknown_matches: false, ..STANDALONE }),
        ("negative answers have no ban number", Rules { absent_has_number: false, ..STANDALONE }),
        ("the sweep leaves the records", Rules { sweep_records: false, ..CLUSTER }),
        ("the sweep removes the records after the keys", Rules { records_first: false, ..CLUSTER }),
        ("a newly noted key keeps its record", Rules { clearing_deletes_record: false, ..CLUSTER }),
        ("negative answers have no ban number, cluster", Rules { absent_has_number: false, ..CLUSTER }),
    ] {
        fails(name, State::start(scope), rules);
    }
}

#[test]
fn tags_are_fenced() {
    use tags::{PROTOCOL, Rules, State};
    let expirations = bound(1, 2);
    holds("tags", State::start(expirations), &PROTOCOL);
    for (name, rules) in [
        ("ids are read at the fill", Rules { read_at_grant: false, ..PROTOCOL }),
        ("ids begin at 1 again", Rules { random_ids: false, ..PROTOCOL }),
        ("readers ignore the ids", Rules { check_ids: false, ..PROTOCOL }),
        ("negative answers have no ids", Rules { check_absent: false, ..PROTOCOL }),
        ("a token of after the load", Rules { one_token: false, ..PROTOCOL }),
    ] {
        fails(name, State::start(expirations), rules);
    }
}

#[test]
fn waiters_are_woken_and_served_nothing_old() {
    use waiters::{PROTOCOL, Rules, State};
    let losses = bound(1, 2);
    for leads in [true, false] {
        holds("waiters", State::start(leads, losses), &PROTOCOL);
    }
    for (name, leads, rules) in [
        ("waiters ask before they register", false, Rules { register_first: false, ..PROTOCOL }),
        ("waiters have no timer", false, Rules { timer: false, ..PROTOCOL }),
        ("a lost link wakes nobody", false, Rules { lost_link_wakes: false, ..PROTOCOL }),
        ("a write detaches no flight", true, Rules { detach_before: false, detach_after: false, ..PROTOCOL }),
    ] {
        fails(name, State::start(leads, losses), rules);
    }
}

#[test]
fn a_slot_that_moves_is_fenced() {
    use slots::{PROTOCOL, Rules, State};
    let (loaders, moves) = (bound(2, 3), bound(2, 3));
    for has_value in [true, false] {
        holds("slots", State::start(loaders, moves, has_value), &PROTOCOL);
    }
    let ignored = Rules { follow_delete: false, ..PROTOCOL };
    for (name, moves, rules) in [
        ("a DEL that was redirected is ignored, no store epoch", 1, Rules { check_epoch: false, ..ignored }),
        ("a DEL that was redirected is ignored, and the slot comes back", 1, ignored),
        ("any redirection repeats the unit", 1, Rules { own_reply: false, ..PROTOCOL }),
        // A known gap: a move ends within the milliseconds between a write and its second DEL.
        ("the slot comes back before the second DEL", 1, Rules { slow_moves: false, ..PROTOCOL }),
    ] {
        fails(name, State::start(loaders, moves, true), rules);
    }
    for (name, rules) in [
        ("no store epoch", Rules { check_epoch: false, ..PROTOCOL }),
        ("acquires and fills follow ASK", Rules { never_ask: false, ..PROTOCOL }),
        ("takeovers keep the generation of another primary", Rules { redraw: false, ..PROTOCOL }),
    ] {
        still_holds(name, State::start(loaders, moves, true), rules);
    }
}
