//! Sends the commands of each key to the primary that holds it, and follows MOVED and ASK.
//!
//! A [`Unit`] is the commands of one key, in order, with one reply each. If one primary holds all keys, the units are
//! sent together. In a cluster they are grouped by primary and sent in parallel, and their results are merged.
//!
//! A command that is answered with MOVED, ASK or TRYAGAIN was not executed, so it may be sent again, even a write. Its
//! neighbors in the unit may have been executed: while a slot is migrated key by key, each command is redirected or not
//! depending on the keys that it names. So each unit knows which of its replies decide ([`Form`]), and no write is sent
//! again after it was executed.
//!
//! MOVED first triggers a topology refresh: the epochs of the affected primaries end before the new owner is queried,
//! so that values read by the old map are not kept. A value that was read through ASK must not be kept at all
//! ([`Answered::by_ask`]), because its owner does not announce changes of that slot on the invalidation link of the old
//! owner.

use std::{sync::Arc, time::Duration};

use ::redis::{Cmd, Value as Reply};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};

use super::{group::ConnectionGroup, pipelined_connection::Access};
use crate::{
    error::{CacheError, Kind, Result},
    l2::redis::{
        command::{
            batch::{Commands, Replies, executed, transaction, word},
            errors, ops,
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

/// The commands of one key, and which of their replies decide whether they are sent again.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    slot: u16,
    commands: Commands,
    /// Number of commands in front whose replies decide nothing and are not returned.
    preparations: usize,
    form: Form,
}

/// The part of a unit that decides: its commands after the preparations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Queries: any reply decides, because queries may be repeated.
    Queries,
    /// One command: its own reply decides.
    Single,
    /// MULTI, commands, EXEC: a redirection of any of these commands prevents the execution of all of them.
    Transaction,
}

impl Unit {
    /// Creates a unit of queries, which may be repeated.
    pub(crate) fn queries(key: &[u8], commands: Commands) -> Self {
        Self { slot: slot(key), commands, preparations: 0, form: Form::Queries }
    }

    /// Creates a unit of one command, which is executed at most once.
    pub(crate) fn single(key: &[u8], command: Cmd) -> Self {
        Self { slot: slot(key), commands: vec![command], preparations: 0, form: Form::Single }
    }

    /// Creates a unit of commands that are executed together and at most once. All their keys have this slot.
    pub(crate) fn transaction(slot: u16, commands: Commands) -> Self {
        Self { slot, commands: transaction(commands), preparations: 0, form: Form::Transaction }
    }

    /// Adds commands that run before the others, on the same connection. Their replies are not returned, and they may run
    /// more than once. Redirections of them decide nothing: a preparation that was redirected while the others were
    /// executed is sent again by itself, before the unit counts as answered.
    pub(crate) fn prepared_by(mut self, preparations: Commands) -> Self {
        self.preparations += preparations.len();
        self.commands.splice(0..0, preparations);
        self
    }

    /// Returns true if ASKING must precede the command at this index. ASKING before MULTI covers the whole transaction;
    /// within the transaction it would be queued.
    fn takes_asking(&self, at: usize) -> bool {
        self.form != Form::Transaction || at <= self.preparations
    }

    /// Decides from the replies whether the unit is sent again.
    fn outcome(&self, mut replies: Replies) -> Outcome {
        let prepared: Replies = replies.drain(..self.preparations.min(replies.len())).collect();
        let redirection = match self.form {
            // All commands have the same key or slot, so the first redirection counts.
            Form::Queries | Form::Single => replies.iter().find_map(redirection),
            Form::Transaction => redirection_of_transaction(&replies),
        };
        match (redirection, self.form) {
            (Some(redirection), _) => Outcome::Again(redirection),
            (None, Form::Queries | Form::Single) => Outcome::Done(Ok(replies), self.missed(&prepared)),
            (None, Form::Transaction) => {
                let count = replies.len().saturating_sub(2);
                Outcome::Done(executed(replies, count), self.missed(&prepared))
            }
        }
    }

    /// Returns the preparations that were redirected, each as a unit of its own.
    fn missed(&self, prepared: &[Reply]) -> Vec<Self> {
        let redirected = self.commands.iter().zip(prepared).filter(|(_, reply)| redirection(reply).is_some());
        let alone = |command: &Cmd| Self {
            slot: self.slot,
            commands: vec![command.clone()],
            preparations: 0,
            form: Form::Single,
        };
        redirected.map(|(command, _)| alone(command)).collect()
    }
}

/// What the replies to a unit mean.
enum Outcome {
    /// Nothing but preparations was executed, and another primary may execute it.
    Again(Redirect),
    /// The replies, and the preparations that must be sent again.
    Done(Result<Replies>, Vec<Unit>),
}

/// Replies to the commands of a unit, without its preparations, MULTI and EXEC.
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
        let mut missed = Vec::new();
        for _ in 0..HOPS_MAX {
            let mut redirects = Vec::new();
            for (at, asked, replies) in self.round(&units, std::mem::take(&mut open), access, deadline).await {
                match replies.map(|replies| units[at].outcome(replies)) {
                    Ok(Outcome::Again(redirect)) => redirects.push((at, redirect)),
                    Ok(Outcome::Done(done, unprepared)) => {
                        results[at] = Some(done.map(|replies| Answered { replies, by_ask: asked }));
                        missed.extend(unprepared.into_iter().map(|unit| (at, unit)));
                    }
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
        if !missed.is_empty() {
            self.prepare_late(missed, &mut results, access, deadline).await;
        }
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(errors::unexpected("a pipeline")))).collect()
    }

    /// Sends the preparations that were redirected although the commands after them were executed. The result of a unit
    /// whose preparation fails is unknown.
    async fn prepare_late(
        &self,
        missed: Vec<(usize, Unit)>,
        results: &mut [Option<Result<Answered>>],
        access: Access,
        deadline: Instant,
    ) {
        let (places, units): (Vec<usize>, Vec<Unit>) = missed.into_iter().unzip();
        let answers = Box::pin(self.ask_units(units, access, deadline)).await;
        for (at, answer) in places.into_iter().zip(answers) {
            let is_done = |answered: Answered| answered.replies.into_iter().all(|reply| ops::checked(reply).is_ok());
            if !answer.is_ok_and(is_done) && results[at].as_ref().is_some_and(Result::is_ok) {
                results[at] = Some(Err(errors::unprepared()));
            }
        }
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
                Ok(group) => PrimaryBatch::of(&mut batches, group, asked.is_some()).add(at, &units[at]),
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
    /// For each command, true for ASKING, whose reply belongs to no unit.
    is_asking: Vec<bool>,
    /// Index and number of commands of each unit.
    units: Vec<(usize, usize)>,
}

impl PrimaryBatch {
    /// Returns the batch for this group, and adds it if it does not exist.
    fn of(batches: &mut Vec<Self>, group: Arc<ConnectionGroup>, asking: bool) -> &mut Self {
        let is_it = |batch: &Self| Arc::ptr_eq(&batch.group, &group) && batch.asking == asking;
        let at = batches.iter().position(is_it).unwrap_or_else(|| {
            batches.push(Self { group, asking, commands: Commands::new(), is_asking: Vec::new(), units: Vec::new() });
            batches.len() - 1
        });
        &mut batches[at]
    }

    fn add(&mut self, at: usize, unit: &Unit) {
        for (index, command) in unit.commands.iter().enumerate() {
            if self.asking && unit.takes_asking(index) {
                self.commands.push(word("ASKING"));
                self.is_asking.push(true);
            }
            self.commands.push(command.clone());
            self.is_asking.push(false);
        }
        self.units.push((at, unit.commands.len()));
    }

    async fn send(self, access: Access, deadline: Instant) -> Vec<(usize, bool, Result<Replies>)> {
        let Self { group, asking, commands, is_asking, units } = self;
        let count = commands.len();
        let replies = match group.ask(commands, access, deadline).await {
            Ok(replies) if replies.len() == count => replies,
            Ok(_) => return units.iter().map(|(at, _)| (*at, asking, Err(errors::unexpected("a pipeline")))).collect(),
            Err(error) => return units.iter().map(|(at, _)| (*at, asking, Err(error.clone()))).collect(),
        };
        let of_units = replies.into_iter().zip(is_asking).filter(|(_, is_asking)| !is_asking);
        let mut replies = of_units.map(|(reply, _)| reply);
        units.into_iter().map(|(at, count)| (at, asking, Ok(replies.by_ref().take(count).collect()))).collect()
    }
}

/// Returns the redirection of a transaction that was not executed: the first redirection of its commands.
///
/// A transaction is rejected as a whole if Redis redirected one of its commands. If MULTI itself was rejected, its
/// commands were executed one by one, and nothing may be repeated.
fn redirection_of_transaction(replies: &[Reply]) -> Option<Redirect> {
    let is_begun = matches!(replies.first(), Some(Reply::Okay));
    let is_rejected = matches!(replies.last(), Some(Reply::ServerError(_)));
    if is_begun && is_rejected { replies.iter().find_map(redirection) } else { None }
}

/// Returns the redirection in a reply, if there is one.
fn redirection(reply: &Reply) -> Option<Redirect> {
    let Reply::ServerError(error) = reply else { return None };
    match error.code() {
        "MOVED" => Some(Redirect::Moved),
        "TRYAGAIN" => Some(Redirect::TryAgain),
        "ASK" => Some(asked_at(error.details()?).map_or(Redirect::Moved, Redirect::Ask)),
        _ => None,
    }
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

    fn names(unit: &Unit) -> String {
        let packed = unit.commands.iter().map(|command| String::from_utf8(command.get_packed_command()).unwrap());
        packed.map(|text| text.lines().nth(2).unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    }

    fn again(unit: &Unit, lines: &[&str]) -> bool {
        matches!(unit.outcome(lines.iter().map(|line| reply(line)).collect()), Outcome::Again(_))
    }

    fn done(unit: &Unit, lines: &[&str]) -> Result<Replies> {
        match unit.outcome(lines.iter().map(|line| reply(line)).collect()) {
            Outcome::Done(done, _) => done,
            Outcome::Again(_) => panic!("sent again: {lines:?}"),
        }
    }

    #[test]
    fn redirects_are_told_from_answers() {
        assert!(redirection(&reply(":5")).is_none());
        assert!(redirection(&reply("-WRONGTYPE no")).is_none());
        assert!(matches!(redirection(&reply("-MOVED 1 h:2")), Some(Redirect::Moved)));
        assert!(matches!(redirection(&reply("-TRYAGAIN wait")), Some(Redirect::TryAgain)));
        let Some(Redirect::Ask(endpoint)) = redirection(&reply("-ASK 3999 127.0.0.1:6381")) else { panic!("ASK") };
        assert_eq!(endpoint, Endpoint::Tcp("127.0.0.1".to_owned(), 6381));
        assert_eq!(asked_at("1 ::1:7000"), Some(Endpoint::Tcp("::1".to_owned(), 7000)));
        assert!(matches!(redirection(&reply("-ASK 3999 :6381")), Some(Redirect::Moved)), "the host is not known");
    }

    #[test]
    fn only_the_reply_of_a_write_decides_whether_it_is_sent_again() {
        let unit = Unit::single(b"k", word("INCR")).prepared_by(vec![word("DEL")]);
        assert_eq!(names(&unit), "DEL INCR");
        for ignored in [":1", "-ASK 1 h:2", "-TRYAGAIN wait", "-MOVED 1 h:2", "-OOM no"] {
            let outcome = unit.outcome(vec![reply(ignored), reply(":7")]);
            let Outcome::Done(replies, missed) = outcome else { panic!("sent again: {ignored}") };
            assert_eq!(replies.unwrap(), [reply(":7")]);
            let is_redirected = redirection(&reply(ignored)).is_some();
            assert_eq!(missed.iter().map(names).collect::<Vec<_>>(), vec!["DEL"; usize::from(is_redirected)]);
            assert!(again(&unit, &[ignored, "-ASK 1 h:2"]));
        }
        let queries = Unit::queries(b"k", vec![word("SISMEMBER"), word("GET")]);
        assert!(again(&queries, &["-ASK 1 h:2", "$-1"]) && again(&queries, &[":1", "-MOVED 1 h:2"]));
    }

    #[test]
    fn a_transaction_is_sent_again_only_if_it_was_not_executed() {
        let unit = Unit::transaction(1, vec![word("EVAL"), word("INCR")]).prepared_by(vec![word("DEL")]);
        assert_eq!(names(&unit), "DEL MULTI EVAL INCR EXEC");
        let executed = ["-ASK 1 h:2", "+OK", "+QUEUED", "+QUEUED", "*2\r\n:0\r\n:7"];
        assert_eq!(done(&unit, &executed).unwrap(), [reply(":0"), reply(":7")]);
        for rejected in ["-TRYAGAIN wait", "-ASK 1 h:2", "-MOVED 1 h:2"] {
            assert!(again(&unit, &[":1", "+OK", rejected, "+QUEUED", "-EXECABORT no"]), "{rejected}");
            assert!(again(&unit, &[":1", "+OK", "+QUEUED", "+QUEUED", rejected]), "{rejected}");
            // Without MULTI, INCR was executed.
            assert!(done(&unit, &[":1", "-NOPERM no", rejected, ":7", "-ERR EXEC without MULTI"]).is_err());
        }
        assert!(done(&unit, &[":1", "+OK", "-OOM no", "+QUEUED", "-EXECABORT no"]).is_err());
    }

    #[test]
    fn asking_precedes_each_command_outside_a_transaction() {
        let asked = |unit: &Unit| (0..unit.commands.len()).map(|at| unit.takes_asking(at)).collect::<Vec<_>>();
        let single = Unit::single(b"k", word("INCR")).prepared_by(vec![word("DEL")]);
        assert_eq!(asked(&single), [true, true]);
        let transaction = Unit::transaction(1, vec![word("INCR")]).prepared_by(vec![word("DEL")]);
        assert_eq!(asked(&transaction), [true, true, false, false]);
    }
}
