//! The states and events of the model: one key in Redis, its copy in a node, and all messages in flight.

use super::{Rules, Scope, Step};

/// A read that missed L1. `lease` is the epoch in which it was taken, while it is live; `waits` is the newest
/// invalidation that the node had received when a reader joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Fill {
    Idle,
    /// GET is in flight.
    Asked {
        lease: Option<u8>,
        waits: Option<u8>,
    },
    /// The reply is in flight.
    Answered {
        lease: Option<u8>,
        waits: Option<u8>,
        value: u8,
    },
    Over,
}

/// A write through the node; `awaited` until its caller times out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Local {
    Idle,
    Sent {
        awaited: bool,
    },
    /// Redis has executed the write; the acknowledgement is in flight.
    Done {
        value: u8,
    },
    Over,
}

/// The invalidation link, as the node sees it, except for `Lost`, which the node has not detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Link {
    Up,
    Lost,
    Down,
    /// `CLIENT TRACKING ON` is in flight.
    Asking,
    /// The reply of Redis to it is in flight, ahead of all pushes.
    Answered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    // Redis
    pub(super) value: u8,
    externals_left: u8,
    // The link, and pushes in flight.
    link: Link,
    pushes: u8,
    losses_left: u8,
    // The node
    epoch: u8,
    /// Value and epoch of the copy.
    copy: Option<(u8, u8)>,
    fills: [Fill; 3],
    locals: [Local; 2],
    readers_left: u8,
    /// A reader received a value that it must not receive.
    misled: bool,
}

/// One event. Numbers are positions in the lists of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Ask(usize),
    Join(usize),
    Answer(usize),
    Fill(usize),
    External,
    Send(usize),
    Do(usize),
    Acknowledge(usize),
    TimeOut(usize),
    Hear,
    Lose,
    Notice,
    AskTracking,
    Track,
}

impl State {
    pub(super) fn start(scope: Scope) -> Self {
        // Positions beyond the scope start as completed.
        let mut fills = [Fill::Over; 3];
        fills[..scope.fills].fill(Fill::Idle);
        let mut locals = [Local::Over; 2];
        locals[..scope.locals].fill(Local::Idle);
        Self {
            value: 0,
            externals_left: scope.externals,
            link: Link::Up,
            pushes: 0,
            losses_left: scope.losses,
            epoch: 0,
            copy: None,
            fills,
            locals,
            readers_left: scope.readers,
            misled: false,
        }
    }

    /// Returns whether the fence is open. It stays open until a loss is detected, which takes at most Δ and is allowed.
    fn open(&self) -> bool {
        matches!(self.link, Link::Up | Link::Lost)
    }

    /// Returns whether Redis announces writes.
    fn tracked(&self) -> bool {
        matches!(self.link, Link::Up | Link::Answered)
    }

    /// Returns the value that L1 would answer with.
    pub(super) fn hit(&self) -> Option<u8> {
        self.copy.filter(|(_, epoch)| self.open() && *epoch == self.epoch).map(|(value, _)| value)
    }

    pub(super) fn is_quiet(&self) -> bool {
        let fills = self.fills.iter().all(|fill| matches!(fill, Fill::Idle | Fill::Over));
        let locals = self.locals.iter().all(|local| matches!(local, Local::Idle | Local::Over));
        fills && locals && self.pushes == 0 && self.link == Link::Up
    }

    /// Returns whether the state is a violation.
    pub(super) fn is_wrong(&self) -> bool {
        self.misled || self.is_quiet() && self.hit().is_some_and(|copy| copy != self.value)
    }

    /// Returns the newest write that was announced to the node; valid while every write is announced.
    fn heard(&self) -> u8 {
        self.value - self.pushes
    }

    fn has_live_lease(&self) -> bool {
        self.fills.iter().any(|fill| fill.lease().is_some())
    }

