//! Maps the hash of a key to its slot, with little more than five bytes per entry.
//!
//! A bucket is one cache line: 15 words for entries, each with ten bits of the hash and 22 bits of the place, and one
//! word that counts the entries that did not fit and were stored in a later bucket. A search ends at the first bucket
//! with a count of 0. Therefore a removal leaves no tombstone and needs no other hash than its own. The table grows by
//! a quarter and does not double, to waste less memory.

/// Number of words of a bucket that hold entries.
const WAYS: usize = 15;
/// The word that counts the entries stored in later buckets.
const PASSED: usize = WAYS;
/// Bits of a word that hold the place.
const PLACE_BITS: u32 = 22;
/// Maximum number of entries in an L1 shard.
pub(super) const ENTRIES_MAX: usize = 1 << PLACE_BITS;
/// Eighths of the words that are used before the table grows.
const LOAD_EIGHTHS: usize = 7;

#[derive(Clone)]
#[repr(align(64))]
struct Bucket([u32; WAYS + 1]);

/// Places by hash.
#[derive(Default)]
pub(super) struct Index {
    buckets: Vec<Bucket>,
    entries: usize,
}

/// Returns the bits of a hash that a word stores; never 0, which marks an empty word.
#[inline]
fn tag(hash: u32) -> u32 {
    (hash & (u32::MAX >> PLACE_BITS)).max(1) << PLACE_BITS
}

fn place(word: u32) -> usize {
    (word & ((1 << PLACE_BITS) - 1)) as usize
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// Returns the bucket of a hash, from its high bits; the tag uses the low bits.
    #[inline]
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.buckets.len() as u64) >> 32) as usize
    }

    #[inline]
    fn next(&self, bucket: usize) -> usize {
        if bucket + 1 == self.buckets.len() { 0 } else { bucket + 1 }
    }

    /// Returns the place with this hash for which `is_it` holds.
    #[inline]
    pub(super) fn find(&self, hash: u32, mut is_it: impl FnMut(usize) -> bool) -> Option<usize> {
        let wanted = tag(hash);
        let mut at = self.home(hash);
        for _ in 0..self.buckets.len() {
            let bucket = self.buckets.get(at)?;
            let mut matches = matching(bucket, wanted);
            while matches != 0 {
                let found = place(bucket.0[matches.trailing_zeros() as usize & WAYS]);
                if is_it(found) {
                    return Some(found);
                }
                matches &= matches - 1;
            }
            if bucket.0[PASSED] == 0 {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    /// Adds a place that is not in the table. `hash_of` returns the hashes of the entries in the table.
    pub(super) fn insert(&mut self, hash: u32, at: usize, hash_of: impl Fn(usize) -> u32) {
        if self.entries >= self.buckets.len() * WAYS / 8 * LOAD_EIGHTHS {
            let buckets = self.buckets.len() + (self.buckets.len() / 4).max(1);
            self.rebuild(buckets, hash_of);
        }
        self.add(hash, at);
    }

    fn add(&mut self, hash: u32, place: usize) {
        let mut at = self.home(hash);
        loop {
            let bucket = &mut self.buckets[at].0;
            if let Some(free) = bucket[..WAYS].iter_mut().find(|word| **word == 0) {
                *free = tag(hash) | place as u32;
                self.entries += 1;
                return;
            }
            bucket[PASSED] += 1;
            at = self.next(at);
        }
    }

    /// Removes a place.
    pub(super) fn remove(&mut self, hash: u32, at: usize) {
        if let Some((bucket, way)) = self.word(hash, at) {
            self.buckets[bucket].0[way] = 0;
            self.entries -= 1;
            let mut passed = self.home(hash);
            while passed != bucket {
                self.buckets[passed].0[PASSED] -= 1;
                passed = self.next(passed);
            }
        }
    }

    /// Changes the place of an entry that moved.
    pub(super) fn relocate(&mut self, hash: u32, from: usize, to: usize) {
        if let Some((bucket, way)) = self.word(hash, from) {
            self.buckets[bucket].0[way] = tag(hash) | to as u32;
        }
    }

    /// Returns the position of the word of a place.
    fn word(&self, hash: u32, at: usize) -> Option<(usize, usize)> {
        let wanted = tag(hash) | at as u32;
        let mut bucket = self.home(hash);
        for _ in 0..self.buckets.len() {
            if let Some(way) = self.buckets[bucket].0[..WAYS].iter().position(|&word| word == wanted) {
                return Some((bucket, way));
            }
            bucket = self.next(bucket);
        }
        None
    }

    /// Releases memory if few entries remain.
    pub(super) fn shrink(&mut self, hash_of: impl Fn(usize) -> u32) {
        self.rebuild(self.entries * 8 / LOAD_EIGHTHS / WAYS + 1, hash_of);
    }

    /// Rebuilds the table with this number of buckets, for places from 0 up to the number of entries.
    fn rebuild(&mut self, buckets: usize, hash_of: impl Fn(usize) -> u32) {
        let places: Vec<usize> = self.places().collect();
        self.buckets = vec![Bucket([0; WAYS + 1]); buckets];
        self.entries = 0;
        places.into_iter().for_each(|at| self.add(hash_of(at), at));
    }

    fn places(&self) -> impl Iterator<Item = usize> {
        self.buckets.iter().flat_map(|bucket| &bucket.0[..WAYS]).filter(|&&word| word != 0).map(|&word| place(word))
    }
}

/// Returns a bit for each word with this tag.
#[inline]
fn matching(bucket: &Bucket, wanted: u32) -> u32 {
    let hits = bucket.0[..WAYS].iter().enumerate();
    hits.fold(0, |mask, (way, word)| mask | u32::from((word ^ wanted) >> PLACE_BITS == 0) << way)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes chosen to collide in bucket and tag.
    fn hash(place: usize) -> u32 {
        (place as u32 % 50).wrapping_mul(0x9E37_79B9) & 0xF000_0003
    }

    #[test]
    fn places_are_found_after_growth_removal_and_moves() {
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut index, mut there) = (Index::default(), std::collections::BTreeSet::new());
        for _ in 0..20_000 {
            let at = rng.usize(..1_000);
            if there.remove(&at) {
                index.remove(hash(at), at);
            } else {
                index.insert(hash(at), at, hash);
                there.insert(at);
            }
            let probe = rng.usize(..1_000);
            assert_eq!(index.find(hash(probe), |found| found == probe).is_some(), there.contains(&probe));
            assert_eq!(index.len(), there.len());
        }
        index.shrink(hash);
        assert!(there.iter().all(|&at| index.find(hash(at), |found| found == at) == Some(at)));
        there.iter().for_each(|&at| index.remove(hash(at), at));
        assert!(index.buckets.iter().all(|bucket| bucket.0 == [0; WAYS + 1]), "nothing is left, not even a count");
    }

    #[test]
    fn it_takes_little_more_than_five_bytes_an_entry() {
        let mix = |at: usize| (at as u32).wrapping_mul(0x9E37_79B9) ^ (at as u32).wrapping_mul(0x85EB_CA6B) >> 7;
        let (mut index, mut bytes, mut steps) = (Index::default(), 0.0, 0.0);
        for at in 0..60_000 {
            index.insert(mix(at), at, mix);
            if at > 20_000 {
                bytes += (index.buckets.len() * size_of::<Bucket>()) as f64 / at as f64;
                steps += 1.0;
            }
        }
        assert!(bytes / steps < 5.6, "{}", bytes / steps);
    }
}
