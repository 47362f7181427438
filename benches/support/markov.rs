//! A yardstick: prefetch by a first-order Markov chain. It predicts the key that followed the current key most often,
//! if it did so in at least half of the cases. It learns from every request of a caller, without a limit of memory or a
//! budget. Prefetched keys are inserted at once into the same L1 like any other entry.

use bytes::Bytes;
use hashbrown::HashMap;
use terrace::{
    cli::trace::Request,
    clock::Tick,
    l1::{Epoch, Fill, L1, Leased, PolicyKind, Settings, Token},
    model::{Key, Value},
};

const NOW: Tick = Tick(1);

/// The successors of a key.
#[derive(Default)]
struct Follows {
    seen: u32,
    by_key: HashMap<Key, u32>,
}

/// Outcomes of the requests.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    pub(crate) misses: u64,
    pub(crate) l2_reads: u64,
}

struct Markov {
    l1: L1,
    epoch: Option<Epoch>,
    follows: HashMap<Key, Follows>,
    last: HashMap<Option<Vec<u8>>, Key>,
    outcome: Outcome,
}

/// Plays requests through an L1 with this number of entries.
pub(crate) fn play<'a>(requests: impl Iterator<Item = &'a Request>, entries: u64, seed: u64) -> Outcome {
    let settings = Settings { capacity_bytes: u64::MAX, max_entries: Some(entries), policy: PolicyKind::Learned };
    let l1 = L1::seeded(settings, seed);
    let epoch = l1.begin(Tick::FAR);
    let (follows, last) = (HashMap::new(), HashMap::new());
    let mut markov = Markov { l1, epoch, follows, last, outcome: Outcome::default() };
    for request in requests {
        if let Ok(key) = Key::copied(&request.key) {
            markov.request(&key, &request.caller);
        }
    }
    markov.outcome
}

impl Markov {
    fn request(&mut self, key: &Key, caller: &Option<Vec<u8>>) {
        if self.l1.get(key, NOW, true).is_none() {
            self.outcome.misses += 1;
            self.fill(key);
        }
        if let Some(before) = self.last.insert(caller.clone(), key.clone()) {
            let follows = self.follows.entry(before).or_default();
            follows.seen += 1;
            *follows.by_key.entry(key.clone()).or_default() += 1;
        }
        let Some(follows) = self.follows.get(key) else { return };
        let most = follows.by_key.iter().max_by_key(|(_, times)| **times);
        if let Some((next, _)) = most.filter(|(_, times)| **times * 2 >= follows.seen && follows.seen > 1) {
            let next = next.clone();
            if self.l1.get(&next, NOW, false).is_none() {
                self.fill(&next);
            }
        }
    }

    fn fill(&mut self, key: &Key) {
        self.outcome.l2_reads += 1;
        let token = Token(self.outcome.l2_reads);
        if matches!(self.l1.lease(key, token, NOW, self.epoch, false), Leased::Lead) {
            let fill = Fill { value: Value::from(Bytes::new()), expires_at: Tick::FAR, deadline: Tick::FAR, group: 0 };
            self.l1.fill(key, token, fill, NOW);
        }
    }
}
