//! Detects background prefetches that arrive too late to be useful.

use super::associations::CONTEXT;

/// Part of background prefetches that arrive late, by the number of events until their key is expected.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    late: [f32; CONTEXT + 1],
    skipped: u32,
}

impl Lateness {
    /// Weight of one outcome.
    const STEP: f32 = 1.0 / 32.0;
    /// Part of late prefetches above which prefetching stops.
    const LATE_MAX: f32 = 1.0 / 3.0;
    /// While prefetching has stopped, 1 prefetch in this many is issued, to detect a change.
    const TRY_EVERY: u32 = 64;

    fn at(lag: u8) -> usize {
        usize::from(lag).min(CONTEXT)
    }

    pub(super) fn note(&mut self, lag: u8, late: bool) {
        let part = &mut self.late[Self::at(lag)];
        *part += (f32::from(u8::from(late)) - *part) * Self::STEP;
    }

    fn is_off(&self, lag: u8) -> bool {
        self.late[Self::at(lag)] > Self::LATE_MAX
    }

    /// Returns whether a key that is expected after `lag` events may be prefetched in the background.
    pub(super) fn allows(&mut self, lag: u8) -> bool {
        if !self.is_off(lag) {
            return true;
        }
        self.skipped += 1;
        self.skipped.is_multiple_of(Self::TRY_EVERY)
    }
}
