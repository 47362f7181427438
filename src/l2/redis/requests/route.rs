//! Sends the commands of each key to the primary that holds it, and follows MOVED and ASK.
//!
//! A [`Unit`] is the commands of one key, in order, with one reply each. If one primary holds all keys, the units are
//! sent together. In a cluster they are grouped by primary and sent in parallel, and their results are merged.
//!
//! A command that is answered with MOVED, ASK or TRYAGAIN was not executed, so it may be sent again, even a write.
//! MOVED first triggers a topology refresh: the epochs of the affected primaries end before the new owner is queried,
//! so that values read by the old map are not kept. A value that was read through ASK must not be kept at all
//! ([`Answered::by_ask`]), because its owner does not announce changes of that slot on the invalidation link of the old
//! owner.

use std::{sync::Arc, time::Duration};

use ::redis::Value as Reply;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};

use super::{group::ConnectionGroup, pipelined_connection::Access};
use crate::{
    error::{CacheError, Kind, Result},
    l2::redis::{
        command::{
            batch::{Commands, Replies, word},
            errors,
        },
        topology::slots::slot,
        url::Endpoint,
        worker::RedisBackend,
    },
};

/// Maximum number of cluster redirections that a read or write follows. A slot rarely moves twice during one call.
const HOPS_MAX: usize = 5;
/// Maximum time that a call waits for a topology refresh; the deadline of the call may be earlier.
const LOOK_WITHIN: Duration = Duration::from_millis(500);
/// Pause before a retry of a unit whose slot is being migrated key by key.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// The commands of one key.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    pub(crate) slot: u16,
    pub(crate) commands: Commands,
}

impl Unit {
    pub(crate) fn new(key: &[u8], commands: Commands) -> Self {
        Self { slot: slot(key), commands }
    }
}

/// Replies to the commands of a unit.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) replies: Replies,
    /// The replies come from a primary that does not own the slot yet.
    pub(crate) by_ask: bool,
}

/// Redirection of a unit that was not executed.
enum Redirect {
    Moved,
    Ask(Endpoint),
    TryAgain,
}

impl RedisBackend {
    /// Sends each unit to the primary of its slot; returns one result per unit, in order.
    pub(in crate::l2::redis) async fn ask_units(
        &self,
        units: Vec<Unit>,
        access: Access,
        deadline: Instant,
    ) -> Vec<Result<Answered>> {
        let mut results: Vec<Option<Result<Answered>>> = units.iter().map(|_| None).collect();
        let mut open: Vec<(usize, Option<Endpoint>)> = (0..units.len()).map(|at| (at, None)).collect();
        for _ in 0..HOPS_MAX {
            let mut redirects = Vec::new();
            for (at, asked, replies) in self.round(&units, std::mem::take(&mut open), access, deadline).await {
                let is_transaction = access == Access::Write && units[at].commands.len() > 1;
                match replies.map(|replies| (redirect(&replies, is_transaction), replies)) {
                    Ok((None, replies)) => results[at] = Some(Ok(Answered { replies, by_ask: asked })),
                    Ok((Some(redirect), _)) => redirects.push((at, redirect)),
                    Err(error) => results[at] = Some(Err(error)),
                }
            }
            if redirects.is_empty() || Instant::now() >= deadline {
                open = redirects.into_iter().map(|(at, _)| (at, None)).collect();
                break;
            }
            open = self.follow(redirects, deadline).await;
        }
        for (at, _) in open {
            results[at] = Some(Err(errors::in_motion()));
        }
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(errors::unexpected("a pipeline")))).collect()
    }

    /// Sends each unit of `open` once: to its primary, or to the endpoint of an ASK redirection.
    async fn round(
        &self,
        units: &[Unit],
        open: Vec<(usize, Option<Endpoint>)>,
        access: Access,
        deadline: Instant,
    ) -> Vec<(usize, bool, Result<Replies>)> {
        let mut batches: Vec<PrimaryBatch> = Vec::new();
        let mut answers = Vec::with_capacity(open.len());
        for (at, asked) in open {
            let group = match &asked {
                Some(endpoint) => self.group_at(endpoint),
                None => self.group_of_slot(units[at].slot),
            };
            match group {
                Ok(group) => PrimaryBatch::of(&mut batches, group, asked.is_some()).add(at, &units[at].commands),
                Err(error) => answers.push((at, asked.is_some(), Err(error))),
            }
        }
        for batch in join_all(batches.into_iter().map(|batch| batch.send(access, deadline))).await {
            answers.extend(batch);
        }
        answers
    }

    /// Waits as the redirections require, and returns the next endpoint of each unit.
    async fn follow(&self, redirects: Vec<(usize, Redirect)>, deadline: Instant) -> Vec<(usize, Option<Endpoint>)> {
        let is_moved = |redirect: &Redirect| matches!(redirect, Redirect::Moved);
        let is_early = |redirect: &Redirect| matches!(redirect, Redirect::TryAgain);
        if redirects.iter().any(|(_, redirect)| is_moved(redirect)) {
            let patience = LOOK_WITHIN.min(deadline.saturating_duration_since(Instant::now()));
            // If no refresh completes in time, the units receive MOVED again, or their deadline ends them.
            let _looked = self.redis.topology().refreshed(patience).await;
        } else if redirects.iter().any(|(_, redirect)| is_early(redirect)) {
            sleep_until(deadline.min(Instant::now() + TRY_AGAIN_AFTER)).await;
        }
        let next = |redirect| match redirect {
            Redirect::Moved | Redirect::TryAgain => None,
            Redirect::Ask(endpoint) => Some(endpoint),
        };
        redirects.into_iter().map(|(at, redirect)| (at, next(redirect))).collect()
    }
}

