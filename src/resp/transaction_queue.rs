//! The commands of one client between MULTI and EXEC.

use super::{
    frame::{Args, Owned},
    reply::Refusal,
};

/// Maximum number of commands queued between MULTI and EXEC.
const QUEUED_MAX: usize = 65_536;
/// Maximum size of the commands queued between MULTI and EXEC.
const QUEUED_MAX_BYTES: usize = 64 << 20;

/// Commands that EXEC runs.
#[derive(Default)]
pub(super) struct TransactionQueue {
    /// Row number and request of each command.
    pub(super) commands: Vec<(usize, Owned)>,
    bytes: usize,
    /// A command was rejected; EXEC runs none.
    pub(super) failed: bool,
}

impl TransactionQueue {
    /// Returns the approximate memory of the queued commands in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.commands.capacity() * size_of::<(usize, Owned)>()
    }

    /// Records that a command was rejected.
    pub(super) fn fail(&mut self) {
        self.failed = true;
    }

    /// Adds a command by its row number. Returns the number of queued commands.
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
