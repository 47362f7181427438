//! Plays the synthetic workload of [`services`](super::services) through the simulator's engine and tells what came of it.

use terrace::{
    cli::{
        simulate::engine::{Below, Expiry, Figures, Mode, Plan, Playback, Run},
        trace::Request,
    },
    learn::Learner,
};

use super::services::{AFTER_ONLY, BEFORE_ONLY, Call, Kind, Services};

/// Requests at the beginning, and after the change of the schema, in which the learner may learn: they do not count.
const LEARNING: usize = 15_000;
/// How often it is looked which rules are on, and what is staged, requests.
const LOOK_EVERY: usize = 250;
/// A rule is on from this probability: less is not fetched.
const ON: f32 = 0.5;

/// Reads, and how many of them L1 answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) reads: u64,
    pub(crate) hits: u64,
}

impl Share {
    pub(crate) fn ratio(self) -> f64 {
        self.hits as f64 / self.reads.max(1) as f64
    }
}

/// What came of a workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served {
    /// Without prefetch, and with it.
    pub(crate) without: Figures,
    pub(crate) with: Figures,
    /// Dependents of things never seen before.
    pub(crate) often: Share,
    pub(crate) sometimes: Share,
    /// Requests from the change of the schema until the last rule of the old one was off, and all of the new one were on.
    pub(crate) old_off: Option<usize>,
    pub(crate) new_on: Option<usize>,
}

impl Served {
    /// Reads below that prefetch adds, as a part of those without.
    pub(crate) fn more_reads(&self) -> f64 {
        self.with.l2_reads as f64 / self.without.l2_reads as f64 - 1.0
    }
}

/// Plays a workload with and without prefetch.
pub(crate) fn serve(services: Services, plan: Plan) -> Served {
    let calls: Vec<Call> = services.calls().collect();
    let mut below = Below::default();
    calls.iter().for_each(|call| below.add(&call.request));
    let mut played = Playback::new(below, Expiry::default());
    let mut runs = [Run::new(Plan { prefetch: Mode::Off, ..plan }), Run::new(plan)];
    let (mut often, mut sometimes) = (Share::default(), Share::default());
    let (mut old_off, mut new_on) = (None, None);
    let change = calls.len() / 2;
    for (at, call) in calls.iter().enumerate() {
        let counts = call.is_new && at >= LEARNING && !(change..change + LEARNING).contains(&at);
        played.play(&call.request, &mut runs, |run, hit| {
            let share = match call.kind {
                Kind::Often if counts && run == 1 => &mut often,
                Kind::Sometimes if counts && run == 1 => &mut sometimes,
                Kind::Often | Kind::Sometimes | Kind::Root | Kind::Noise => return,
            };
            share.reads += 1;
            share.hits += u64::from(hit);
        });
        if at >= change && at.is_multiple_of(LOOK_EVERY) {
            // It counts from when it stays so.
            let since = at - change;
            let is_on = |heads: &[&str]| runs[1].learner().map_or(0, |learner| rules_on(learner, heads));
            old_off = if is_on(&BEFORE_ONLY) == 0 { old_off.or(Some(since)) } else { None };
            new_on = if is_on(&AFTER_ONLY) == AFTER_ONLY.len() { new_on.or(Some(since)) } else { None };
        }
    }
    let [without, with] = [0, 1].map(|run| runs[run].figures());
    Served { without, with, often, sometimes, old_off, new_on }
}

/// What an adversary got.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Withstood {
    /// Reads below that prefetch added, as a part of those without.
    pub(crate) more_reads: f64,
    /// Misses over those without.
    pub(crate) misses_over: f64,
    /// Most that was staged at once.
    pub(crate) staged_bytes: u64,
}

/// Plays requests with and without prefetch.
pub(crate) fn withstand(requests: &[Request], plan: Plan) -> Withstood {
    let mut below = Below::default();
    requests.iter().for_each(|request| below.add(request));
    let mut played = Playback::new(below, Expiry::default());
    let mut runs = [Run::new(Plan { prefetch: Mode::Off, ..plan }), Run::new(plan)];
    let mut staged_bytes = 0;
    for (at, request) in requests.iter().enumerate() {
        played.play(request, &mut runs, |_, _| {});
        if at.is_multiple_of(LOOK_EVERY) {
            staged_bytes = staged_bytes.max(runs[1].figures().staged.bytes);
        }
    }
    let [without, with] = [0, 1].map(|run| runs[run].figures());
    Withstood {
        more_reads: with.l2_reads as f64 / without.l2_reads as f64 - 1.0,
        misses_over: with.misses as f64 / without.misses as f64,
        staged_bytes,
    }
}

/// How many of these keys are predicted.
fn rules_on(learner: &Learner, heads: &[&str]) -> usize {
    let rules = learner.rules();
    // What stands at keys that nobody reads any more is never asked.
    let is_read = |template: &str| !BEFORE_ONLY.iter().any(|head| template.starts_with(head));
    let read = || rules.iter().filter(|(template, _)| is_read(template));
    let all = || read().flat_map(|(_, rules)| rules).filter(|rule| rule.p >= ON);
    heads.iter().filter(|head| all().any(|rule| rule.makes.starts_with(**head))).count()
}
