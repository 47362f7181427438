//! Fuzzes the frame parser with arbitrary bytes in arbitrary pieces. The parser never panics, never keeps more than it
//! received, and finds the same requests whether the bytes arrive at once or in pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use terrace::resp::frame::{Limits, Next, Requests};

/// Result of parsing: the arguments of each request, or the reason of its rejection, and the error at the end.
type Found = (Vec<Vec<Vec<u8>>>, Option<String>);

fn parse(bytes: &[u8], size: usize, limits: Limits) -> Found {
    let mut requests = Requests::default();
    let mut found = Vec::new();
    for piece in bytes.chunks(size) {
        requests.buffer().extend_from_slice(piece);
        loop {
            match requests.next(limits) {
                Ok(Next::More) => break,
                Ok(Next::Command) => found.push(requests.args().iter().map(<[u8]>::to_vec).collect()),
                Ok(Next::Refused(why)) => found.push(vec![format!("{why:?}").into_bytes()]),
                Err(fault) => return (found, Some(fault.into_owned())),
            }
            requests.consume();
        }
        assert!(requests.held_bytes() <= bytes.len());
    }
    (found, None)
}

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (size, before_auth, bytes) = input;
    let limits = Limits { bulk_max: 4096, before_auth };
    let whole = parse(bytes, bytes.len().max(1), limits);
    let pieces = parse(bytes, usize::from(size).max(1), limits);
    // In pieces, an error may be found earlier than in the whole, never later.
    assert_eq!(whole.0, pieces.0);
    assert_eq!(whole.1.is_some(), pieces.1.is_some());
});
