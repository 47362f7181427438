//! The last events of each caller. Callers are many and short-lived (a trace id each): two halves, the older one forgotten
//! when the newer is full.

use hashbrown::HashMap;

use super::{
    associations::{CONTEXT, NodeRef},
    recorder::Caller,
};

/// Callers in each half: 2 × 0.5 MB.
const HALF: usize = 8_192;

/// A caller's last events, the last one first.
pub(super) type Context = [Option<NodeRef>; CONTEXT];

/// All callers.
#[derive(Default)]
pub(super) struct Callers {
    young: HashMap<Caller, Context, foldhash::fast::RandomState>,
    old: HashMap<Caller, Context, foldhash::fast::RandomState>,
}

impl Callers {
    /// The context of a caller.
    pub(super) fn of(&self, caller: Caller) -> Context {
        self.young.get(&caller).or_else(|| self.old.get(&caller)).copied().unwrap_or_default()
    }

    pub(super) fn bytes(&self) -> usize {
        self.young.allocation_size() + self.old.allocation_size()
    }

    /// The caller's next event.
    pub(super) fn push(&mut self, caller: Caller, mut context: Context, node: NodeRef) {
        context.rotate_right(1);
        context[0] = Some(node);
        if self.young.len() >= HALF && !self.young.contains_key(&caller) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(caller, context);
    }
}
