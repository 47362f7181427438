//! Waiters of one node: they are woken when the lease of another client ends, and no waiter receives a value that was
//! loaded before an invalidation that was acknowledged before the waiter came.
//!
//! The node *leads* if the client with the lease is connected to it: then the waiters receive the filled value without
//! another read. A push reaches the node over its invalidation link; a lost link loses the pushes in flight.

use super::search::{Step, World};

#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// A waiter registers for pushes before it asks Redis.
    pub(super) register_first: bool,
    /// A waiter asks again when the exclusive time of the lease is over.
    pub(super) timer: bool,
    /// A lost link wakes all waiters.
    pub(super) lost_link_wakes: bool,
    /// The close of the leader's connection ends its exclusive time in Redis.
    pub(super) close_ends_lease: bool,
    /// A write through the node detaches the flight before it is sent.
    pub(super) detach_before: bool,
    /// It does so again after its end.
    pub(super) detach_after: bool,
}

pub(super) const PROTOCOL: Rules = Rules {
    register_first: true,
    timer: true,
    lost_link_wakes: true,
    close_ends_lease: true,
    detach_before: true,
    detach_after: true,
};

/// The record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Lease {
    None,
    Exclusive,
    /// The exclusive time is over; another client may take over.
    Over,
}

/// The client with the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Leader {
    Granted,
    Loaded(u8),
    /// The fill is in flight.
    Sent(u8),
    /// The fill was executed; the reply is in flight.
    Filled(u8),
    Over,
}

