//! A seeded synthetic workload of microservices: many concurrent sessions, each of which views one object after another
//! and reads the keys of the object.
//!
//! A view begins with the *root* (`user:17`) and continues with its *dependents* (`profile:17`, `user:17:permissions`),
//! each with its own probability, in random order: some follow at least 9 times in 10, others in 60 % to 80 % of the
//! cases. Sessions take turns at random, so that related keys are far apart. Half of the objects are viewed for the
//! first time. Unrelated reads come between views. Halfway, the schema changes: the roots stay, and the dependents of
//! users and products get other names.

use std::collections::VecDeque;

use fastrand::Rng;
use terrace::cli::trace::Request;

use super::workload::Zipf;

/// Number of objects of each kind that are viewed repeatedly.
const KNOWN: usize = 5_000;
/// Fraction of views of new objects, and fraction of unrelated reads. Among dependents that follow in 60 % to 80 % of
/// the cases, the fraction is so large that fetching all of them would add about 11 % of reads, as in the study that
/// `prefetch.md` cites. If they are most of the traffic, 5 % of additional reads do not suffice.
const NEW: f64 = 0.5;
const NOISE: f64 = 0.1;
const NOISE_SOMETIMES: f64 = 0.6;
/// Size of every value in bytes.
const VALUE_BYTES: u64 = 200;

/// Properties of the requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Services {
    /// Number of concurrent sessions.
    pub(crate) sessions: usize,
    /// Requests identify their session.
    pub(crate) with_callers: bool,
    /// The dependents that exist.
    pub(crate) follow: Follow,
    pub(crate) requests: usize,
    pub(crate) seed: u64,
}

/// The dependents that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// Dependents that follow at least 9 times in 10.
    Often,
    /// Dependents that follow in 60 % to 80 % of the cases.
    Sometimes,
    /// All dependents.
    Mixed,
}

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Root,
    /// Follows at least 9 times in 10.
    Often,
    /// Follows in 60 % to 80 % of the cases.
    Sometimes,
    Noise,
}

/// Number of times that a dependent was drawn, and its probability: for all dependents of one probability, of known or
/// of new objects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Chance {
    pub(crate) probability: f64,
    pub(crate) kind: Kind,
    pub(crate) is_new: bool,
    pub(crate) times: u64,
}

/// One request and its kind.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) kind: Kind,
    /// The object was not viewed before.
    pub(crate) is_new: bool,
}

