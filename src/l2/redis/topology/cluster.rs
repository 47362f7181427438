//! Finds the primaries of a Redis Cluster and their hash slots by querying its members.
//!
//! Each member is queried for its own id, its state and its view of the slots. A primary is trusted about the slots
//! that it claims itself; if two primaries claim one slot, the higher configuration epoch wins. For slots that no
//! responding member claims, the view with the highest epoch wins. Members that report the cluster as down are ignored
//! while another member reports it as working: after a partition, they do not know the decisions of the majority.
//!
//! The topology is refreshed every few seconds, and immediately after a new epoch in a heartbeat, a MOVED reply or a
//! lost connection.

use std::{collections::HashSet, time::Duration};

use ::redis::{Pipeline, Value};

use super::{control_connections::ControlConnections, map::View, slots::SLOTS};
use crate::l2::redis::{
    client::Redis,
    connection::connect::Dialer,
    url::{Endpoint, Target},
};

/// Interval of topology refreshes without a request; heartbeats detect changes within 100 ms.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(5);
/// Maximum number of cluster members that one topology refresh queries.
const MEMBERS_MAX: usize = 256;

/// Finds the primaries and their slots.
pub(crate) struct Members {
    seeds: Vec<Endpoint>,
    /// The most recently seen primaries.
    known: Vec<Endpoint>,
    controls: ControlConnections,
    questions: Pipeline,
}

impl Members {
    pub(crate) fn new(redis: &Redis, dialer: &Dialer) -> Option<Self> {
        let Target::Cluster(seeds) = redis.url().target() else { return None };
        let mut questions = Pipeline::new();
        questions.cmd("CLUSTER").arg("MYID");
        questions.cmd("CLUSTER").arg("INFO");
        questions.cmd("CLUSTER").arg("SLOTS");
        let controls = ControlConnections::new(Dialer { primary_only: false, ..dialer.clone() });
        Some(Self { seeds: seeds.clone(), known: Vec::new(), controls, questions })
    }

    /// Queries the members once. Returns `None` if no member reports a working cluster.
    pub(crate) async fn look(&mut self) -> Option<View> {
        let mut asked: Vec<Endpoint> = Vec::new();
        let mut reports: Vec<Report> = Vec::new();
        let mut next = if self.known.is_empty() { self.seeds.clone() } else { self.known.clone() };
        // The second round queries members that the first round returned; the seeds are queried if no known member
        // answers.
        for round in 0..3 {
            next.retain(|endpoint| !asked.contains(endpoint));
            next.truncate(MEMBERS_MAX - asked.len());
            let answers = self.controls.ask(&next, &self.questions).await;
            asked.append(&mut next);
            reports.extend(answers.iter().filter_map(|(endpoint, replies)| Report::of(endpoint, replies)));
            let named = reports.iter().flat_map(|report| &report.ranges).map(|range| &range.primary);
            next = named.collect::<HashSet<_>>().into_iter().cloned().collect();
            if reports.is_empty() && round == 0 {
                next = self.seeds.clone();
            }
        }
        let view = merge(&reports)?;
        self.known.clone_from(&view.primaries);
        let keep: Vec<Endpoint> = view.primaries.iter().chain(&self.seeds).cloned().collect();
        self.controls.keep_only(&keep);
        Some(view)
    }
}

/// A contiguous range of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    first: usize,
    last: usize,
    primary: Endpoint,
    /// True if the reporting member is that primary.
    is_own: bool,
}

/// Report of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Report {
    works: bool,
    /// Highest epoch that the member knows.
    epoch: u64,
    /// Epoch of the member's own claims.
    own_epoch: u64,
    ranges: Vec<Range>,
}

impl Report {
    fn of(member: &Endpoint, replies: &[Value]) -> Option<Self> {
        let [Value::BulkString(id), info, Value::Array(ranges)] = replies else { return None };
        let info = Info::of(info)?;
        let ranges = ranges.iter().map(|range| Range::of(range, member, id)).collect::<Option<_>>()?;
        Some(Self { works: info.works, epoch: info.epoch, own_epoch: info.own_epoch, ranges })
    }
}

impl Range {
    /// Decodes `[first, last, [host, port, id, ...], replicas ...]`.
    fn of(reply: &Value, member: &Endpoint, id: &[u8]) -> Option<Self> {
        let Value::Array(parts) = reply else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = &parts[..] else { return None };
        let [host, Value::Int(port), Value::BulkString(primary_id), ..] = &primary[..] else { return None };
        let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
        if first > last || last >= SLOTS {
            return None;
        }
        let primary = Endpoint::Tcp(host_of(host, member)?, u16::try_from(*port).ok()?);
        Some(Self { first, last, primary, is_own: primary_id == id })
    }
}

/// Returns the host in a reply. A member that does not know its own address omits it; then the queried host is
/// returned.
fn host_of(reply: &Value, member: &Endpoint) -> Option<String> {
    if let Value::BulkString(host) = reply
        && !host.is_empty()
        && host != b"?"
    {
        return String::from_utf8(host.clone()).ok();
    }
    match member {
        Endpoint::Tcp(host, _) => Some(host.clone()),
        Endpoint::Unix(_) => None,
    }
}

