//! Tests of the frame parser: every split, hostile lengths, limits.

use super::*;

const LIMITS: Limits = Limits { bulk_max: 1000, before_auth: false };

/// Parses `bytes` in pieces of `size`. Returns all requests, and the protocol error if there is one.
fn parse(bytes: &[u8], size: usize, limits: Limits) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
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
            assert!(requests.next(limits).is_ok(), "the same again until it is consumed");
            requests.consume();
        }
    }
    (found, None)
}

fn words(found: &[Vec<Vec<u8>>]) -> Vec<String> {
    found
        .iter()
        .map(|args| args.iter().map(|arg| arg.escape_ascii().to_string()).collect::<Vec<_>>().join(" "))
        .collect()
}

fn fault(bytes: &[u8]) -> String {
    parse(bytes, bytes.len(), LIMITS).1.unwrap_or_default()
}

#[test]
fn every_split_gives_the_same_requests() {
    let bytes = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n*0\r\n*-1\r\n\r\nset k \"a\\r\\x00 b\" 'c'\r\n\
                  *3\r\n$3\r\nSET\r\n$0\r\n\r\n$12\r\n0123\r\n456789\r\n*1\r\n$2000\r\n";
    let mut bytes = bytes.to_vec();
    bytes.extend([b'x'; 2000]);
    bytes.extend(b"\r\n*3\r\n$1\r\na\r\n$1500\r\n");
    bytes.extend([b'y'; 1500]);
    bytes.extend(b"\r\n$1\r\nb\r\nPING\n");
    let wanted = ["GET k", "PING", "set k a\\r\\x00 b c", "SET  0123\\r\\n456789", "Bulk(2000)", "Bulk(1500)", "PING"];
    for size in (1..200).chain([bytes.len()]) {
        let (found, fault) = parse(&bytes, size, LIMITS);
        assert_eq!((words(&found), fault), (wanted.map(str::to_owned).to_vec(), None), "pieces of {size}");
    }
}

/// Returns a request for each command, with arguments that look like protocol bytes.
fn every_command() -> Vec<Vec<Vec<u8>>> {
    let rows = crate::resp::table::COMMANDS.rows.iter().flat_map(|row| std::iter::once(row).chain(row.subcommands));
    let request = |row: &crate::resp::command::Row| {
        let arguments = [&b"key"[..], b"", b"\r\n", b"$3\r\nabc\r\n", b"\x00\xff", b"*1\r\n"];
        let mut words: Vec<Vec<u8>> = row.name.split('|').map(|word| word.as_bytes().to_vec()).collect();
        let missing = usize::try_from(row.arity.unsigned_abs()).unwrap().saturating_sub(words.len());
        words.extend(arguments.iter().cycle().take(missing + 1).map(|argument| argument.to_vec()));
        words
    };
    rows.map(request).collect()
}

#[test]
fn every_command_is_the_same_in_every_split() {
    let commands = every_command();
    assert!(commands.len() > 280, "{} commands", commands.len());
    for command in &commands {
        let mut bytes = Vec::new();
        write_request(&mut bytes, command.iter().map(Vec::as_slice));
        let mut twice = bytes.clone();
        twice.extend(&bytes);
        for at in 0..=bytes.len() {
            let mut requests = Requests::default();
            let mut found = 0;
            for piece in [&twice[..at], &twice[at..]] {
                requests.buffer().extend_from_slice(piece);
                while requests.next(LIMITS) == Ok(Next::Command) {
                    assert!(requests.args().iter().eq(command.iter().map(Vec::as_slice)), "split at {at}");
                    requests.consume();
                    found += 1;
                }
            }
            assert_eq!((found, requests.held_bytes()), (2, 0), "split at {at} of {}", bytes.escape_ascii());
        }
    }
}

