//! Health of L2: the result of the last contact, and current figures.

use super::Deadlines;

/// Current figures of L2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// Number of known Redis primaries.
    pub primaries: usize,
    /// Number of known primaries whose circuit breaker is open.
    pub breakers_open: usize,
    /// Number of times that a circuit breaker of a known primary has opened.
    pub breaker_opened: u64,
    /// Number of damaged pieces of the embedded store that were found since the start. Their keys are lost.
    pub damage: u64,
    /// Deadlines of calls; `None` without an L2.
    pub deadlines: Option<Deadlines>,
}

/// Result of the last contact with L2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No contact since the start.
    Connecting,
    /// L2 answers.
    Up,
    /// L2 does not answer; a message for operators.
    Down(String),
}