/// Reply of CLUSTER INFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) works: bool,
    pub(crate) epoch: u64,
    own_epoch: u64,
}

impl Info {
    /// Decodes lines of `name:value`.
    pub(crate) fn of(reply: &Value) -> Option<Self> {
        // On the invalidation link, which uses RESP3, the reply is a verbatim string.
        let text = if let Value::VerbatimString { text, .. } = reply {
            text
        } else if let Value::BulkString(bytes) = reply {
            std::str::from_utf8(bytes).ok()?
        } else {
            return None;
        };
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Some(Self {
            works: field("cluster_state")? == "ok",
            epoch: field("cluster_current_epoch")?.parse().ok()?,
            own_epoch: field("cluster_my_epoch")?.parse().ok()?,
        })
    }
}

/// Merges all reports into one view.
fn merge(reports: &[Report]) -> Option<View> {
    let working: Vec<&Report> = reports.iter().filter(|report| report.works).collect();
    let epoch = working.iter().map(|report| report.epoch).max()?;
    // Rank and claimant of each slot. A primary's own claim beats claims of other members.
    let mut claims: Vec<Option<((bool, u64), &Endpoint)>> = vec![None; SLOTS];
    for report in working {
        for range in &report.ranges {
            let worth = (range.is_own, if range.is_own { report.own_epoch } else { report.epoch });
            for claim in &mut claims[range.first..=range.last] {
                if claim.is_none_or(|(before, _)| worth > before) {
                    *claim = Some((worth, &range.primary));
                }
            }
        }
    }
    let mut primaries: Vec<Endpoint> = Vec::new();
    let slots = claims.iter().map(|claim| {
        let (_, endpoint) = (*claim)?;
        Some(primaries.iter().position(|known| known == endpoint).unwrap_or_else(|| {
            primaries.push(endpoint.clone());
            primaries.len() - 1
        }))
    });
    let slots = slots.collect();
    Some(View { epoch, primaries, slots: Some(slots) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::Tcp("127.0.0.1".to_owned(), port)
    }

    fn range(first: usize, last: usize, port: u16, is_own: bool) -> Range {
        Range { first, last, primary: endpoint(port), is_own }
    }

    fn report(works: bool, epoch: u64, own_epoch: u64, ranges: &[Range]) -> Report {
        Report { works, epoch, own_epoch, ranges: ranges.to_vec() }
    }

    fn holder(view: &View, slot: usize) -> Option<Endpoint> {
        view.slots.as_ref().unwrap()[slot].map(|at| view.primaries[at].clone())
    }

    #[test]
    fn a_primary_is_believed_about_itself_and_the_newer_of_two() {
        // 7002 has taken over 7000's slots; 7000 does not know that, and 7001 still reports the old state.
        let view = merge(&[
            report(true, 3, 1, &[range(0, 8_000, 7000, true), range(8_001, 16_383, 7001, false)]),
            report(true, 3, 2, &[range(0, 8_000, 7000, false), range(8_001, 16_383, 7001, true)]),
            report(true, 4, 4, &[range(0, 8_000, 7002, true), range(8_001, 16_383, 7001, false)]),
        ])
        .unwrap();
        assert_eq!(view.epoch, 4);
        assert_eq!((holder(&view, 0), holder(&view, 9_000)), (Some(endpoint(7002)), Some(endpoint(7001))));
    }

    #[test]
    fn who_says_that_the_cluster_is_down_is_not_believed() {
        let cut_off = report(false, 9, 9, &[range(0, 16_383, 7000, true)]);
        assert_eq!(merge(std::slice::from_ref(&cut_off)), None);
        let view = merge(&[cut_off, report(true, 4, 4, &[range(0, 100, 7002, true)])]).unwrap();
        assert_eq!((holder(&view, 50), holder(&view, 101)), (Some(endpoint(7002)), None));
    }

    #[test]
    fn replies_are_read_and_a_missing_host_is_the_one_asked() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let primary =
            |host: Value, id: &str| Value::Array(vec![host, Value::Int(7000), bulk(id), Value::Array(vec![])]);
        let one = |first, last, primary| Value::Array(vec![Value::Int(first), Value::Int(last), primary]);
        let info = bulk("cluster_state:ok\r\ncluster_current_epoch:6\r\ncluster_my_epoch:2\r\n");
        let slots =
            Value::Array(vec![one(0, 5, primary(bulk(""), "me")), one(6, 9, primary(bulk("10.0.0.9"), "other"))]);
        let report = Report::of(&endpoint(1), &[bulk("me"), info.clone(), slots]).unwrap();
        assert_eq!((report.works, report.epoch, report.own_epoch), (true, 6, 2));
        assert_eq!(report.ranges[0], range(0, 5, 7000, true));
        assert_eq!(report.ranges[1].primary, Endpoint::Tcp("10.0.0.9".to_owned(), 7000));
        let beyond = Value::Array(vec![one(0, 16_384, primary(bulk("h"), "me"))]);
        assert_eq!(Report::of(&endpoint(1), &[bulk("me"), info, beyond]), None);
    }
}