    /// Lists all possible events.
    pub(super) fn events(&self, rules: &Rules, events: &mut Vec<Event>) {
        events.clear();
        for (at, fill) in self.fills.iter().enumerate() {
            match fill {
                // A hit needs no fill. With leases, a reader that finds a fill joins it. All idle fills are equal, so
                // only the first of them takes the event.
                Fill::Idle if at == 0 || self.fills[at - 1] != Fill::Idle => {
                    if self.hit().is_none() && !(rules.lease && self.has_live_lease()) {
                        events.push(Event::Ask(at));
                    }
                }
                Fill::Idle | Fill::Over => {}
                Fill::Asked { .. } => events.push(Event::Answer(at)),
                Fill::Answered { .. } => events.push(Event::Fill(at)),
            }
            let may_join = self.readers_left > 0 && fill.is_under_way() && self.hit().is_none();
            if may_join && (fill.lease().is_some() || !rules.detach) {
                events.push(Event::Join(at));
            }
        }
        for (at, local) in self.locals.iter().enumerate() {
            match local {
                Local::Idle if at == 0 || self.locals[at - 1] != Local::Idle => events.push(Event::Send(at)),
                Local::Idle | Local::Over => {}
                Local::Sent { awaited } => {
                    events.push(Event::Do(at));
                    if *awaited {
                        events.push(Event::TimeOut(at));
                    }
                }
                Local::Done { .. } => events.extend([Event::Acknowledge(at), Event::TimeOut(at)]),
            }
        }
        if self.externals_left > 0 {
            events.push(Event::External);
        }
        match self.link {
            Link::Up => {
                if self.pushes > 0 {
                    events.push(Event::Hear);
                }
                if self.losses_left > 0 {
                    events.push(Event::Lose);
                }
            }
            Link::Lost => events.push(Event::Notice),
            Link::Down => events.push(Event::AskTracking),
            Link::Asking => events.push(Event::Track),
            Link::Answered => events.push(Event::Hear),
        }
    }

    /// Returns the state after `event`.
    pub(super) fn after(mut self, event: Event, rules: &Rules) -> Self {
        match event {
            Event::Ask(at) => {
                let leased = self.open() || !rules.closed_means_no_lease;
                self.fills[at] = Fill::Asked { lease: leased.then_some(self.epoch), waits: None };
            }
            Event::Join(at) => self.join(at),
            Event::Answer(at) => {
                if let Fill::Asked { lease, waits } = self.fills[at] {
                    self.fills[at] = Fill::Answered { lease, waits, value: self.value };
                }
            }
            Event::Fill(at) => self.fill(at, rules),
            Event::External => {
                self.externals_left -= 1;
                self.write(true);
            }
            Event::Send(at) => {
                if rules.drop_before {
                    self.invalidate();
                }
                self.locals[at] = Local::Sent { awaited: true };
            }
            Event::Do(at) => {
                self.write(!rules.noloop);
                let awaited = self.locals[at] == Local::Sent { awaited: true };
                // No caller waits for this acknowledgement, so it changes nothing.
                self.locals[at] = if awaited { Local::Done { value: self.value } } else { Local::Over };
            }
            Event::Acknowledge(at) => self.acknowledge(at, rules),
            Event::TimeOut(at) => {
                let is_done = matches!(self.locals[at], Local::Done { .. });
                self.locals[at] = if is_done { Local::Over } else { Local::Sent { awaited: false } };
                if rules.drop_after {
                    self.invalidate();
                }
            }
            Event::Hear => self.hear(rules),
            Event::Lose => {
                self.losses_left -= 1;
                self.pushes = 0;
                self.link = Link::Lost;
            }
            Event::Notice => {
                self.link = Link::Down;
                self.epoch += 1;
            }
            Event::AskTracking => {
                self.link = Link::Asking;
                self.epoch += u8::from(rules.step == Step::LossAndAsking);
            }
            Event::Track => self.link = Link::Answered,
        }
        self.fills.sort_unstable();
        self.locals.sort_unstable();
        self
    }

