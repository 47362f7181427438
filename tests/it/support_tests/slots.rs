//! The slot function of the checker equals that of Redis. (`support/checker/history.rs` tests the judge itself.)

use crate::support::checker::direct::slot;

#[test]
fn slots_are_those_of_redis() {
    for (key, expected) in [("123456789", 12_739), ("foo", 12_182), ("{foo}bar", 12_182), ("{}foo", 9_500)] {
        assert_eq!(slot(key.as_bytes()), expected, "{key}");
    }
}
