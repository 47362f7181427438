//! A waker that does not wake its task while the task runs.
//!
//! The parts of a connection wake each other: what the stream receives wakes the stream, and what it sends wakes the
//! connection. One task polls all of them in turn, so most of these wakes would only poll everything once more.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU8,
            Ordering::{AcqRel, Acquire},
        },
    },
    task::{Wake, Waker},
};

use parking_lot::Mutex;

/// The task does not run: a wake wakes it.
const IDLE: u8 = 0;
/// The task polls the part, or will do so before it ends its turn.
const RUNNING: u8 = 1;
/// The part was woken since its last poll.
const WOKEN: u8 = 2;

#[derive(Debug)]
struct State {
    turn: AtomicU8,
    task: Mutex<Waker>,
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.turn.swap(WOKEN, AcqRel) == IDLE {
            let task = self.task.lock().clone();
            task.wake();
        }
    }
}

/// The waker of one part.
#[derive(Debug)]
pub(super) struct Turn {
    state: Arc<State>,
    waker: Waker,
}

impl Turn {
    pub(super) fn new() -> Self {
        let state = Arc::new(State { turn: AtomicU8::new(IDLE), task: Mutex::new(Waker::noop().clone()) });
        Self { waker: Waker::from(Arc::clone(&state)), state }
    }

    /// Sets the task.
    pub(super) fn set_task(&self, task: &Waker) {
        let mut known = self.state.task.lock();
        if !known.will_wake(task) {
            known.clone_from(task);
        }
    }

    /// Begins a poll of the part: earlier wakes are served by it. Returns the waker for the poll.
    pub(super) fn begin(&self) -> &Waker {
        self.state.turn.swap(RUNNING, AcqRel);
        &self.waker
    }

    /// Ends the turn of the task. Returns `false` if the part was woken since its last poll, and has to be polled again.
    pub(super) fn end(&self) -> bool {
        self.state.turn.compare_exchange(RUNNING, IDLE, AcqRel, Acquire).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn a_wake_during_the_turn_polls_again_and_a_wake_after_it_wakes_the_task() {
        let (turn, wakes) = (Turn::new(), Arc::new(Wakes::default()));
        turn.set_task(&Waker::from(Arc::clone(&wakes)));
        turn.begin().wake_by_ref();
        assert!(!turn.end());
        let waker = turn.begin().clone();
        assert!(turn.end());
        assert_eq!(wakes.0.load(SeqCst), 0);
        waker.wake_by_ref();
        waker.wake();
        assert_eq!(wakes.0.load(SeqCst), 1);
    }
}
