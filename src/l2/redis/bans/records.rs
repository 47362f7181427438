//! Records of bans in Redis: their keys, and the query for the greatest ban number.

use std::time::Duration;

use ::redis::{Cmd, Value as Reply};

use crate::l2::{
    FENCE_SPAN,
    redis::{command::ops, topology::slots::TAGS},
};

/// Key of the log, a hash.
pub(crate) const LOG: &[u8] = b"__terrace:bans";
/// Field of the log for the greatest ban number.
pub(crate) const GREATEST: &str = "n";
/// Minimum time that a ban stays open. A node that sends a write knows all bans opened more than Δ before, and learns of
/// later ones with the reply, which seldom takes as long as another Δ.
pub(crate) const RETIRE_AFTER: Duration = FENCE_SPAN.saturating_mul(2);

/// Returns the query for the greatest ban number that ends each pipeline with a write.
pub(crate) fn greatest_question(stamp: Option<&[u8]>) -> Cmd {
    match stamp {
        Some(stamp) => ops::plain("GET", stamp),
        None => {
            let mut command = ops::plain("HGET", LOG);
            command.arg(GREATEST);
            command
        }
    }
}

/// Decodes the reply to [`greatest_question`]; 0 if there is no number.
pub(crate) fn greatest(reply: &Reply) -> u64 {
    if let Reply::BulkString(digits) = reply { number(digits).unwrap_or(0) } else { 0 }
}

pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Returns the key of a primary's copy of the greatest ban number, which is in the primary's first slot.
pub(crate) fn stamp(first_slot: u16) -> Vec<u8> {
    format!("__terrace:ban:{{{}}}", TAGS[usize::from(first_slot)]).into_bytes()
}
