//! Splits inline requests into words, with quotes.

use super::Span;

/// Splits a line like `sdssplitargs` of Redis: spaces separate words, double quotes support escapes, single quotes only
/// `\'`. Returns `false` for unbalanced quotes.
pub(super) fn split_line(line: &[u8], out: &mut Vec<u8>, spans: &mut Vec<Span>) -> bool {
    // As in C, the line ends at NUL.
    let line = &line[..memchr::memchr(0, line).unwrap_or(line.len())];
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(|byte| is_blank(*byte)) {
            at += 1;
        }
        if at >= line.len() {
            return true;
        }
        let start = out.len();
        match split_word(line, at, out) {
            Some(next) => at = next,
            None => return false,
        }
        spans.push(Span::new(start, out.len()));
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Parses one word. Returns its end, or `None` for unbalanced quotes.
fn split_word(line: &[u8], mut at: usize, out: &mut Vec<u8>) -> Option<usize> {
    while let Some(&byte) = line.get(at) {
        match byte {
            b'"' => return quoted(line, at + 1, out, double_quoted),
            b'\'' => return quoted(line, at + 1, out, single_quoted),
            byte if is_blank(byte) => return Some(at),
            byte => out.push(byte),
        }
        at += 1;
    }
    Some(at)
}

/// Parses the remaining part of a quoted word. A space or the end of the line must follow the closing quote.
fn quoted(
    line: &[u8],
    mut at: usize,
    out: &mut Vec<u8>,
    step: fn(&[u8], &mut Vec<u8>) -> Option<usize>,
) -> Option<usize> {
    loop {
        match step(line.get(at..)?, out)? {
            0 => break,
            taken => at += taken,
        }
    }
    let after = at + 1;
    line.get(after).is_none_or(|byte| is_blank(*byte)).then_some(after)
}

/// Parses one byte, which may be escaped. Returns 0 at the closing quote and `None` at the end of the line.
fn double_quoted(rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let hex = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match rest {
        [b'\\', b'x', high, low, ..] if hex(high).is_some() && hex(low).is_some() => {
            out.push(hex(high)? * 16 + hex(low)?);
            Some(4)
        }
        [b'\\', escaped, ..] => {
            out.push(match escaped {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'b' => 0x08,
                b'a' => 0x07,
                other => *other,
            });
            Some(2)
        }
        [b'"', ..] => Some(0),
        [byte, ..] => {
            out.push(*byte);
            Some(1)
        }
        [] => None,
    }
}

/// Like [`double_quoted`], but only the quote can be escaped.
fn single_quoted(rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    match rest {
        [b'\\', b'\'', ..] => {
            out.push(b'\'');
            Some(2)
        }
        [b'\'', ..] => Some(0),
        [byte, ..] => {
            out.push(*byte);
            Some(1)
        }
        [] => None,
    }
}
