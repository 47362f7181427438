//! Parts of the checker that are right or wrong by themselves. (How it judges is tested beside its code.)

use crate::support::checker::straight::slot;

#[test]
fn slots_are_those_of_redis() {
    for (key, expected) in [("123456789", 12_739), ("foo", 12_182), ("{foo}bar", 12_182), ("{}foo", 9_500)] {
        assert_eq!(slot(key.as_bytes()), expected, "{key}");
    }
}
