//! Finds the valid and the damaged batches of a journal. Pure: bytes in, positions out.
//!
//! fjall reads a journal up to the first byte that it cannot decode and silently truncates it there: one flipped bit
//! costs every later write. Terrace therefore parses the journal first. A batch of fjall (disk format 3) is
//!
//! | entry | bytes |
//! |---|---|
//! | start | 1, number of entries (4), sequence number (8) |
//! | item | 2, type (1), compression (1), keyspace (8), key length (2), value length (4), stored length (4), key, stored value |
//! | clear | 4, keyspace (8) |
//! | end | 3, XXH3 of all items and clears (8), `FJL` 3 |
//!
//! Integers are little-endian. Behind the last batch, the preallocated file contains zeros.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::batch_numbers::corrected;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// Position of the sequence number in a batch.
const NUMBER_AT: usize = 1 + 4;
const NUMBER_BYTES: usize = 8;
const START_BYTES: usize = NUMBER_AT + NUMBER_BYTES;
/// Bytes of an item before its key.
const ITEM_HEAD_BYTES: usize = 1 + 1 + 1 + 8 + 2 + 4 + 4;
const CLEAR_BYTES: usize = 1 + 8;
const END_BYTES: usize = 1 + 8 + TRAILER.len();
/// Last bytes of each batch.
const TRAILER: &[u8] = b"FJL\x03";

/// Contents of a journal.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Positions of the valid batches, in order.
    pub(super) batches: Vec<Range<usize>>,
    /// Positions of bytes that are no valid batch. A batch at the end that was not written completely is not damaged: it
    /// was never acknowledged.
    pub(super) damaged: Vec<Range<usize>>,
    /// Positions of damaged sequence numbers of valid batches, and their corrected bytes.
    pub(super) corrected: Vec<(usize, [u8; NUMBER_BYTES])>,
}

/// Reason why there is no valid batch at a position.
#[derive(Debug, PartialEq, Eq)]
enum Invalid {
    /// The batch continues behind the last written byte.
    Incomplete,
    /// The bytes are wrong.
    Wrong,
}

/// Scans a journal.
pub(super) fn scan(bytes: &[u8]) -> Scan {
    let written = &bytes[..bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)];
    let (mut scan, mut at) = (Scan::default(), 0);
    while at < written.len() {
        let invalid = match end_of_batch(written, at) {
            Ok(end) => {
                scan.batches.push(at..end);
                at = end;
                continue;
            }
            Err(invalid) => invalid,
        };
        let next = (at + 1..written.len()).find(|next| written[*next] == START && end_of_batch(written, *next).is_ok());
        // A batch that was interrupted has no trailer.
        if next.is_some() || invalid == Invalid::Wrong || written.ends_with(TRAILER) {
            scan.damaged.push(at..next.unwrap_or(written.len()));
        }
        at = next.unwrap_or(written.len());
    }
    scan.corrected = corrections(written, &scan.batches);
    scan
}

/// Returns the positions of the damaged sequence numbers, and their corrected bytes.
fn corrections(bytes: &[u8], batches: &[Range<usize>]) -> Vec<(usize, [u8; NUMBER_BYTES])> {
    let places: Vec<usize> = batches.iter().map(|batch| batch.start + NUMBER_AT).collect();
    let number_at = |at: &usize| u64::from_le_bytes(bytes[*at..].first_chunk().copied().unwrap_or_default());
    let numbers: Vec<u64> = places.iter().map(number_at).collect();
    let all = places.into_iter().zip(&numbers).zip(corrected(&numbers));
    all.filter(|((_, found), right)| *found != right).map(|((at, _), right)| (at, right.to_le_bytes())).collect()
}

