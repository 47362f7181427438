//! `terrace.v1.Admin.RecordReads`: streams the reads of a sample of the keys.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tonic::Status;

use super::{
    Edge, convert,
    stream::{self, Output},
    unary::Call,
};
use crate::{
    access::Principal,
    cache::stats::recording::{ReadRecorder, Recorded, RecordedRead},
    clock::{Tick, millis},
    error::Result,
    proto::{self, RecordReadsRequest, RecordReadsResponse, RecordedOutcome},
};

/// Smallest sample that a client can request: one key in this many.
const ONE_IN_MAX: u32 = 1 << 16;
/// Interval at which recorded reads are sent.
const SEND_INTERVAL: Duration = Duration::from_millis(50);
/// Number of intervals without a read after which an empty message is sent.
const SILENT_TURNS: u32 = 20;
/// Maximum number of recorded reads that are taken from the queue at once.
const TAKEN_MAX: usize = 4_096;
/// Approximate maximum size in bytes of the reads in one message.
const READS_BYTES: usize = 64 * 1024;
/// Minimum length of the hash of a key.
const HASH_LEN: usize = 16;

pub(super) fn call(edge: Arc<Edge>, stop: watch::Receiver<bool>, request: Request<Incoming>) -> Call {
    stream::call(&Arc::clone(&edge), |output| async move {
        stream::until_stopped(stop, record(&edge, request, &output)).await
    })
}

async fn record(edge: &Arc<Edge>, request: Request<Incoming>, output: &Output) -> Result<(), Status> {
    let (request, _held): (RecordReadsRequest, _) = stream::received(edge, request).await?;
    let started_at = edge.cache.now();
    let recorder = start(edge, &request).map_err(|error| convert::status(&error))?;
    let names = if request.plain_keys { Names::Plain } else { Names::Hashed(RandomState::new()) };
    let principal = Arc::clone(edge.cache.principal());
    send_all(edge, recorder, &Shown { principal, names, started_at }, output).await
}

fn start(edge: &Edge, request: &RecordReadsRequest) -> Result<ReadRecorder> {
    edge.principal().check_inspects()?;
    match request.one_in {
        0 => edge.cache.record_reads(1),
        one_in @ 1..=ONE_IN_MAX => edge.cache.record_reads(one_in),
        other => Err(convert::invalid(format!("one_in is {other}; expected 1 to {ONE_IN_MAX}"))),
    }
}

/// Sends the recorded reads until the client disconnects.
async fn send_all(edge: &Arc<Edge>, mut recorder: ReadRecorder, shown: &Shown, output: &Output) -> Result<(), Status> {
    let mut ticks = interval(SEND_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut taken, mut silent) = (Vec::new(), SILENT_TURNS);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = output.closed() => return Ok(()),
        }
        loop {
            recorder.take(TAKEN_MAX, &mut taken);
            let is_more = taken.len() == TAKEN_MAX;
            silent = if taken.is_empty() { silent + 1 } else { 0 };
            let is_due = taken.is_empty() && silent >= SILENT_TURNS;
            let mut messages = shown.messages(&taken);
            if is_due {
                silent = 0;
                messages.push(RecordReadsResponse::default());
            }
            for mut message in messages {
                message.lost = recorder.lost();
                if output.send(Ok(stream::frame(edge, &message)?)).await.is_err() {
                    return Ok(());
                }
            }
            if !is_more {
                break;
            }
            // A fast producer does not keep the worker from its other tasks.
            tokio::task::yield_now().await;
        }
    }
}

/// The form of keys in a stream.
enum Names {
    Plain,
    Hashed(RandomState),
}

impl Names {
    fn of(&self, key: &Bytes) -> Bytes {
        match self {
            Self::Plain => key.clone(),
            Self::Hashed(secret) => hashed(secret, key),
        }
    }
}

/// Returns the keyed hash of a key in hexadecimal digits, repeated up to the length of the key: the length of a key is
/// part of the weight of its entry.
fn hashed(secret: &RandomState, key: &[u8]) -> Bytes {
    let digits = format!("{:016x}", secret.hash_one(key));
    digits.bytes().cycle().take(key.len().max(HASH_LEN)).collect()
}

/// How recorded reads are shown to a client.
struct Shown {
    principal: Arc<Principal>,
    names: Names,
    started_at: Tick,
}

impl Shown {
    /// Distributes recorded reads over messages of about [`READS_BYTES`].
    fn messages(&self, reads: &[RecordedRead]) -> Vec<RecordReadsResponse> {
        let mut messages: Vec<RecordReadsResponse> = Vec::new();
        let mut bytes = 0;
        for read in reads.iter().filter(|read| self.principal.sees(&read.key)).map(|read| self.read(read)) {
            let read_bytes = prost::Message::encoded_len(&read);
            if messages.is_empty() || bytes + read_bytes > READS_BYTES {
                messages.push(RecordReadsResponse::default());
                bytes = 0;
            }
            bytes += read_bytes;
            if let Some(message) = messages.last_mut() {
                message.reads.push(read);
            }
        }
        messages
    }

    fn read(&self, read: &RecordedRead) -> proto::RecordedRead {
        let (outcome, found) = match read.outcome {
            Recorded::Found(size, until) => (RecordedOutcome::Found, Some((size, until))),
            Recorded::Absent => (RecordedOutcome::Absent, None),
            Recorded::Written(size, until) => (RecordedOutcome::Written, Some((size, until))),
        };
        let ttl = found.map(|(_, until)| until).filter(|until| *until != Tick::FAR).map(|until| until.since(read.at));
        let in_ms = |span| i64::try_from(millis(span)).unwrap_or(i64::MAX);
        proto::RecordedRead {
            key: self.names.of(&read.key),
            at_ms: in_ms(read.at.since(self.started_at)),
            outcome: outcome.into(),
            size_bytes: found.map_or(0, |(size, _)| size),
            ttl_ms: ttl.map(in_ms),
            caller: read.caller.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_has_the_length_of_the_key_and_depends_on_the_secret() {
        let (one, other) = (RandomState::new(), RandomState::new());
        let key = b"session:a-key-that-is-secret:cart";
        assert_eq!(hashed(&one, key), hashed(&one, key));
        assert_ne!(hashed(&one, key), hashed(&other, key));
        assert_ne!(hashed(&one, key), hashed(&one, b"session:a-key-that-is-secret:cars"));
        assert_eq!((hashed(&one, key).len(), hashed(&one, b"k").len()), (key.len(), HASH_LEN));
        assert!(hashed(&one, key).iter().all(u8::is_ascii_hexdigit));
    }
}