#[test]
fn protocol_errors_are_redis_s() {
    for (bytes, text) in [
        (&b"*abc\r\n"[..], "invalid multibulk length"),
        (b"*65537\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$1x\r\n", "invalid bulk length"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n\n\r\n", "expected '$', got ' '"),
        (b"set \"a\r\n", "unbalanced quotes in request"),
    ] {
        assert_eq!(fault(bytes), text, "{}", bytes.escape_ascii());
    }
    assert_eq!(fault(&vec![b'x'; LINE_MAX_BYTES + 1]), "too big inline request");
    let digits = vec![b'1'; LINE_MAX_BYTES + 1];
    assert_eq!(fault(&[b"*", &digits[..]].concat()), "too big mbulk count string");
    assert_eq!(fault(&[b"*1\r\n$", &digits[..]].concat()), "too big bulk count string");
}

#[test]
fn before_auth_much_less_is_allowed() {
    let limits = Limits { before_auth: true, ..LIMITS };
    let fault = |bytes: &[u8]| parse(bytes, bytes.len(), limits).1;
    assert_eq!(fault(b"*11\r\n").as_deref(), Some("unauthenticated multibulk length"));
    assert_eq!(fault(b"*1\r\n$16385\r\n").as_deref(), Some("unauthenticated bulk length"));
    assert_eq!(fault(&[b'x'; 16 * 1024 + 1]).as_deref(), Some("too big inline request"));
    assert_eq!(fault(b"*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n"), None);
}

#[test]
fn a_declared_length_allocates_nothing() {
    let mut requests = Requests::default();
    requests.buffer().extend_from_slice(b"*65536\r\n$999\r\n");
    assert_eq!(requests.next(LIMITS), Ok(Next::More));
    assert!(requests.capacity_bytes() < 1000);
    assert!(requests.spans.capacity() < 10);
}

#[test]
fn what_is_skipped_is_not_kept() {
    let limits = Limits { bulk_max: 10, before_auth: false };
    let mut requests = Requests::default();
    requests.buffer().extend_from_slice(b"*2\r\n$3\r\nGET\r\n$100000000\r\n");
    for _ in 0..100 {
        assert_eq!(requests.next(limits), Ok(Next::More));
        requests.buffer().resize(1_000_000, b'x');
    }
    assert_eq!(requests.next(limits), Ok(Next::More));
    assert!(requests.capacity_bytes() < 3_000_000, "{}", requests.capacity_bytes());
    requests.buffer().extend_from_slice(b"\r\nPING\r\n");
    assert_eq!(requests.next(limits), Ok(Next::Refused(TooLong::Bulk(100_000_000))));
    requests.consume();
    assert_eq!(requests.next(limits), Ok(Next::Command));
    assert_eq!(requests.args().at(0), b"PING");
}

#[test]
fn a_request_is_bounded_as_a_whole() {
    let limits = Limits { bulk_max: 8 << 20, before_auth: false };
    let mut requests = Requests::default();
    requests.buffer().extend_from_slice(b"*9\r\n");
    for _ in 0..9 {
        requests.buffer().extend_from_slice(b"$8388608\r\n");
        let with = requests.buffer().len() + (8 << 20);
        requests.buffer().resize(with, b'x');
        requests.buffer().extend_from_slice(b"\r\n");
        let next = requests.next(limits);
        assert!(matches!(next, Ok(Next::More | Next::Refused(TooLong::Request))), "{next:?}");
        assert!(requests.held_bytes() <= REQUEST_MAX_BYTES + LINE_MAX_BYTES);
    }
    assert_eq!(requests.next(limits), Ok(Next::Refused(TooLong::Request)));
}

#[test]
fn random_bytes_never_panic() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let alphabet = b"*$\r\n0123456789-+GETk\"'\\x \x00\xff";
    for _ in 0..2_000 {
        let bytes: Vec<u8> = (0..random.usize(1..200)).map(|_| alphabet[random.usize(..alphabet.len())]).collect();
        let whole = parse(&bytes, bytes.len(), LIMITS);
        let size = random.usize(1..20);
        assert_eq!(parse(&bytes, size, LIMITS), whole, "seed {seed}: {} in {size}", bytes.escape_ascii());
    }
}
