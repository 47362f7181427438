//! Plays the synthetic workload of [`services`](super::services) through the engine of the simulator and reports the
//! outcomes.

use terrace::{
    cli::{
        simulate::engine::{Below, Expiry, Figures, Mode, Plan, Playback, Run},
        trace::Request,
    },
    learn::prefetch::Learner,
};

use super::services::{AFTER_ONLY, BEFORE_ONLY, Call, Chance, Kind, Services};

/// Number of requests at the beginning, and after the change of the schema, that are not counted because the learner
/// learns.
const LEARNING: usize = 15_000;
/// Requests between two checks of the active rules and the staged entries.
const LOOK_EVERY: usize = 250;
/// Minimum probability of an active rule: predictions with less are not fetched.
const ON: f32 = 0.5;

/// Reads, and the number of reads that L1 answered.
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

/// Outcomes of a workload.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// Without prefetch, and with it.
    pub(crate) without: Figures,
    pub(crate) with: Figures,
    /// Dependents of new objects.
    pub(crate) often: Share,
    pub(crate) sometimes: Share,
    /// Requests from the change of the schema until the last old rule was inactive, and until all new rules were
    /// active.
    pub(crate) old_off: Option<usize>,
    pub(crate) new_on: Option<usize>,
    chances: Vec<Chance>,
    /// Without prefetch: dependents of known objects, and of new ones.
    bare: [Share; 2],
}

impl Served {
    /// L2 reads that prefetch adds, as a fraction of the reads without prefetch.
    pub(crate) fn more_reads(&self) -> f64 {
        self.with.l2_reads as f64 / self.without.l2_reads as f64 - 1.0
    }

    /// The fraction of `sometimes` that is possible for this fraction of additional reads, with all probabilities known
    /// from the beginning and no evictions: the most probable keys that are absent from L1 first.
    pub(crate) fn best(&self, more_reads: f64) -> f64 {
        let mut chances = self.chances.clone();
        chances.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        let (mut left, mut had, mut all) = (more_reads * self.without.l2_reads as f64, 0.0, 0.0);
        for Chance { probability, kind, is_new, times } in chances {
            let (times, absent) = (times as f64, 1.0 - self.bare[usize::from(is_new)].ratio());
            let in_vain = times * absent * (1.0 - probability);
            let part = (left / in_vain.max(1.0)).clamp(0.0, 1.0);
            left -= in_vain;
            if is_new && kind == Kind::Sometimes {
                all += times * probability;
                had += times * probability * part;
            }
        }
        had / f64::max(all, 1.0)
    }
}

/// Plays a workload with and without prefetch.
pub(crate) fn serve(services: Services, plan: Plan) -> Served {
    let mut source = services.calls();
    let calls: Vec<Call> = source.by_ref().collect();
    let mut below = Below::default();
    calls.iter().for_each(|call| below.add(&call.request));
    let mut played = Playback::new(below, Expiry::default());
    let mut runs = [Run::new(Plan { prefetch: Mode::Off, ..plan }), Run::new(plan)];
    let (mut often, mut sometimes) = (Share::default(), Share::default());
    let mut bare = [Share::default(); 2];
    let (mut old_off, mut new_on) = (None, None);
    let change = calls.len() / 2;
    for (at, call) in calls.iter().enumerate() {
        let counts = call.is_new && at >= LEARNING && !(change..change + LEARNING).contains(&at);
        played.play(&call.request, &mut runs, |run, hit| {
            let share = match call.kind {
                Kind::Often | Kind::Sometimes if run == 0 => &mut bare[usize::from(call.is_new)],
                Kind::Often if counts => &mut often,
                Kind::Sometimes if counts => &mut sometimes,
                Kind::Often | Kind::Sometimes | Kind::Root | Kind::Noise => return,
            };
            share.reads += 1;
            share.hits += u64::from(hit);
        });
        if at >= change && at.is_multiple_of(LOOK_EVERY) {
            // The rule counts as active from the time after which it stays active.
            let since = at - change;
            let is_on = |heads: &[&str]| runs[1].learner().map_or(0, |learner| rules_on(learner, heads));
            old_off = if is_on(&BEFORE_ONLY) == 0 { old_off.or(Some(since)) } else { None };
            new_on = if is_on(&AFTER_ONLY) == AFTER_ONLY.len() { new_on.or(Some(since)) } else { None };
        }
    }
    let [without, with] = [0, 1].map(|run| runs[run].figures());
    Served { without, with, often, sometimes, old_off, new_on, chances: source.chances().to_vec(), bare }
}

/// Outcomes of an adversary run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Withstood {
    /// L2 reads that prefetch adds, as a fraction of the reads without prefetch.
    pub(crate) more_reads: f64,
    /// Ratio of misses with prefetch to misses without.
    pub(crate) misses_over: f64,
    /// Maximum number of bytes staged at once.
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

/// Returns how many of these keys are predicted.
fn rules_on(learner: &Learner, heads: &[&str]) -> usize {
    let rules = learner.rules();
    // Rules of keys that are no longer read are never used.
    let is_read = |template: &str| !BEFORE_ONLY.iter().any(|head| template.starts_with(head));
    let read = || rules.iter().filter(|(template, _)| is_read(template));
    let all = || read().flat_map(|(_, rules)| rules).filter(|rule| rule.p >= ON);
    heads.iter().filter(|head| all().any(|rule| rule.makes.starts_with(**head))).count()
}
