//! Bans on Redis: one log for all nodes, a note of each key that is written while a ban is open, and the sweep.
//!
//! **The log** is the hash `__terrace:bans`. Field `n` is the greatest ban number; each other field is the number of an
//! open ban with its pattern. Redis announces changes of the log like any other change. A node that receives the
//! announcement reads the log again, and its fences do not advance until it has done so. Therefore, L1 never answers
//! for longer than Δ after a ban, and no call uses a state of the log that is older than Δ: it reads the log first. If
//! the primary with the log is unreachable but other primaries of the cluster respond, calls continue with the known
//! bans, because no node can open another ban.
//!
//! **Notes.** Before a write to a key that an open ban matches, a script on the same connection adds the key to the set
//! `__terrace:fresh:<ban>` and, if the key was not in the set, removes its old value. Therefore, a noted key never
//! holds a value from before the ban, and reads accept only noted keys. A read checks the note *before* the value: a
//! value that is written in between counts as a miss, as if it were written later. In the other order, an old value
//! could pass for a new one. In a cluster, the set is `__terrace:fresh:<ban>:{tag}`, with a tag in the key's slot.
//!
//! **Nodes that do not know a ban.** A node may write before it learns of a ban. Therefore, each pipeline with a write
//! ends with a query for the greatest ban number (in a cluster, each primary has a copy of that number, its *stamp*,
//! which the opening of a ban sets). If the reply exceeds the number that the node knows, the node reads the log and
//! clears the keys that the new ban matches, as described above. It then repeats the writes whose values the clearing
//! or the sweep has removed; only then is the write acknowledged.
//!
//! **The sweep** may move to another node at any time. Each page includes a time limit for the server, so that a
//! delayed page does nothing once another node may have retired the ban.
//!
//! **Lost records** cost only misses: without its note, a value written after a ban counts as a value from before the
//! ban. If the log is missing or shorter than before, all L1 copies become invalid, and this node restores the log from
//! the bans that it knows.
//!
//! * `records`: keys and numbers. `mark`: the field of the log for load leases. `state`: the ban state of this process. `log`, `notes`, `sweep`: the requests.
//! * `store`: implements [`BanStore`](crate::l2::BanStore) with these modules.

mod log;
pub(crate) mod mark;
pub(crate) mod notes;
pub(crate) mod records;
pub(crate) mod state;
mod store;
pub(crate) mod sweep;
