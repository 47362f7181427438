//! Fuzzes the extraction of keys with arbitrary arguments: it never panics, each key is an argument of the request, and
//! every destination of SORT counts as written, so that no request writes a key that was not checked.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use terrace::resp::{frame::Owned, keys_of};

/// One argument: an option or number that commands know, or arbitrary bytes.
#[derive(Debug, Arbitrary)]
enum Word {
    Known(u8),
    Bytes(Vec<u8>),
}

const KNOWN: [&str; 20] = [
    "store", "storedist", "by", "get", "limit", "asc", "alpha", "count", "streams", "block", "0", "1", "2", "3", "-1",
    "weights", "aggregate", "sort", "georadius", "georadiusbymember",
];
const COMMANDS: [&str; 10] =
    ["sort", "georadius", "georadiusbymember", "zunionstore", "xread", "xreadgroup", "lmpop", "bitop", "set", "copy"];

fuzz_target!(|input: (u8, Vec<Word>)| {
    let (command, words) = input;
    let mut request: Vec<&[u8]> = vec![COMMANDS[usize::from(command) % COMMANDS.len()].as_bytes()];
    request.extend(words.iter().map(|word| match word {
        Word::Known(number) => KNOWN[usize::from(*number) % KNOWN.len()].as_bytes(),
        Word::Bytes(bytes) => &bytes[..],
    }));
    let owned = Owned::new(request.iter().copied());
    let Some(keys) = keys_of(owned.args()) else { return };
    assert!(keys.iter().all(|(key, _)| request[1..].contains(&&key[..])));
    // The last argument is a destination if STORE precedes it and no option takes STORE as its argument.
    if let [b"sort", _, before @ .., b"store", last] = &request[..]
        && before.iter().all(|word| word.eq_ignore_ascii_case(b"asc") || word.eq_ignore_ascii_case(b"alpha"))
    {
        assert!(keys.iter().any(|(key, is_written)| *is_written && key[..] == **last));
    }
});
