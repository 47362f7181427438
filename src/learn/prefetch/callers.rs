//! The last events of each caller. Callers are many and short-lived (one for each trace id), so they are kept in two halves:
//! when the newer half is full, the older half is dropped.

use hashbrown::HashMap;

use super::associations::{CONTEXT, NodeRef};
use crate::learn::recorder::Caller;

/// Callers in each half: 2 × 0.5 MB.
const HALF: usize = 8_192;

/// The last events of a caller, newest first.
pub(super) type CallerContext = [Option<NodeRef>; CONTEXT];

/// All callers.
#[derive(Default)]
pub(super) struct Callers {
    young: HashMap<Caller, CallerContext, foldhash::fast::RandomState>,
    old: HashMap<Caller, CallerContext, foldhash::fast::RandomState>,
}

impl Callers {
    /// Returns the last events of a caller.
    pub(super) fn context(&self, caller: Caller) -> CallerContext {
        self.young.get(&caller).or_else(|| self.old.get(&caller)).copied().unwrap_or_default()
    }

    pub(super) fn bytes(&self) -> usize {
        self.young.allocation_size() + self.old.allocation_size()
    }

    /// Adds the next event of a caller to its context.
    pub(super) fn push(&mut self, caller: Caller, mut context: CallerContext, node: NodeRef) {
        context.rotate_right(1);
        context[0] = Some(node);
        if self.young.len() >= HALF && !self.young.contains_key(&caller) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(caller, context);
    }
}