/// A dependent of a root: how its key is made, and how often it is read.
struct Dependent(&'static str, f64);

/// A kind of object.
struct Scheme {
    root: &'static str,
    before: &'static [Dependent],
    after: &'static [Dependent],
    /// Keys read in order, each with its probability.
    pages: &'static [Dependent],
}

/// `{n}` is a number, `{u}` a UUID, `{t}` a tenant, `{h}` a hexadecimal number of the object.
const SCHEMES: [Scheme; 5] = [
    Scheme {
        root: "user:{n}",
        before: &[
            Dependent("profile:{n}", 0.96),
            Dependent("user:{n}:permissions", 0.95),
            Dependent("sessions:{n}", 0.93),
            Dependent("user:{n}:settings", 0.75),
        ],
        after: &[
            Dependent("identity/v2/{n}", 0.96),
            Dependent("acl:{n}:read", 0.95),
            Dependent("user:{n}:settings", 0.75),
        ],
        pages: &[],
    },
    Scheme {
        root: "product:{n}",
        before: &[Dependent("price:{n}", 0.97), Dependent("stock:{n}:eu", 0.93)],
        after: &[Dependent("offer:{n}:price", 0.97), Dependent("stock:{n}:eu", 0.93)],
        pages: &[Dependent("reviews:{n}:page:1", 0.8), Dependent("reviews:{n}:page:2", 0.7)],
    },
    Scheme {
        root: "/api/v1/orders/{n}",
        before: &[Dependent("/api/v1/orders/{n}/items", 0.96), Dependent("/api/v1/orders/{n}/invoice", 0.65)],
        after: &[Dependent("/api/v1/orders/{n}/items", 0.96), Dependent("/api/v1/orders/{n}/invoice", 0.65)],
        pages: &[],
    },
    Scheme {
        root: "t{t}/cart/{u}",
        before: &[Dependent("t{t}/cart/{u}/lines", 0.95), Dependent("t{t}/coupons/{u}", 0.7)],
        after: &[Dependent("t{t}/cart/{u}/lines", 0.95), Dependent("t{t}/coupons/{u}", 0.7)],
        pages: &[],
    },
    Scheme {
        root: "file:{h}-{n}",
        before: &[Dependent("meta:{h}-{n}", 0.95), Dependent("thumb|{h}-{n}", 0.62)],
        after: &[Dependent("meta:{h}-{n}", 0.95), Dependent("thumb|{h}-{n}", 0.62)],
        pages: &[],
    },
];

/// Prefixes of keys that are read only before the change, and only after it; all of them often.
pub(crate) const BEFORE_ONLY: [&str; 3] = ["profile:", "sessions:", "price:"];
pub(crate) const AFTER_ONLY: [&str; 3] = ["identity/", "acl:", "offer:"];

/// Keys that are read at least this often, as a fraction of views, count as often.
const OFTEN: f64 = 0.9;

/// The requests in order.
pub(crate) struct Calls {
    plan: Services,
    rng: Rng,
    zipf: Zipf,
    sessions: Vec<Session>,
    made: usize,
    begun: u64,
    chances: Vec<Chance>,
}

#[derive(Default)]
struct Session {
    caller: u64,
    left: VecDeque<(String, Kind, bool)>,
}

impl Services {
    /// Returns the requests.
    pub(crate) fn calls(self) -> Calls {
        let sessions = (0..self.sessions).map(|_| Session::default()).collect();
        let (rng, zipf) = (Rng::with_seed(self.seed), Zipf::new(KNOWN, 0.9));
        Calls { plan: self, rng, zipf, sessions, made: 0, begun: 0, chances: Vec::new() }
    }
}

impl Iterator for Calls {
    type Item = Call;

    fn next(&mut self) -> Option<Call> {
        if self.made >= self.plan.requests {
            return None;
        }
        let at = self.rng.usize(..self.sessions.len());
        if self.sessions[at].left.is_empty() {
            self.begun += 1;
            self.sessions[at] = Session { caller: self.begun, left: self.look() };
        }
        let caller = self.sessions[at].caller;
        let (key, kind, is_new) = self.sessions[at].left.pop_front()?;
        let request = Request {
            at_ms: self.made as u64,
            key: key.into_bytes(),
            size: VALUE_BYTES,
            ttl_ms: None,
            caller: self.plan.with_callers.then(|| format!("c{caller}").into_bytes()),
        };
        self.made += 1;
        Some(Call { request, kind, is_new })
    }
}

impl Calls {
    /// Returns the next read of a session.
    fn look(&mut self) -> VecDeque<(String, Kind, bool)> {
        let noise = if self.plan.follow == Follow::Sometimes { NOISE_SOMETIMES } else { NOISE };
        if self.rng.f64() < noise {
            return VecDeque::from([(self.noise(), Kind::Noise, false)]);
        }
        let is_new = self.rng.f64() < NEW;
        let thing = if is_new { KNOWN as u64 + self.begun } else { self.zipf.draw(&mut self.rng) as u64 };
        let number = self.rng.usize(..SCHEMES.len());
        let scheme = &SCHEMES[number];
        let made = |template: &str| make(template, thing * SCHEMES.len() as u64 + number as u64);
        let has_changed = self.made * 2 >= self.plan.requests;
        let mut dependents: Vec<&Dependent> = if has_changed { scheme.after } else { scheme.before }.iter().collect();
        self.rng.shuffle(&mut dependents);
        let mut reads = VecDeque::from([(made(scheme.root), Kind::Root, is_new)]);
        for dependent in dependents {
            if let Some(kind) = self.follows(dependent, is_new) {
                reads.push_back((made(dependent.0), kind, is_new));
            }
        }
        for page in scheme.pages {
            let Some(kind) = self.follows(page, is_new) else { break };
            reads.push_back((made(page.0), kind, is_new));
        }
        reads
    }

    /// Draws whether a dependent is read, and returns its kind.
    fn follows(&mut self, &Dependent(_, probability): &Dependent, is_new: bool) -> Option<Kind> {
        let kind = if probability >= OFTEN { Kind::Often } else { Kind::Sometimes };
        if !self.plan.follow.has(kind) {
            return None;
        }
        let is_same = |chance: &&mut Chance| chance.probability == probability && chance.is_new == is_new;
        match self.chances.iter_mut().find(is_same) {
            Some(chance) => chance.times += 1,
            None => self.chances.push(Chance { probability, kind, is_new, times: 1 }),
        }
        (self.rng.f64() < probability).then_some(kind)
    }

    /// Returns the dependents drawn so far.
    pub(crate) fn chances(&self) -> &[Chance] {
        &self.chances
    }

    fn noise(&mut self) -> String {
        match self.rng.u32(..4) {
            0 => format!("config:{}", ["flags", "limits", "routes", "banner"][self.rng.usize(..4)]),
            1 => format!("rate:10.0.{}.{}", self.rng.u8(..), self.rng.u8(..)),
            2 => format!("token:{:016x}{:016x}", self.rng.u64(..), self.rng.u64(..)),
            _ => (0..12).map(|_| self.rng.lowercase()).collect(),
        }
    }
}

impl Follow {
    fn has(self, kind: Kind) -> bool {
        match self {
            Self::Often => kind == Kind::Often,
            Self::Sometimes => kind == Kind::Sometimes,
            Self::Mixed => true,
        }
    }
}

/// Returns a key of this object.
fn make(template: &str, thing: u64) -> String {
    // Numbers of objects are far apart at random: adding one to a number finds nothing.
    let mixed = (thing + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let (high, low) = (mixed >> 32, mixed & 0xFFFF_FFFF);
    let (a, b, c) = (low >> 16, low & 0xFFF, high & 0xFFF);
    let uuid = format!("{high:08x}-{a:04x}-4{b:03x}-8{c:03x}-{:012x}", mixed & 0xFFFF_FFFF_FFFF);
    let number = (mixed >> 24).to_string();
    let hexadecimal = format!("{:010x}", mixed.rotate_left(17) >> 24);
    template
        .replace("{n}", &number)
        .replace("{u}", &uuid)
        .replace("{t}", &(mixed % 40).to_string())
        .replace("{h}", &hexadecimal)
}
