//! LCS: the longest common subsequence of two strings.

use super::{integer, is};
use crate::resp::{
    command::Context,
    frame::Args,
    reply::{Done, Refusal},
};

/// Maximum number of table cells of LCS, 4 bytes each (about 50 ms).
const CELLS_MAX: usize = 16 << 20;
/// Number of cells after which the task yields to other connections.
const CELLS_A_TURN: usize = 1 << 20;

/// Options of LCS.
#[derive(Debug, Default, Clone, Copy)]
struct Options {
    len: bool,
    idx: bool,
    with_match_len: bool,
    match_len_min: u32,
}

impl Options {
    fn parse(args: Args<'_>) -> Result<Self, Refusal> {
        let mut options = Self::default();
        let mut at = 0;
        while let Some(word) = args.get(at) {
            match (word, args.get(at + 1)) {
                (word, _) if is(word, "idx") => options.idx = true,
                (word, _) if is(word, "len") => options.len = true,
                (word, _) if is(word, "withmatchlen") => options.with_match_len = true,
                (word, Some(min)) if is(word, "minmatchlen") => {
                    options.match_len_min = u32::try_from(integer(min)?.max(0)).unwrap_or(u32::MAX);
                    at += 1;
                }
                (_, _) => return Err(Refusal::Syntax),
            }
            at += 1;
        }
        if options.idx && options.len {
            return Err(Refusal::text("ERR If you want both the length and indexes, please just use IDX."));
        }
        Ok(options)
    }
}

/// A run of equal bytes: start in both strings and length.
type Match = (usize, usize, usize);

/// LCS key1 key2 [LEN] [IDX] [MINMATCHLEN len] [WITHMATCHLEN]
pub(in crate::resp) async fn lcs(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let a = cx.read(args.at(1)).await;
    let b = cx.read(args.at(2)).await;
    let (a, b) = (a.map_err(only_strings)?.unwrap_or_default(), b.map_err(only_strings)?.unwrap_or_default());
    let options = Options::parse(args.from(3))?;
    let table = Table::fill(&a, &b).await?;
    let (common, matches) = table.trace(&a, &b);
    if options.idx {
        write_matches(cx, &options, &matches, common.len());
    } else if options.len {
        cx.reply.count(common.len() as u64);
    } else {
        cx.reply.bulk(&common);
    }
    Ok(())
}

/// Replaces WRONGTYPE by the error that Redis returns here.
fn only_strings(refusal: Refusal) -> Refusal {
    if refusal.message().starts_with("WRONGTYPE") {
        return Refusal::text("ERR The specified keys must contain string values");
    }
    refusal
}

fn write_matches(cx: &mut Context<'_>, options: &Options, matches: &[Match], common: usize) {
    let wanted = |(_, _, len): &&Match| *len >= options.match_len_min as usize;
    let reply = &mut *cx.reply;
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(matches.iter().filter(wanted).count());
    for (a, b, len) in matches.iter().filter(wanted) {
        reply.array(2 + usize::from(options.with_match_len));
        for begin in [a, b] {
            reply.array(2);
            reply.count(*begin as u64);
            reply.count((begin + len - 1) as u64);
        }
        if options.with_match_len {
            reply.count(*len as u64);
        }
    }
    reply.bulk(b"len");
    reply.count(common as u64);
}

/// Lengths of the longest common subsequences of all pairs of prefixes.
struct Table {
    cells: Vec<u32>,
    width: usize,
}

impl Table {
    async fn fill(a: &[u8], b: &[u8]) -> Result<Self, Refusal> {
        let width = b.len() + 1;
        let size = width.checked_mul(a.len() + 1).filter(|size| *size <= CELLS_MAX);
        let Some(size) = size else {
            let message =
                format!("ERR the strings are too long for LCS: the product of their lengths exceeds {CELLS_MAX}");
            return Err(Refusal::text(message));
        };
        let mut table = Self { cells: vec![0; size], width };
        let mut done = 0;
        for (i, byte) in a.iter().enumerate() {
            table.fill_row(i + 1, *byte, b);
            done += width;
            if done > CELLS_A_TURN {
                done = 0;
                tokio::task::yield_now().await;
            }
        }
        Ok(table)
    }

    fn fill_row(&mut self, i: usize, byte: u8, b: &[u8]) {
        let (before, row) = self.cells.split_at_mut(i * self.width);
        let before = &before[(i - 1) * self.width..];
        for (j, other) in b.iter().enumerate() {
            row[j + 1] = if byte == *other { before[j] + 1 } else { before[j + 1].max(row[j]) };
        }
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.cells[i * self.width + j]
    }

    /// Returns the subsequence, and its runs from last to first.
    fn trace(&self, a: &[u8], b: &[u8]) -> (Vec<u8>, Vec<Match>) {
        let (mut i, mut j) = (a.len(), b.len());
        let (mut common, mut matches) = (Vec::new(), Vec::<Match>::new());
        while i > 0 && j > 0 {
            if a[i - 1] == b[j - 1] {
                i -= 1;
                j -= 1;
                common.push(a[i]);
                match matches.last_mut() {
                    Some((begin_a, begin_b, len)) if *begin_a == i + 1 && *begin_b == j + 1 => {
                        (*begin_a, *begin_b, *len) = (i, j, *len + 1);
                    }
                    Some(_) | None => matches.push((i, j, 1)),
                }
            } else if self.at(i - 1, j) > self.at(i, j - 1) {
                i -= 1;
            } else {
                j -= 1;
            }
        }
        common.reverse();
        (common, matches)
    }
}
