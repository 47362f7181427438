//! Replies of Redis that Terrace filters by a pattern, because Redis would take long to compare it
//! ([`Glob::for_redis`]).

use bytes::Bytes;
use tokio::task::spawn_blocking;

use crate::{
    cache::{Turn, each_element, text},
    glob::Glob,
};

/// Maximum length in bytes of a text that is compared on the thread of the connection (at most about 4 ms). Longer texts
/// are compared on another thread.
const COMPARED_HERE_MAX_BYTES: usize = 256 * 1024;

/// Returns an array reply with the elements of `reply` whose text matches. Each element consists of `parts` parts, the
/// first of which is its text. Returns `None` if `reply` is no array.
pub(super) async fn matching(reply: &Bytes, parts: usize, glob: &Glob) -> Option<Vec<u8>> {
    let mut all = each_element(reply)?;
    let (mut kept, mut count, mut turn) = (Vec::new(), 0, Turn::begin());
    while let Some(first) = all.next() {
        let is_kept = match text(&first) {
            Some(text) => matches(glob, text).await,
            None => false,
        };
        for part in std::iter::once(first).chain(all.by_ref().take(parts - 1)).filter(|_| is_kept) {
            kept.extend_from_slice(&part);
            count += 1;
        }
        turn.pause().await;
    }
    Some([format!("*{count}\r\n").as_bytes(), &kept].concat())
}

async fn matches(glob: &Glob, text: Bytes) -> bool {
    if text.len() <= COMPARED_HERE_MAX_BYTES || !glob.may_match(&text) {
        return glob.matches(&text);
    }
    let glob = glob.clone();
    // The comparison is canceled only if the server stops.
    spawn_blocking(move || glob.matches(&text)).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;

    use super::*;

    async fn kept(reply: &'static str, parts: usize) -> Option<String> {
        let glob = Glob::new(b"*b").unwrap();
        let found = matching(&Bytes::from_static(reply.as_bytes()), parts, &glob).await?;
        Some(String::from_utf8(found).unwrap())
    }

    #[tokio::test]
    async fn elements_are_kept_with_all_parts() {
        let pairs = "*4\r\n$2\r\nab\r\n$1\r\n1\r\n$1\r\na\r\n$1\r\nb\r\n";
        assert_eq!(kept(pairs, 2).await.unwrap(), "*2\r\n$2\r\nab\r\n$1\r\n1\r\n");
        assert_eq!(kept(pairs, 1).await.unwrap(), "*2\r\n$2\r\nab\r\n$1\r\nb\r\n");
        assert_eq!(kept("*0\r\n", 2).await.unwrap(), "*0\r\n");
        assert_eq!(kept("-ERR no\r\n", 2).await, None);
    }

    #[tokio::test]
    async fn long_texts_are_compared() {
        let long = "a".repeat(COMPARED_HERE_MAX_BYTES);
        for (end, count) in [("b", 1), ("c", 0)] {
            let reply = format!("*1\r\n${}\r\n{long}{end}\r\n", long.len() + 1);
            let found = matching(&reply.into(), 1, &Glob::new(b"*b").unwrap()).await.unwrap();
            assert!(found.starts_with(format!("*{count}\r\n").as_bytes()));
        }
    }

    /// Only long texts that may match need another thread. The only other thread is occupied.
    #[test]
    fn long_texts_are_compared_on_another_thread() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (release, occupied) = mpsc::channel::<()>();
        let (any, prefix) = (Glob::new(b"*b").unwrap(), Glob::new(b"x*b").unwrap());
        let (short, long) = (vec![b'b'; COMPARED_HERE_MAX_BYTES], vec![b'b'; COMPARED_HERE_MAX_BYTES + 1]);
        runtime.block_on(async {
            drop(spawn_blocking(move || occupied.recv()));
            assert_eq!(matches(&any, short.into()).now_or_never(), Some(true));
            assert_eq!(matches(&prefix, long.clone().into()).now_or_never(), Some(false));
            let mut waits = Box::pin(matches(&any, long.into()));
            assert_eq!(waits.as_mut().now_or_never(), None);
            drop(release);
            assert!(waits.await);
        });
    }
}
