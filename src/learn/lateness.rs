//! Whether what is fetched in the background comes in time.

use super::associations::CONTEXT;

/// Whether background fetches come in time, by how soon their key is due.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    late: [f32; CONTEXT + 1],
    skipped: u32,
}

impl Lateness {
    /// Weight of one outcome.
    const STEP: f32 = 1.0 / 32.0;
    /// Part of late ones above which fetching is no use.
    const MANY: f32 = 1.0 / 3.0;
    /// Then one in so many is tried all the same.
    const TRY_EVERY: u32 = 64;

    fn at(lag: u8) -> usize {
        usize::from(lag).min(CONTEXT)
    }

    pub(super) fn note(&mut self, lag: u8, late: bool) {
        let part = &mut self.late[Self::at(lag)];
        *part += (f32::from(u8::from(late)) - *part) * Self::STEP;
    }

    fn is_off(&self, lag: u8) -> bool {
        self.late[Self::at(lag)] > Self::MANY
    }

    pub(super) fn may(&mut self, lag: u8) -> bool {
        if !self.is_off(lag) {
            return true;
        }
        self.skipped += 1;
        self.skipped.is_multiple_of(Self::TRY_EVERY)
    }
}