    fn write(&mut self, announced: bool) {
        self.value += 1;
        self.pushes += u8::from(announced && self.tracked());
    }

    /// Removes the copy and voids the lease.
    fn invalidate(&mut self) {
        self.copy = None;
        for fill in &mut self.fills {
            if let Fill::Asked { lease, .. } | Fill::Answered { lease, .. } = fill {
                *lease = None;
            }
        }
    }

    fn join(&mut self, at: usize) {
        self.readers_left -= 1;
        let heard = self.heard();
        if let Fill::Asked { waits, .. } | Fill::Answered { waits, .. } = &mut self.fills[at] {
            *waits = Some(heard);
        }
    }

    /// Processes the reply: inserts the copy if permitted, and passes the value to the waiting reader.
    fn fill(&mut self, at: usize, rules: &Rules) {
        let Fill::Answered { lease, waits, value } = self.fills[at] else { return };
        let may = match lease {
            _ if !rules.lease => true,
            None => false,
            Some(epoch) => epoch == self.epoch || !rules.lease_has_epoch,
        };
        if may {
            self.copy = Some((value, self.epoch));
        }
        self.misled |= waits.is_some_and(|heard| value < heard);
        self.fills[at] = Fill::Over;
    }

    fn acknowledge(&mut self, at: usize, rules: &Rules) {
        let Local::Done { value } = self.locals[at] else { return };
        if rules.drop_after {
            self.invalidate();
        }
        if rules.write_through {
            self.copy = Some((value, self.epoch));
        }
        self.locals[at] = Local::Over;
    }

    fn hear(&mut self, rules: &Rules) {
        if self.link == Link::Answered {
            // Tracking is enabled and the fence opens.
            self.epoch += u8::from(rules.step == Step::LossAndTracking);
            self.link = Link::Up;
        } else {
            self.pushes -= 1;
            self.invalidate();
        }
    }
}

impl Fill {
    fn lease(self) -> Option<u8> {
        match self {
            Self::Asked { lease, .. } | Self::Answered { lease, .. } => lease,
            Self::Idle | Self::Over => None,
        }
    }

    fn is_under_way(self) -> bool {
        matches!(self, Self::Asked { waits: None, .. } | Self::Answered { waits: None, .. })
    }
}

impl Event {
    pub(super) fn tell(self, before: &State, after: &State) -> String {
        let redis = after.value;
        match self {
            Self::Ask(_) => "a read misses and sends GET".to_owned(),
            Self::Join(_) => format!("a reader joins the flight; the node has heard of write {}", before.heard()),
            Self::Answer(_) => format!("Redis answers GET with {redis}"),
            Self::Fill(_) => format!("the answer comes; L1 holds {}", after.l1()),
            Self::External => format!("somebody writes {redis}"),
            Self::Send(_) => format!("a write is sent through the node; L1 holds {}", after.l1()),
            Self::Do(_) => format!("Redis does it: {redis}"),
            Self::Acknowledge(_) => format!("it is acknowledged; L1 holds {}", after.l1()),
            Self::TimeOut(_) => format!("its caller times out; L1 holds {}", after.l1()),
            Self::Hear if before.link == Link::Answered => "tracking is on; the fence opens".to_owned(),
            Self::Hear => format!("an invalidation is heard; L1 holds {}", after.l1()),
            Self::Lose => "the link is lost, with what was on its way".to_owned(),
            Self::Notice => "the node notices: the fence closes".to_owned(),
            Self::AskTracking => "the node asks for tracking on a new link".to_owned(),
            Self::Track => "Redis turns tracking on".to_owned(),
        }
    }
}

impl State {
    fn l1(&self) -> String {
        self.copy.map_or("nothing".to_owned(), |(value, _)| value.to_string())
    }
}

impl State {
    pub(super) fn end(&self) -> String {
        if self.misled {
            return "the reader is given a value older than that".to_owned();
        }
        format!("nothing is on its way; L1 answers {}, Redis holds {}", self.l1(), self.value)
    }
}
