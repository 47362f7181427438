//! The number of keys on a primary without Terrace's own records.
//!
//! Redis counts all keys of a database, and Terrace's records of tags and bans are stored in the same one. Up to
//! [`COUNTED_MAX`] keys are listed, and the result is exact. Of more keys, a sample is listed: pages at random positions
//! of the hash table, so that the share of Terrace's own records among them is the share among all keys, with a standard
//! error of at most 0.6% of all keys (8,000 sampled keys, half of them own records). Without own records, the result is
//! exact. If the sample has nearly no other key, the keys are listed as well, because the error would exceed the result;
//! that count of own records is used for [`OWN_COUNT_LIFE`].

use ::redis::Cmd;
use tokio::time::{Duration, Instant};

use super::{group::ConnectionGroup, pipelined_connection::Access};
use crate::{
    error::Result,
    l2::{
        ScanRequest, Source,
        redis::{
            command::{batch::word, ops, read},
            worker::{OwnCount, RedisBackend},
        },
    },
    model::Key,
};

/// Maximum number of keys of a primary that are listed to count them: about 5 ms of Redis.
const COUNTED_MAX: u64 = 10_000;
/// Number of keys per page of a listing.
const LISTED_PAGE: usize = 2_000;
/// Number of sampled pages.
const SAMPLED_PAGES: usize = 8;
/// Number of keys per sampled page.
const SAMPLED_KEYS: usize = 1_000;
/// Share of user keys in the sample below which the keys are listed.
const SHARE_MIN: f64 = 0.05;
/// Time for which the count of own records is reused if counting them required a list of more than [`COUNTED_MAX`] keys.
const OWN_COUNT_LIFE: Duration = Duration::from_secs(10);
/// Maximum time for which the keys of a primary are listed to count them. The result is then extrapolated from the keys
/// listed so far.
const LISTING_MAX: Duration = Duration::from_secs(3);

impl RedisBackend {
    /// Returns the number of keys of one primary without Terrace's own records.
    pub(in crate::l2::redis) async fn count_shown(&self, group: &ConnectionGroup, deadline: Instant) -> Result<u64> {
        let total = ops::unsigned(&group.ask_one(word("DBSIZE"), Access::Read, deadline).await?, "DBSIZE")?;
        if total <= COUNTED_MAX {
            return Ok(total.saturating_sub(list_own(group, total, deadline).await?));
        }
        let source = group.primary.source;
        if let Some(own) = self.recent_own_count(source) {
            return Ok(total.saturating_sub(own));
        }
        let share = sampled_share(group, deadline).await?;
        if share >= SHARE_MIN {
            return Ok((total as f64 * share).round() as u64);
        }
        let own = list_own(group, total, deadline).await?;
        self.own_counts.lock().insert(source, OwnCount { at: Instant::now(), own });
        Ok(total.saturating_sub(own))
    }

    fn recent_own_count(&self, source: Source) -> Option<u64> {
        let counts = self.own_counts.lock();
        counts.get(&source).filter(|count| count.at.elapsed() < OWN_COUNT_LIFE).map(|count| count.own)
    }
}

/// Returns the share of the keys of clients among keys at random positions.
async fn sampled_share(group: &ConnectionGroup, deadline: Instant) -> Result<f64> {
    let pages = (0..SAMPLED_PAGES).map(|_| scan(fastrand::u64(..), SAMPLED_KEYS)).collect();
    let (mut shown, mut seen) = (0, 0);
    for reply in group.ask(pages, Access::Read, deadline).await? {
        let (page, count) = read::counted_page(ops::checked(reply)?)?;
        shown += page.keys.len();
        seen += count;
    }
    Ok(if seen == 0 { 1.0 } else { shown as f64 / seen as f64 })
}

/// Lists the keys of a primary, of which there are about `total`, and returns the number of own records.
async fn list_own(group: &ConnectionGroup, total: u64, deadline: Instant) -> Result<u64> {
    let begun = Instant::now();
    let (mut cursor, mut any_own, mut seen) = (0, false, 0);
    // A scan may return a key twice.
    let mut shown = hashbrown::HashSet::<Key, foldhash::fast::RandomState>::default();
    loop {
        let reply = group.ask_one(scan(cursor, LISTED_PAGE), Access::Read, deadline).await?;
        let (page, count) = read::counted_page(reply)?;
        any_own |= count > page.keys.len();
        seen += count as u64;
        shown.extend(page.keys);
        cursor = page.cursor;
        if cursor == 0 {
            break;
        }
        if begun.elapsed() > LISTING_MAX {
            let share = shown.len() as f64 / seen.max(1) as f64;
            return Ok(total.saturating_sub((total as f64 * share).round() as u64));
        }
    }
    Ok(if any_own { total.saturating_sub(shown.len() as u64) } else { 0 })
}

fn scan(cursor: u64, count: usize) -> Cmd {
    read::scan_question(&ScanRequest { cursor, pattern: None, count, type_name: None })
}
