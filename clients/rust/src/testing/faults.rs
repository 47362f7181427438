//! Faults that tests inject.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use super::counts::OperationKind;
use crate::error::{Error, ErrorKind};

/// An operation that is about to be executed.
#[derive(Debug)]
pub(super) struct Attempt {
    /// `None`: not counted.
    pub(super) kind: Option<OperationKind>,
    pub(super) keys: Vec<Bytes>,
    pub(super) is_write: bool,
    /// Maximum time in which the caller waits for the answer.
    pub(super) timeout: Duration,
    /// Sent by the client on its own: the release of a dropped grant. Faults of a number of operations exclude it,
    /// because the test does not control its time.
    pub(super) is_own: bool,
}

/// How the fake treats one operation.
#[derive(Debug)]
pub(super) enum Verdict {
    Execute,
    /// Execute it, then report that its outcome is unknown.
    Conceal,
    Fail(Error),
}

/// The injected faults.
#[derive(Debug, Default)]
pub(super) struct Faults {
    outage: Option<Injected>,
    keys: HashMap<Bytes, Injected>,
    /// Numbers of operations that fail, with the kind of their errors.
    next: VecDeque<(usize, ErrorKind)>,
    /// Number of writes whose outcome will be unknown.
    unknown: usize,
    /// Real time between the execution and the answer of an operation.
    pub(super) delay: Duration,
}

/// Error of an injected fault.
#[derive(Debug, Clone)]
pub(super) struct Injected {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
}

impl Injected {
    fn error(&self) -> Error {
        Error::new(self.kind, self.message.clone())
    }
}

impl Faults {
    pub(super) fn fail(&mut self, fault: Injected) {
        self.outage = Some(fault);
    }

    pub(super) fn fail_key(&mut self, key: Bytes, fault: Injected) {
        self.keys.insert(key, fault);
    }

    pub(super) fn fail_next(&mut self, count: usize, kind: ErrorKind) {
        self.next.push_back((count, kind));
    }

    pub(super) fn unknown_next(&mut self, count: usize) {
        self.unknown = count;
    }

    /// Decides about an operation.
    pub(super) fn verdict(&mut self, attempt: &Attempt) -> Verdict {
        if let Some(error) = self.outage(&attempt.keys) {
            return Verdict::Fail(error);
        }
        if attempt.is_own {
            return Verdict::Execute;
        }
        if let Some(kind) = self.take_next() {
            return Verdict::Fail(Error::new(kind, format!("injected fault: {kind:?}")));
        }
        if attempt.is_write && self.unknown > 0 {
            self.unknown -= 1;
            return Verdict::Conceal;
        }
        Verdict::Execute
    }

    /// Returns the error of operations on these keys until the recovery.
    pub(super) fn outage(&self, keys: &[Bytes]) -> Option<Error> {
        let of_key = || keys.iter().find_map(|key| self.keys.get(key));
        self.outage.as_ref().or_else(of_key).map(Injected::error)
    }

    fn take_next(&mut self) -> Option<ErrorKind> {
        while let Some((left, kind)) = self.next.front_mut() {
            let kind = *kind;
            if *left > 0 {
                *left -= 1;
                return Some(kind);
            }
            self.next.pop_front();
        }
        None
    }
}
