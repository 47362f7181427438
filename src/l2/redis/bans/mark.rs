//! [`Mark`]: the field of the ban log that states that load leases are in use.
//!
//! A node that does not know the mark writes without removing records. Therefore, no lease can be fenced until the mark
//! has the age [`MARK_AGE_MIN`]: a write was sent by a node whose log was at most [`FENCE_SPAN`] old, and a write that takes
//! longer than [`WRITE_LONGEST`] and finds a newer number in its reply has an unknown outcome.
//!
//! A mark is valid on the primary that created it: a failover can bring back a mark that was evicted, while nodes did not
//! remove records. Therefore, the mark contains the primary's replication id.
//!
//! If Redis evicts the log, or a flush removes it, the mark is not restored: the next lease creates another mark, and the
//! fills of the previous one are refused. A node removes records until it has seen the log without a mark for
//! [`MARK_AGE_MIN`] without interruption.

use std::time::Duration;

use super::records::number;
use crate::{clock::Tick, l2::FENCE_SPAN};

/// Minimum age of the mark at which leases are fenced.
pub(crate) const MARK_AGE_MIN: Duration = FENCE_SPAN.saturating_mul(3);
/// Maximum duration of a write that was sent by a node that did not know the mark.
pub(crate) const WRITE_LONGEST: Duration = FENCE_SPAN.saturating_mul(2);
/// Field of the ban log.
pub(crate) const LOADS: &str = "loads";

/// The mark in the ban log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Random number.
    pub(crate) id: u64,
    /// The number that the mark took from the numbers of bans.
    pub(crate) number: u64,
    /// Time of creation by Redis's clock in Unix milliseconds.
    pub(crate) created_ms: u64,
    /// Beginning of the replication id of the primary that created the mark.
    pub(crate) replication: u64,
}

impl Mark {
    /// Decodes the field.
    pub(crate) fn of(field: &[u8]) -> Option<Self> {
        let mut words = field.split(|byte| *byte == b' ');
        let id = hex(words.next()?)?;
        Some(Self {
            id,
            number: number(words.next()?)?,
            created_ms: number(words.next()?)?,
            replication: hex(words.next()?)?,
        })
    }

    /// Returns the id as the field contains it.
    pub(crate) fn id_text(&self) -> String {
        format!("{:016x}", self.id)
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Returns the beginning of the replication id in the reply of INFO replication.
pub(crate) fn replication_of(info: &[u8]) -> Option<u64> {
    let mut lines = info.split(|byte| *byte == b'\n');
    let id = lines.find_map(|line| line.strip_prefix(b"master_replid:"))?;
    hex(id.get(..16)?)
}

/// What a node knows about the mark.
#[derive(Debug, Default)]
pub(crate) struct MarkState {
    pub(crate) mark: Option<Mark>,
    /// Time at which this node first read this mark.
    pub(crate) known_since: Tick,
    /// Time since which the log is known to have no mark, without interruption; zero if unknown.
    pub(crate) absent_since: Tick,
}

impl MarkState {
    /// Stores the mark of a log that was read at `at`. `lapsed`: changes of the log may have been missed before.
    pub(crate) fn take(&mut self, mark: Option<Mark>, at: Tick, lapsed: bool) {
        match mark {
            None if self.mark.is_some() || lapsed || self.absent_since == Tick::ZERO => self.absent_since = at,
            None => {}
            Some(_) if self.mark == mark => {}
            Some(_) => self.known_since = at,
        }
        self.mark = mark;
    }

    /// Returns whether a write must remove the record of its key.
    pub(crate) fn must_forget(&self, now: Tick) -> bool {
        self.mark.is_some() || self.absent_since == Tick::ZERO || now < self.absent_since.plus(MARK_AGE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_decoded_and_nothing_else() {
        let mark = Mark { id: 0xabc, number: 7, created_ms: 1_764_500_000_000, replication: 0xff };
        assert_eq!(Mark::of(b"0000000000000abc 7 1764500000000 00000000000000ff"), Some(mark));
        assert_eq!(mark.id_text(), "0000000000000abc");
        for other in [&b""[..], b"xyz 7 1 f", b"abc", b"abc 7", b"abc 7 1", b"abc 7 1 ", b"abc -7 1 f"] {
            assert_eq!(Mark::of(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_replication_id_is_found() {
        let info = b"# Replication\r\nrole:master\r\nmaster_replid:00000000000000ff11112222333344445555666\r\nx:1\r\n";
        assert_eq!(replication_of(info), Some(0xff));
        assert_eq!(replication_of(b"role:master\r\n"), None);
    }

    #[test]
    fn records_are_removed_until_the_mark_is_known_to_be_absent() {
        let (mut state, second) = (MarkState::default(), Duration::from_secs(1));
        let at = |seconds: u64| Tick(1).plus(second * u32::try_from(seconds).unwrap());
        assert!(state.must_forget(at(100)), "nothing is known");
        state.take(None, at(10), true);
        assert!(state.must_forget(at(12)));
        assert!(!state.must_forget(at(13)));
        state.take(None, at(14), false);
        assert!(!state.must_forget(at(14)), "the log was followed without interruption");
        state.take(None, at(20), true);
        assert!(state.must_forget(at(22)), "a mark may have come and gone meanwhile");
        let mark = Mark { id: 1, number: 1, created_ms: 1, replication: 1 };
        state.take(Some(mark), at(30), false);
        assert!(state.must_forget(at(100)));
        state.take(None, at(101), false);
        assert!(state.must_forget(at(103)), "the mark was evicted");
        assert!(!state.must_forget(at(104)));
    }
}
