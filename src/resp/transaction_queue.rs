//! The commands of one client between MULTI and EXEC.

use super::{
    frame::{Args, Owned},
    reply::Refusal,
};

/// Maximum number of commands queued between MULTI and EXEC.
const QUEUED_MAX: usize = 65_536;
/// Maximum size of the commands queued between MULTI and EXEC.
const QUEUED_MAX_BYTES: usize = 64 << 20;

/// The commands that EXEC will run.
#[derive(Default)]
pub(super) struct TransactionQueue {
    /// Each command: the number of its row, and the request.
    pub(super) commands: Vec<(usize, Owned)>,
    bytes: usize,
    /// A command was refused: EXEC will run none.
    pub(super) failed: bool,
}

impl TransactionQueue {
    /// Notes that a command was refused.
    pub(super) fn fail(&mut self) {
        self.failed = true;
    }

    /// Adds a command, by the number of its row. Returns how many commands there are now.
    ///
    /// # Errors
    /// The queue is full.
    pub(super) fn add(&mut self, number: usize, args: Args<'_>) -> Result<i64, Refusal> {
        if self.commands.len() >= QUEUED_MAX || self.bytes > QUEUED_MAX_BYTES {
            self.failed = true;
            return Err(Refusal::text(format!(
                "ERR the transaction is too large: at most {QUEUED_MAX} commands and {QUEUED_MAX_BYTES} bytes"
            )));
        }
        let request = Owned::new(args.iter());
        self.bytes += request.weight_bytes();
        self.commands.push((number, request));
        Ok(i64::try_from(self.commands.len()).unwrap_or(i64::MAX))
    }
}
