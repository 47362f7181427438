//! A model of the coherence protocol: an exhaustive search of all interleavings of a few operations on one key.
//!
//! **The world.** One Redis has one key, whose value is the number of the write that set it. One node keeps a copy in L1.
//! Requests and replies use one data connection per operation, so their order is arbitrary. Invalidations arrive in order
//! on the invalidation link. Operations:
//! * a *fill*: a read that missed L1 takes a fill lease, sends GET, and inserts the reply if the lease is still valid;
//! * an *external write* by another client, executed at once; the node receives its invalidation over the link;
//! * a *local write* through the node. Its caller may time out at any moment, and Redis may execute it long after that;
//! * a *loss* of the link: invalidations in flight are lost, Redis announces nothing until tracking is enabled again, and
//!   the node detects the loss at any later moment;
//! * a *reader* that joins a fill in flight and waits for its value.
//!
//! **Violations.** A *stale end*: nothing is in flight, the link is up and the fence is open, and L1 would answer with a
//! value that Redis no longer has. (While messages are in flight L1 may lag. The coherence fence limits this lag in time,
//! and time is not part of the model.) A *stale read*: a reader receives a value that is older than the newest
//! invalidation that the node had received when the reader arrived.
//!
//! **The protocol** is [`PROTOCOL`]. [`SHORTCUTS`] are simpler protocols. The search finds a violation of each, and
//! `cargo test coherence_model -- --nocapture` prints the shortest path to it. States that differ only by an exchange of
//! two fills or two writes are searched once.

mod search;
mod world;

use self::search::{Search, Until};

/// Events of the link at which the epoch changes. Entries and leases of an older epoch are void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// When the loss is detected, and when Redis has confirmed tracking on the new link.
    LossAndTracking,
    /// When the loss is detected, and when the node requests tracking.
    LossAndAsking,
    /// When the loss is detected.
    Loss,
}

/// The behavior of a node.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// A fill inserts only under the lease that it took before its GET. An invalidation voids the lease.
    lease: bool,
    /// Redis does not announce the node's own writes to it (`CLIENT TRACKING ... NOLOOP`).
    noloop: bool,
    /// A local write removes the copy and voids the lease before it is sent.
    drop_before: bool,
    /// A local write does the same after its end, whether acknowledged or timed out.
    drop_after: bool,
    /// An acknowledged write inserts its value into L1.
    write_through: bool,
    /// Events at which the epoch changes.
    step: Step,
    /// An entry is inserted only in the epoch of its lease.
    lease_has_epoch: bool,
    /// While the fence is closed, a read takes no lease that permits a fill.
    closed_means_no_lease: bool,
    /// An invalidation detaches the flight: later readers do not join it.
    detach: bool,
}

/// The complete protocol.
const PROTOCOL: Rules = Rules {
    lease: true,
    noloop: false,
    drop_before: true,
    drop_after: true,
    write_through: false,
    step: Step::LossAndTracking,
    lease_has_epoch: true,
    closed_means_no_lease: true,
    detach: true,
};

/// Number of operations of each type.
#[derive(Debug, Clone, Copy)]
struct Scope {
    fills: usize,
    externals: u8,
    locals: usize,
    losses: u8,
    readers: u8,
}

/// Reads and writes with an intact link.
const WRITES: Scope = Scope { fills: 3, externals: 3, locals: 2, losses: 0, readers: 0 };
/// A link that is lost twice.
const LINKS: Scope = Scope { fills: 2, externals: 2, locals: 1, losses: 2, readers: 0 };
/// A reader that joins a flight.
const FLIGHTS: Scope = Scope { fills: 3, externals: 2, locals: 1, losses: 0, readers: 1 };

/// Simplifications of the protocol: description, scope in which the search finds a violation, rules.
const SHORTCUTS: [(&str, Scope, Rules); 9] = [
    ("GET, then insert: no lease", WRITES, Rules { lease: false, ..PROTOCOL }),
    ("NOLOOP, local write drops before it is sent only", WRITES, Rules { noloop: true, drop_after: false, ..PROTOCOL }),
    (
        "NOLOOP, local write drops before and after: it times out and is done later",
        WRITES,
        Rules { noloop: true, ..PROTOCOL },
    ),
    (
        "NOLOOP, an acknowledged write puts its value into L1",
        WRITES,
        Rules { noloop: true, write_through: true, ..PROTOCOL },
    ),
    ("an acknowledged write puts its value into L1", WRITES, Rules { write_through: true, ..PROTOCOL }),
    ("a lease outlives the link under which it was taken", LINKS, Rules { lease_has_epoch: false, ..PROTOCOL }),
    (
        "leases while the fence is closed, void only if the loss was noticed after them",
        LINKS,
        Rules { closed_means_no_lease: false, step: Step::Loss, ..PROTOCOL },
    ),
    (
        "leases while the fence is closed, void when tracking is asked for, not when it is on",
        LINKS,
        Rules { closed_means_no_lease: false, step: Step::LossAndAsking, ..PROTOCOL },
    ),
    ("readers join a flight that an invalidation has overtaken", FLIGHTS, Rules { detach: false, ..PROTOCOL }),
];

/// Simplifications without a violation: one of two rules that prevent the same fault.
const REDUNDANT: [(&str, Scope, Rules); 3] = [
    (
        "leases while the fence is closed; the new link's epoch voids them",
        LINKS,
        Rules { closed_means_no_lease: false, ..PROTOCOL },
    ),
    (
        "no step for the new link; nothing was leased while the fence was closed",
        LINKS,
        Rules { step: Step::Loss, ..PROTOCOL },
    ),
    // Redis announces the node's own writes to it as well. Removing the copy before and after makes the write visible
    // to readers of this node at once.
    (
        "local write does not drop; Redis announces it",
        WRITES,
        Rules { drop_before: false, drop_after: false, ..PROTOCOL },
    ),
];

#[test]
fn the_protocol_never_ends_stale() {
    for (name, scope) in [("writes", WRITES), ("links", LINKS), ("flights", FLIGHTS)] {
        let search = Search::run(scope, &PROTOCOL, Until::End);
        println!("the protocol, {name}: {search}");
        assert!(search.wrong.is_empty(), "{name}: {search}");
        // The model makes and keeps copies: the protocol is not safe merely because it does nothing.
        assert!(
            search.states.iter().any(|state| state.is_quiet() && state.hit() == Some(state.value) && state.value > 1)
        );
    }
}

#[test]
fn every_shortcut_is_found_failing() {
    for (name, scope, rules) in SHORTCUTS {
        let search = Search::run(scope, &rules, Until::Wrong);
        println!("{name}: {search}");
        assert!(!search.wrong.is_empty(), "not found failing: {name}");
    }
}

#[test]
fn of_two_rules_for_the_same_gap_one_is_enough() {
    for (name, scope, rules) in REDUNDANT {
        let search = Search::run(scope, &rules, Until::End);
        println!("{name}: {search}");
        assert!(search.wrong.is_empty(), "{name}: {search}");
    }
}
