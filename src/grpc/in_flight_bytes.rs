//! Counts the bytes of requests and responses in flight, from the allocation of their memory until its release. The
//! limit on this count keeps slow readers and large batches from exhausting memory. Both protocols share the count of
//! the node.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    error::{CacheError, Kind, Result},
    node::{Held, InFlight},
};

/// Delay after which a client may retry a shed call: about the time that a full load needs to drain over a slow link.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Checks whether the bytes in flight are within the limit.
///
/// # Errors
/// `Overloaded`, with the limit and a retry delay.
pub(super) fn check(in_flight: &InFlight, max: u64) -> Result<()> {
    let bytes = in_flight.bytes();
    if bytes <= max {
        return Ok(());
    }
    let message =
        format!("too many bytes of requests and responses in flight: {bytes}; server.max_in_flight is {max} bytes");
    Err(CacheError::new(Kind::Overloaded, message).retry_after(RETRY_AFTER))
}

/// Counts bytes that are already in memory, without a check of the limit; see [`check`].
pub(super) fn hold(in_flight: &InFlight, bytes: usize) -> Option<Held> {
    in_flight.admit(bytes as u64, u64::MAX)
}

/// A buffer whose bytes count as in flight until its last slice has been sent or dropped.
struct Counted {
    buffer: Vec<u8>,
    _held: Option<Held>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

/// Counts the bytes of a buffer as in flight until they have been sent.
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
