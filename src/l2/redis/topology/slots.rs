//! Hash slots of a Redis Cluster: the slot of a key, and for each slot a hash tag that falls into it.

use std::sync::LazyLock;

use crc::{CRC_16_XMODEM, Crc, Table};

/// Slots of a Redis Cluster.
pub(crate) const SLOTS: usize = 16_384;

/// The CRC of the cluster specification; the table makes it one lookup per byte.
static CRC: Crc<u16, Table<1>> = Crc::<u16, Table<1>>::new(&CRC_16_XMODEM);

/// Returns the slot of a key. If the key contains a nonempty part between the first `{` and the next `}`, only that
/// part is hashed.
pub(crate) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let length = key[open + 1..].iter().position(|&byte| byte == b'}')?;
        (length > 0).then(|| &key[open + 1..open + 1 + length])
    });
    CRC.checksum(tag.unwrap_or(key)) % SLOTS as u16
}

/// For each slot, a number whose decimal digits, as a hash tag, fall into the slot.
pub(crate) static TAGS: LazyLock<Box<[u32]>> = LazyLock::new(|| {
    let mut tags = vec![u32::MAX; SLOTS].into_boxed_slice();
    let mut left = SLOTS;
    for number in 0.. {
        let place = &mut tags[usize::from(slot(number.to_string().as_bytes()))];
        if *place == u32::MAX {
            *place = number;
            left -= 1;
        }
        if left == 0 {
            break;
        }
    }
    tags
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // From the specification's appendix, and CLUSTER KEYSLOT of Redis 7.0.
        assert_eq!(CRC.checksum(b"123456789"), 0x31C3);
        for (key, expected) in [
            (&b"foo"[..], 12_182),
            (b"somekey", 11_058),
            (b"foo{hash_tag}", 2_515),
            (b"{hash_tag}bar", 2_515),
            (b"foo{}{bar}", 8_363),
            (b"foo{{bar}}zap", 4_015),
            (b"foo{bar}{zap}", 5_061),
            (b"", 0),
        ] {
            assert_eq!(slot(key), expected, "{}", String::from_utf8_lossy(key));
        }
    }
}