/// Units that are sent together to one primary.
struct PrimaryBatch {
    group: Arc<ConnectionGroup>,
    asking: bool,
    commands: Commands,
    /// Index and number of commands of each unit.
    units: Vec<(usize, usize)>,
}

impl PrimaryBatch {
    /// Returns the batch for this group, and adds it if it does not exist.
    fn of(batches: &mut Vec<Self>, group: Arc<ConnectionGroup>, asking: bool) -> &mut Self {
        let is_it = |batch: &Self| Arc::ptr_eq(&batch.group, &group) && batch.asking == asking;
        let at = batches.iter().position(is_it).unwrap_or_else(|| {
            batches.push(Self { group, asking, commands: Commands::new(), units: Vec::new() });
            batches.len() - 1
        });
        &mut batches[at]
    }

    fn add(&mut self, at: usize, commands: &Commands) {
        for command in commands {
            if self.asking {
                self.commands.push(word("ASKING"));
            }
            self.commands.push(command.clone());
        }
        self.units.push((at, commands.len()));
    }

    async fn send(self, access: Access, deadline: Instant) -> Vec<(usize, bool, Result<Replies>)> {
        let Self { group, asking, commands, units } = self;
        let count = commands.len();
        let replies = match group.ask(commands, access, deadline).await {
            Ok(replies) if replies.len() == count => replies,
            Ok(_) => return units.iter().map(|(at, _)| (*at, asking, Err(errors::unexpected("a pipeline")))).collect(),
            Err(error) => return units.iter().map(|(at, _)| (*at, asking, Err(error.clone()))).collect(),
        };
        // The replies to ASKING are skipped.
        let step = if asking { 2 } else { 1 };
        let mut replies = replies.into_iter().skip(step - 1).step_by(step);
        units.into_iter().map(|(at, count)| (at, asking, Ok(replies.by_ref().take(count).collect()))).collect()
    }
}

/// Returns the redirection of a unit, if there is one. All its commands have the same key, so the first redirection
/// counts. A unit that was partly executed before its slot moved is repeated as a whole only if it reads; writes have
/// one command.
///
/// A transaction cannot follow ASK, because the ASKING before each of its commands would be queued. It waits for the
/// end of the migration.
fn redirect(replies: &[Reply], is_transaction: bool) -> Option<Redirect> {
    replies.iter().find_map(|reply| {
        let Reply::ServerError(error) = reply else { return None };
        match error.code() {
            "MOVED" => Some(Redirect::Moved),
            "TRYAGAIN" => Some(Redirect::TryAgain),
            "ASK" if is_transaction => Some(Redirect::TryAgain),
            "ASK" => Some(asked_at(error.details()?).map_or(Redirect::Moved, Redirect::Ask)),
            _ => None,
        }
    })
}

/// Parses the endpoint of `SLOT HOST:PORT`.
fn asked_at(detail: &str) -> Option<Endpoint> {
    let (host, port) = detail.split_whitespace().nth(1)?.rsplit_once(':')?;
    (!host.is_empty()).then_some(())?;
    Some(Endpoint::Tcp(host.to_owned(), port.parse().ok()?))
}

impl RedisBackend {
    fn group_of_slot(&self, slot: u16) -> Result<Arc<ConnectionGroup>> {
        self.group(|map| map.of_slot(slot).cloned()).ok_or_else(|| self.no_primary())
    }

    fn group_at(&self, endpoint: &Endpoint) -> Result<Arc<ConnectionGroup>> {
        self.group(|map| map.at(endpoint).cloned()).ok_or_else(|| self.no_primary())
    }

    /// Returns the error for a key without a known primary, and requests a topology refresh.
    pub(in crate::l2::redis) fn no_primary(&self) -> CacheError {
        self.redis.topology().ask();
        let message = format!("no Redis primary is known for this key ({})", self.redis.url());
        CacheError::new(Kind::Unavailable, message).retry_after(LOOK_WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(line: &str) -> Reply {
        ::redis::parse_redis_value(format!("{line}\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn redirects_are_told_from_answers() {
        assert!(redirect(&[reply(":5"), reply("+OK")], false).is_none());
        assert!(redirect(&[reply("-WRONGTYPE no")], false).is_none());
        assert!(matches!(redirect(&[reply("-MOVED 1 h:2")], false), Some(Redirect::Moved)));
        assert!(matches!(redirect(&[reply(":1"), reply("-TRYAGAIN wait")], false), Some(Redirect::TryAgain)));
        let Some(Redirect::Ask(endpoint)) = redirect(&[reply("-ASK 3999 127.0.0.1:6381")], false) else {
            panic!("ASK")
        };
        assert_eq!(endpoint, Endpoint::Tcp("127.0.0.1".to_owned(), 6381));
        assert_eq!(asked_at("1 ::1:7000"), Some(Endpoint::Tcp("::1".to_owned(), 7000)));
        assert!(matches!(redirect(&[reply("-ASK 3999 :6381")], false), Some(Redirect::Moved)), "the host is not known");
    }
}