/// A waiter; `since` is the newest version whose invalidation was acknowledged when the waiter came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Waiter {
    Idle,
    /// The request is in flight. `woken`: a push came after the registration.
    Asked {
        since: u8,
        registered: bool,
        woken: bool,
    },
    /// The reply `busy` is in flight.
    Busy {
        since: u8,
        registered: bool,
        woken: bool,
    },
    Sleeps {
        since: u8,
    },
    /// The version of the value that it received, at least `since`.
    Served {
        since: u8,
        version: u8,
    },
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Writer {
    Idle,
    Begun(u8),
    Executed(u8),
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Link {
    Up,
    /// Lost, and the node has not noticed it.
    Lost,
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    origin: u8,
    settled: u8,
    key: Option<u8>,
    lease: Lease,
    leader: Leader,
    /// The flight of the leader: false after it was detached.
    is_attached: bool,
    /// The leader is connected to this node.
    leads: bool,
    pushes: u8,
    link: Link,
    losses_left: u8,
    waiters: [Waiter; 2],
    writers: [Writer; 1],
}

impl State {
    /// Creates the state after a grant to a client of this node, or of another one.
    pub(super) fn start(leads: bool, losses: u8) -> Self {
        Self {
            origin: 0,
            settled: 0,
            key: None,
            lease: Lease::Exclusive,
            leader: Leader::Granted,
            is_attached: true,
            leads,
            pushes: 0,
            link: Link::Up,
            losses_left: losses,
            waiters: [Waiter::Idle; 2],
            writers: [Writer::Idle],
        }
    }

    fn announce(&mut self) {
        if self.link == Link::Up {
            self.pushes += 1;
        }
    }

    fn wake_all(&mut self) {
        for waiter in &mut self.waiters {
            match waiter {
                Waiter::Asked { registered: true, woken, .. } | Waiter::Busy { registered: true, woken, .. } => {
                    *woken = true;
                }
                Waiter::Sleeps { since } => {
                    *waiter = Waiter::Asked { since: *since, registered: true, woken: false };
                }
                Waiter::Idle | Waiter::Asked { .. } | Waiter::Busy { .. } | Waiter::Served { .. } | Waiter::Over => {}
            }
        }
    }

    fn steps_of_leader(&self, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut add = |text, change: &dyn Fn(&mut Self)| {
            let mut next = *self;
            change(&mut next);
            steps.push(Step::new(text, 0, next));
        };
        match self.leader {
            Leader::Granted => {
                add("the leader loads from the origin", &|next| next.leader = Leader::Loaded(next.origin));
                add("the connection of the leader closes", &|next| {
                    next.leader = Leader::Over;
                    next.wake_led();
                    if rules.close_ends_lease && next.lease == Lease::Exclusive {
                        next.lease = Lease::Over;
                        next.announce();
                    }
                });
                add("the node of the leader dies", &|next| {
                    if !next.leads {
                        next.leader = Leader::Over;
                    }
                });
            }
            Leader::Loaded(version) => add("the leader sends its fill", &|next| next.leader = Leader::Sent(version)),
            Leader::Sent(version) => add("the fill is executed", &|next| {
                let fits = next.lease != Lease::None;
                next.leader = if fits { Leader::Filled(version) } else { Leader::Over };
                if !fits {
                    next.wake_led();
                } else {
                    (next.key, next.lease) = (Some(version), Lease::None);
                    next.announce();
                }
            }),
            Leader::Filled(version) => {
                add("the fill is acknowledged; the waiters of the flight have its value", &|next| {
                    next.leader = Leader::Over;
                    if next.leads && next.is_attached {
                        next.serve_sleeping(version);
                    }
                })
            }
            Leader::Over => {}
        }
        // Only a lease whose leader is gone ends by time, so that the time counts.
        if self.lease == Lease::Exclusive && self.leader == Leader::Over {
            add("the exclusive time ends", &|next| next.lease = Lease::Over);
        }
    }

    /// The flight of the leader ends without a value: its waiters ask Redis.
    fn wake_led(&mut self) {
        if self.leads {
            self.wake_all();
        }
    }

    fn serve_sleeping(&mut self, version: u8) {
        for waiter in &mut self.waiters {
            if let Waiter::Sleeps { since } = *waiter {
                *waiter = Waiter::Served { since, version };
            }
        }
    }

    fn steps_of_waiter(&self, at: usize, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        let text = match self.waiters[at] {
            Waiter::Idle if at > 0 && self.waiters[at - 1] == Waiter::Idle => return,
            Waiter::Idle => {
                let asks = Waiter::Asked { since: self.settled, registered: rules.register_first, woken: false };
                if self.leads && self.is_attached && self.leader != Leader::Over {
                    next.waiters[at] = Waiter::Sleeps { since: self.settled };
                    steps.push(Step::new("waiter {} joins the flight of the leader", at, next));
                    return;
                }
                next.waiters[at] = asks;
                "waiter {} asks Redis"
            }
            Waiter::Asked { since, registered, woken } => {
                next.waiters[at] = match (self.key, self.lease) {
                    (Some(version), _) => Waiter::Served { since, version },
                    (None, Lease::Exclusive) => Waiter::Busy { since, registered, woken },
                    // It has the lease.
                    (None, Lease::None | Lease::Over) => Waiter::Over,
                };
                "Redis executes the request of waiter {}"
            }
            Waiter::Busy { since, woken: true, .. } => {
                next.waiters[at] = Waiter::Asked { since, registered: true, woken: false };
                "waiter {} was woken and asks again"
            }
            Waiter::Busy { since, .. } => {
                next.waiters[at] = Waiter::Sleeps { since };
                "waiter {} receives busy and sleeps"
            }
            Waiter::Sleeps { since } if rules.timer && self.lease == Lease::Over => {
                next.waiters[at] = Waiter::Asked { since, registered: true, woken: false };
                "the timer of waiter {} ends; it asks again"
            }
            Waiter::Served { .. } => {
                next.waiters[at] = Waiter::Over;
                "waiter {} has its value"
            }
            Waiter::Sleeps { .. } | Waiter::Over => return,
        };
        steps.push(Step::new(text, at, next));
    }

    /// A Delete through the node of the waiters.
    fn steps_of_writer(&self, at: usize, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        let text = match self.writers[at] {
            Writer::Idle => {
                next.origin += 1;
                next.writers[at] = Writer::Begun(next.origin);
                if rules.detach_before {
                    next.detach();
                }
                "a Delete through the node begins"
            }
            Writer::Begun(version) => {
                (next.key, next.lease) = (None, Lease::None);
                next.announce();
                next.writers[at] = Writer::Executed(version);
                "the Delete is executed"
            }
            Writer::Executed(version) => {
                next.settled = version;
                next.writers[at] = Writer::Over;
                if rules.detach_after {
                    next.detach();
                }
                "the Delete is acknowledged"
            }
            Writer::Over => return,
        };
        steps.push(Step::new(text, at, next));
    }

    /// Waiters of a detached flight ask Redis.
    fn detach(&mut self) {
        self.is_attached = false;
        self.wake_all();
    }

    fn steps_of_link(&self, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        let text = match self.link {
            Link::Up if self.pushes > 0 => {
                next.pushes -= 1;
                next.wake_all();
                "a push wakes the waiters"
            }
            Link::Up => return self.step_of_loss(steps),
            Link::Lost => {
                next.link = Link::Down;
                if rules.lost_link_wakes {
                    next.wake_all();
                }
                "the node notices the loss"
            }
            Link::Down => {
                // Waiters that asked while the link was down have missed pushes, too.
                next.link = Link::Up;
                if rules.lost_link_wakes {
                    next.wake_all();
                }
                "the node has a new link"
            }
        };
        steps.push(Step::new(text, 0, next));
        if self.link == Link::Up {
            self.step_of_loss(steps);
        }
    }

    fn step_of_loss(&self, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        if self.losses_left > 0 {
            next.losses_left -= 1;
            (next.link, next.pushes) = (Link::Lost, 0);
            steps.push(Step::new("the link is lost", 0, next));
        }
    }
}

impl World for State {
    type Rules = Rules;

    fn steps(&self, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        self.steps_of_leader(rules, steps);
        (0..self.waiters.len()).for_each(|at| self.steps_of_waiter(at, rules, steps));
        (0..self.writers.len()).for_each(|at| self.steps_of_writer(at, rules, steps));
        self.steps_of_link(rules, steps);
    }

    fn violation(&self, rules: &Rules) -> Option<&'static str> {
        let is_old = |waiter: &Waiter| matches!(waiter, Waiter::Served { since, version } if version < since);
        if self.waiters.iter().any(is_old) {
            return Some("a waiter receives a value that was loaded before an invalidation");
        }
        let sleeps = self.waiters.iter().any(|waiter| matches!(waiter, Waiter::Sleeps { .. }));
        let is_quiet = self.pushes == 0 && self.link == Link::Up;
        let is_led = self.leads && self.is_attached && self.leader != Leader::Over;
        let ends = match self.lease {
            // A leader that is gone ends its lease after the exclusive time; a close does not wait for it.
            Lease::Exclusive => self.leader != Leader::Over || rules.close_ends_lease,
            Lease::Over => rules.timer,
            Lease::None => false,
        };
        (sleeps && is_quiet && !is_led && !ends).then_some("a waiter sleeps although the lease has ended")
    }

    fn shows_load(&self) -> bool {
        self.settled > 0 && self.waiters.iter().any(|waiter| matches!(waiter, Waiter::Served { .. }))
    }
}