/// Returns the position behind the batch at `start`.
fn end_of_batch(bytes: &[u8], start: usize) -> Result<usize, Invalid> {
    let head = part(bytes, start, START_BYTES)?;
    if head[0] != START {
        return Err(Invalid::Wrong);
    }
    let entries = number(&head[1..5]);
    let first = start + START_BYTES;
    let mut at = first;
    for _ in 0..entries {
        at = match part(bytes, at, 1)?[0] {
            ITEM => {
                let head = part(bytes, at, ITEM_HEAD_BYTES)?;
                let (key, stored) = (number(&head[11..13]), number(&head[17..21]));
                at + ITEM_HEAD_BYTES + part(bytes, at + ITEM_HEAD_BYTES, key + stored)?.len()
            }
            CLEAR => at + part(bytes, at, CLEAR_BYTES)?.len(),
            _ => return Err(Invalid::Wrong),
        };
    }
    let end = part(bytes, at, END_BYTES)?;
    let is_right = end[0] == END && end.ends_with(TRAILER) && end[1..9] == xxh3_64(&bytes[first..at]).to_le_bytes();
    if is_right { Ok(at + END_BYTES) } else { Err(Invalid::Wrong) }
}

fn part(bytes: &[u8], at: usize, length: usize) -> Result<&[u8], Invalid> {
    bytes.get(at..at + length).ok_or(Invalid::Incomplete)
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: u64, entries: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut items = Vec::new();
        for (key, value) in entries {
            items.extend([ITEM, 0, 0]);
            items.extend(1_u64.to_le_bytes());
            items.extend(u16::try_from(key.len()).unwrap().to_le_bytes());
            let length = u32::try_from(value.len()).unwrap().to_le_bytes();
            items.extend(length);
            items.extend(length);
            items.extend(*key);
            items.extend(*value);
        }
        let mut bytes = vec![START];
        bytes.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
        bytes.extend(number.to_le_bytes());
        let sum = xxh3_64(&items).to_le_bytes();
        bytes.extend(items);
        bytes.push(END);
        bytes.extend(sum);
        bytes.extend(TRAILER);
        bytes
    }

    fn journal() -> (Vec<u8>, Vec<Range<usize>>) {
        let (mut bytes, mut batches) = (Vec::new(), Vec::new());
        for number in 0..4_usize {
            let start = bytes.len();
            let value = vec![1; number * 10];
            let entries: [(&[u8], &[u8]); 3] = [(b"k1", &value), (b"k22", b"\x01\x01"), (b"m", b"")];
            bytes.extend(batch(1_000 + number as u64, &entries[..number.min(3)]));
            batches.push(start..bytes.len());
        }
        (bytes, batches)
    }

    #[test]
    fn a_whole_journal_has_no_damage() {
        let (mut bytes, batches) = journal();
        let expected = Scan { batches, ..Scan::default() };
        assert_eq!(scan(&bytes), expected);
        bytes.extend([0; 1_000]);
        assert_eq!(scan(&bytes), expected);
        assert_eq!(scan(&[0; 100]), Scan::default());
        assert_eq!(scan(&[]), Scan::default());
    }

    #[test]
    fn an_interrupted_write_is_no_damage() {
        let (bytes, batches) = journal();
        let last = batches[3].clone();
        for cut in last.start..last.end {
            for zeros in [0, 50] {
                let found = scan(&[&bytes[..cut], &vec![0; zeros][..]].concat());
                assert_eq!((&found.batches[..], found.damaged.len()), (&batches[..3], 0), "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_changed_byte_costs_its_batch_and_is_reported() {
        let (bytes, batches) = journal();
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let found = scan(&changed);
                let is_number = batches.iter().any(|batch| (5..13).contains(&(at - batch.start.min(at))));
                let lost: Vec<_> = batches.iter().filter(|batch| !found.batches.contains(batch)).collect();
                assert!(lost.len() <= 1 && lost.iter().all(|batch| batch.contains(&at)), "byte {at}: {found:?}");
                assert_eq!(found.damaged.is_empty(), is_number, "byte {at}: {found:?}");
                let mut mended = changed.clone();
                for (at, number) in &found.corrected {
                    mended[*at..at + NUMBER_BYTES].copy_from_slice(number);
                }
                assert_eq!(scan(&mended), Scan { corrected: Vec::new(), ..found }, "byte {at}");
            }
        }
    }

    #[test]
    fn a_zeroed_range_costs_its_batches() {
        let (mut bytes, batches) = journal();
        bytes[batches[1].start + 3..batches[2].start + 1].fill(0);
        let found = scan(&bytes);
        assert_eq!(found.batches, [batches[0].clone(), batches[3].clone()]);
        assert_eq!(found.damaged, std::slice::from_ref(&(batches[1].start..batches[3].start)));
    }
}
