//! Deadlines of unary calls. Terrace uses its own timer, because calls that exceed tonic's timer end with CANCELLED.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderValue};
use tokio::time::{Sleep, sleep};

use crate::error::{CacheError, Kind, Result};

/// The deadline of a call. The timer starts when the call first has to wait; most calls never wait.
pub(super) struct Deadline {
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Creates a deadline of `timeout`, or of the client's grpc-timeout if that is shorter.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed grpc-timeout header.
    pub(super) fn new(timeout: Duration, headers: &HeaderMap) -> Result<Self> {
        let requested = headers.get("grpc-timeout");
        let requested = requested.map(|value| parse(value.as_bytes()).ok_or_else(|| malformed(value))).transpose()?;
        Ok(Self { timeout: requested.map_or(timeout, |requested| requested.min(timeout)), timer: None })
    }

    /// Returns the deadline that already runs, or a new one as [`Deadline::new`].
    pub(super) fn begun(begun: Option<Self>, timeout: Duration, headers: &HeaderMap) -> Result<Self> {
        begun.map_or_else(|| Self::new(timeout, headers), Ok)
    }

    /// Returns the time that the call has in total.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Runs a part of the call. Returns `None` if the deadline is exceeded.
    pub(super) async fn limit<F: Future>(&mut self, part: F) -> Option<F::Output> {
        let mut part = pin!(part);
        poll_fn(|context| {
            if let Poll::Ready(output) = part.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            self.poll_exceeded(context).map(|()| None)
        })
        .await
    }

    /// Returns `Ready` when the deadline is exceeded. The time starts with the first call.
    pub(super) fn poll_exceeded(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.timer.get_or_insert_with(|| Box::pin(sleep(self.timeout))).as_mut().poll(context)
    }

    /// Returns the error of a call that has had no effect.
    pub(super) fn exceeded(&self) -> CacheError {
        CacheError::new(Kind::DeadlineExceeded, format!("the call exceeded its deadline of {:?}", self.timeout))
    }

    /// Returns the error of a write that may have been executed.
    pub(super) fn unknown(&self) -> CacheError {
        let message = format!("the write exceeded its deadline of {:?}; its outcome is unknown", self.timeout);
        CacheError::new(Kind::Unknown, message)
    }
}

fn malformed(value: &HeaderValue) -> CacheError {
    let message =
        format!("malformed grpc-timeout {value:?}; expected one to eight digits and a unit: H, M, S, m, u or n");
    CacheError::new(Kind::InvalidArgument, message)
}

/// Parses a grpc-timeout such as `100m`, as the gRPC protocol defines it.
fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_protocol_allows() {
        for (text, timeout) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("99999999m", Duration::from_millis(99_999_999)),
            ("5u", Duration::from_micros(5)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(timeout), "{text}");
        }
        for text in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1 S"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
