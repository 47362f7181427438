//! Bytes of requests and answers under way: counted from the moment they take memory until it is free again, so that
//! slow readers and large batches cannot fill the machine's. The count is the node's, for both protocols.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    error::{CacheError, Kind, Result},
    node::{Held, InFlight},
};

/// When a shed call is worth repeating: about the time in which a full load drains over a slow link.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Whether there is room for more.
///
/// # Errors
/// `Overloaded`, naming the limit.
pub(super) fn check(in_flight: &InFlight, max: u64) -> Result<()> {
    let bytes = in_flight.bytes();
    if bytes <= max {
        return Ok(());
    }
    let message = format!("{bytes} bytes of requests and answers are under way; server.max_in_flight is {max} bytes");
    Err(CacheError::new(Kind::Overloaded, message).retry_after(RETRY_AFTER))
}

/// Counts bytes that are here already; whether there is room for them was asked before.
pub(super) fn hold(in_flight: &InFlight, bytes: usize) -> Option<Held> {
    in_flight.admit(bytes as u64, u64::MAX)
}

/// A buffer that is counted until the last slice of it has been sent or dropped.
struct Counted {
    buffer: Vec<u8>,
    _held: Option<Held>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

/// Counts a buffer until it has left for the network.
pub(super) fn counted(buffer: Vec<u8>, in_flight: &InFlight) -> Bytes {
    let held = hold(in_flight, buffer.len());
    Bytes::from_owner(Counted { buffer, _held: held })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_until_the_last_slice_is_gone() {
        let in_flight = InFlight::default();
        let bytes = counted(vec![0; 100], &in_flight);
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(in_flight.bytes(), 100);
        drop(slice);
        assert_eq!(in_flight.bytes(), 0);
    }

    #[test]
    fn refuses_more_than_the_limit_by_name() {
        let in_flight = InFlight::default();
        let _held = hold(&in_flight, 11);
        assert_eq!(check(&in_flight, 11), Ok(()));
        let fault = check(&in_flight, 10).unwrap_err();
        assert_eq!(fault.kind(), Kind::Overloaded);
        assert!(fault.message().contains("server.max_in_flight"), "{fault}");
    }
}
