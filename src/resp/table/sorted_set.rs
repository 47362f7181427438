//! Rows of the sorted set commands, forwarded to Redis.

use crate::resp::{
    command::{Row, Run},
    exec::element_scan,
    key_spec::{Begin, Find, KeySpec},
    table::{PASS, later},
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("bzmpop", -5, PASS)
        .flags("write blocking movablekeys")
        .categories("write sortedset slow blocking")
        .keys(&[KeySpec::new(Begin::At(2), Find::Counted(0, 1, 1), "RW access delete")])
        .doc("sorted-set", "7.0.0", "O(K) + O(M*log(N)) where K is the number of provided keys, N being the number of elements in the sorted set, and M being the number of elements popped.", "Remove and return members with scores in a sorted set or block until one is available")
        .arguments("timeout:double numkeys:integer key*:key#0 where:oneof(min:token='MIN' max:token='MAX') count?:integer='COUNT'"),
    Row::new("bzpopmax", -3, PASS)
        .flags("write noscript blocking fast")
        .categories("write sortedset fast blocking")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-2, 1, 0), "RW access delete")])
        .doc("sorted-set", "5.0.0", "O(log(N)) with N being the number of elements in the sorted set.", "Remove and return the member with the highest score from one or more sorted sets, or block until one is available")
        .arguments("key*:key#0 timeout:double"),
    Row::new("bzpopmin", -3, PASS)
        .flags("write noscript blocking fast")
        .categories("write sortedset fast blocking")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-2, 1, 0), "RW access delete")])
        .doc("sorted-set", "5.0.0", "O(log(N)) with N being the number of elements in the sorted set.", "Remove and return the member with the lowest score from one or more sorted sets, or block until one is available")
        .arguments("key*:key#0 timeout:double"),
    Row::new("zadd", -4, PASS)
        .flags("write denyoom fast")
        .categories("write sortedset fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update")])
        .doc("sorted-set", "1.2.0", "O(log(N)) for each item added, where N is the number of elements in the sorted set.", "Add one or more members to a sorted set, or update its score if it already exists")
        .arguments("key:key#0 condition?:oneof@3.0.2(nx:token='NX' xx:token='XX') comparison?:oneof@6.2.0(gt:token='GT' lt:token='LT') change?:token='CH'@3.0.2 increment?:token='INCR'@3.0.2 score_member*:block(score:double member)"),
    Row::new("zcard", 2, PASS)
        .flags("readonly fast")
        .categories("read sortedset fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
        .doc("sorted-set", "1.2.0", "O(1)", "Get the number of members in a sorted set")
        .arguments("key:key#0"),
    Row::new("zcount", 4, PASS)
        .flags("readonly fast")
        .categories("read sortedset fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "2.0.0", "O(log(N)) with N being the number of elements in the sorted set.", "Count the members in a sorted set with scores within the given values")
        .arguments("key:key#0 min:double max:double"),
    Row::new("zdiff", -3, PASS)
        .flags("readonly movablekeys")
        .categories("read sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Counted(0, 1, 1), "RO access")])
        .doc("sorted-set", "6.2.0", "O(L + (N-K)log(N)) worst case where L is the total number of elements in all the sets, N is the size of the first set, and K is the size of the result set.", "Subtract multiple sorted sets")
        .arguments("numkeys:integer key*:key#0 withscores?:token='WITHSCORES'"),
    Row::new("zdiffstore", -4, PASS)
        .flags("write denyoom movablekeys")
        .categories("write sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "OW update"), KeySpec::new(Begin::At(2), Find::Counted(0, 1, 1), "RO access")])
        .doc("sorted-set", "6.2.0", "O(L + (N-K)log(N)) worst case where L is the total number of elements in all the sets, N is the size of the first set, and K is the size of the result set.", "Subtract multiple sorted sets and store the resulting sorted set in a new key")
        .arguments("destination:key#0 numkeys:integer key*:key#1"),
    Row::new("zincrby", 4, PASS)
        .flags("write denyoom fast")
        .categories("write sortedset fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access update")])
        .doc("sorted-set", "1.2.0", "O(log(N)) where N is the number of elements in the sorted set.", "Increment the score of a member in a sorted set")
        .arguments("key:key#0 increment:integer member"),
    Row::new("zinter", -3, PASS)
        .flags("readonly movablekeys")
        .categories("read sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Counted(0, 1, 1), "RO access")])
        .doc("sorted-set", "6.2.0", "O(N*K)+O(M*log(M)) worst case with N being the smallest input sorted set, K being the number of input sorted sets and M being the number of elements in the resulting sorted set.", "Intersect multiple sorted sets")
        .arguments("numkeys:integer key*:key#0 weight?*:integer='WEIGHTS' aggregate?:oneof='AGGREGATE'(sum:token='SUM' min:token='MIN' max:token='MAX') withscores?:token='WITHSCORES'"),
    Row::new("zintercard", -3, PASS)
        .flags("readonly movablekeys")
        .categories("read sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Counted(0, 1, 1), "RO access")])
        .doc("sorted-set", "7.0.0", "O(N*K) worst case with N being the smallest input sorted set, K being the number of input sorted sets.", "Intersect multiple sorted sets and return the cardinality of the result")
        .arguments("numkeys:integer key*:key#0 limit?:integer='LIMIT'"),
    Row::new("zinterstore", -4, PASS)
        .flags("write denyoom movablekeys")
        .categories("write sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "OW update"), KeySpec::new(Begin::At(2), Find::Counted(0, 1, 1), "RO access")])
        .doc("sorted-set", "2.0.0", "O(N*K)+O(M*log(M)) worst case with N being the smallest input sorted set, K being the number of input sorted sets and M being the number of elements in the resulting sorted set.", "Intersect multiple sorted sets and store the resulting sorted set in a new key")
        .arguments("destination:key#0 numkeys:integer key*:key#1 weight?*:integer='WEIGHTS' aggregate?:oneof='AGGREGATE'(sum:token='SUM' min:token='MIN' max:token='MAX')"),
    Row::new("zlexcount", 4, PASS)
        .flags("readonly fast")
        .categories("read sortedset fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "2.8.9", "O(log(N)) with N being the number of elements in the sorted set.", "Count the number of members in a sorted set between a given lexicographical range")
        .arguments("key:key#0 min max"),
    Row::new("zmpop", -4, PASS)
        .flags("write movablekeys")
        .categories("write sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Counted(0, 1, 1), "RW access delete")])
        .doc("sorted-set", "7.0.0", "O(K) + O(M*log(N)) where K is the number of provided keys, N being the number of elements in the sorted set, and M being the number of elements popped.", "Remove and return members with scores in a sorted set")
        .arguments("numkeys:integer key*:key#0 where:oneof(min:token='MIN' max:token='MAX') count?:integer='COUNT'"),
    Row::new("zmscore", -3, PASS)
        .flags("readonly fast")
        .categories("read sortedset fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "6.2.0", "O(N) where N is the number of members being requested.", "Get the score associated with the given members in a sorted set")
        .arguments("key:key#0 member*"),
    Row::new("zpopmax", -2, PASS)
        .flags("write fast")
        .categories("write sortedset fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access delete")])
        .doc("sorted-set", "5.0.0", "O(log(N)*M) with N being the number of elements in the sorted set, and M being the number of elements popped.", "Remove and return members with the highest scores in a sorted set")
        .arguments("key:key#0 count?:integer"),
    Row::new("zpopmin", -2, PASS)
        .flags("write fast")
        .categories("write sortedset fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access delete")])
        .doc("sorted-set", "5.0.0", "O(log(N)*M) with N being the number of elements in the sorted set, and M being the number of elements popped.", "Remove and return members with the lowest scores in a sorted set")
        .arguments("key:key#0 count?:integer"),
    Row::new("zrandmember", -2, PASS)
        .flags("readonly")
        .categories("read sortedset slow")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "6.2.0", "O(N) where N is the number of elements returned", "Get one or multiple random elements from a sorted set")
        .arguments("key:key#0 options?:block(count:integer withscores?:token='WITHSCORES')"),
    Row::new("zrange", -4, PASS)
        .flags("readonly")
        .categories("read sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "1.2.0", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements returned.", "Return a range of members in a sorted set")
        .arguments("key:key#0 start stop sortby?:oneof@6.2.0(byscore:token='BYSCORE' bylex:token='BYLEX') rev?:token='REV'@6.2.0 offset_count?:block='LIMIT'@6.2.0(offset:integer count:integer) withscores?:token='WITHSCORES'"),
    Row::new("zrangebylex", -4, PASS)
        .flags("readonly")
        .categories("read sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "2.8.9", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned. If M is constant (e.g. always asking for the first 10 elements with LIMIT), you can consider it O(log(N)).", "Return a range of members in a sorted set, by lexicographical range")
        .deprecated("6.2.0", "`ZRANGE` with the `BYLEX` argument")
        .arguments("key:key#0 min max offset_count?:block='LIMIT'(offset:integer count:integer)"),
    Row::new("zrangebyscore", -4, PASS)
        .flags("readonly")
        .categories("read sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "1.0.5", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned. If M is constant (e.g. always asking for the first 10 elements with LIMIT), you can consider it O(log(N)).", "Return a range of members in a sorted set, by score")
        .deprecated("6.2.0", "`ZRANGE` with the `BYSCORE` argument")
        .arguments("key:key#0 min:double max:double withscores?:token='WITHSCORES'@2.0.0 offset_count?:block='LIMIT'(offset:integer count:integer)"),
    Row::new("zrangestore", -5, PASS)
        .flags("write denyoom")
        .categories("write sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "OW update"), KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "6.2.0", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements stored into the destination key.", "Store a range of members from sorted set into another key")
        .arguments("dst:key#0 src:key#1 min max sortby?:oneof(byscore:token='BYSCORE' bylex:token='BYLEX') rev?:token='REV' offset_count?:block='LIMIT'(offset:integer count:integer)"),
    Row::new("zrank", 3, PASS)
        .flags("readonly fast")
        .categories("read sortedset fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "2.0.0", "O(log(N))", "Determine the index of a member in a sorted set")
        .arguments("key:key#0 member"),
    Row::new("zrem", -3, PASS)
        .flags("write fast")
        .categories("write sortedset fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW delete")])
        .doc("sorted-set", "1.2.0", "O(M*log(N)) with N being the number of elements in the sorted set and M the number of elements to be removed.", "Remove one or more members from a sorted set")
        .arguments("key:key#0 member*"),
    Row::new("zremrangebylex", 4, PASS)
        .flags("write")
        .categories("write sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW delete")])
        .doc("sorted-set", "2.8.9", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements removed by the operation.", "Remove all members in a sorted set between the given lexicographical range")
        .arguments("key:key#0 min max"),
    Row::new("zremrangebyrank", 4, PASS)
        .flags("write")
        .categories("write sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW delete")])
        .doc("sorted-set", "2.0.0", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements removed by the operation.", "Remove all members in a sorted set within the given indexes")
        .arguments("key:key#0 start:integer stop:integer"),
    Row::new("zremrangebyscore", 4, PASS)
        .flags("write")
        .categories("write sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW delete")])
        .doc("sorted-set", "1.2.0", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements removed by the operation.", "Remove all members in a sorted set within the given scores")
        .arguments("key:key#0 min:double max:double"),
    Row::new("zrevrange", -4, PASS)
        .flags("readonly")
        .categories("read sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "1.2.0", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements returned.", "Return a range of members in a sorted set, by index, with scores ordered from high to low")
        .deprecated("6.2.0", "`ZRANGE` with the `REV` argument")
        .arguments("key:key#0 start:integer stop:integer withscores?:token='WITHSCORES'"),
    Row::new("zrevrangebylex", -4, PASS)
        .flags("readonly")
        .categories("read sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "2.8.9", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned. If M is constant (e.g. always asking for the first 10 elements with LIMIT), you can consider it O(log(N)).", "Return a range of members in a sorted set, by lexicographical range, ordered from higher to lower strings.")
        .deprecated("6.2.0", "`ZRANGE` with the `REV` and `BYLEX` arguments")
        .arguments("key:key#0 max min offset_count?:block='LIMIT'(offset:integer count:integer)"),
    Row::new("zrevrangebyscore", -4, PASS)
        .flags("readonly")
        .categories("read sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "2.2.0", "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned. If M is constant (e.g. always asking for the first 10 elements with LIMIT), you can consider it O(log(N)).", "Return a range of members in a sorted set, by score, with scores ordered from high to low")
        .deprecated("6.2.0", "`ZRANGE` with the `REV` and `BYSCORE` arguments")
        .arguments("key:key#0 max:double min:double withscores?:token='WITHSCORES' offset_count?:block='LIMIT'(offset:integer count:integer)"),
    Row::new("zrevrank", 3, PASS)
        .flags("readonly fast")
        .categories("read sortedset fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "2.0.0", "O(log(N))", "Determine the index of a member in a sorted set, with scores ordered from high to low")
        .arguments("key:key#0 member"),
    Row::new("zscan", -3, later!(element_scan::scan))
        .flags("readonly")
        .categories("read sortedset slow")
        .tips("nondeterministic_output")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "2.8.0", "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor to return back to 0. N is the number of elements inside the collection..", "Incrementally iterate sorted sets elements and associated scores")
        .arguments("key:key#0 cursor:integer pattern?:pattern='MATCH' count?:integer='COUNT'"),
    Row::new("zscore", 3, PASS)
        .flags("readonly fast")
        .categories("read sortedset fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("sorted-set", "1.2.0", "O(1)", "Get the score associated with the given member in a sorted set")
        .arguments("key:key#0 member"),
    Row::new("zunion", -3, PASS)
        .flags("readonly movablekeys")
        .categories("read sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Counted(0, 1, 1), "RO access")])
        .doc("sorted-set", "6.2.0", "O(N)+O(M*log(M)) with N being the sum of the sizes of the input sorted sets, and M being the number of elements in the resulting sorted set.", "Add multiple sorted sets")
        .arguments("numkeys:integer key*:key#0 weight?*:integer='WEIGHTS' aggregate?:oneof='AGGREGATE'(sum:token='SUM' min:token='MIN' max:token='MAX') withscores?:token='WITHSCORES'"),
    Row::new("zunionstore", -4, PASS)
        .flags("write denyoom movablekeys")
        .categories("write sortedset slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "OW update"), KeySpec::new(Begin::At(2), Find::Counted(0, 1, 1), "RO access")])
        .doc("sorted-set", "2.0.0", "O(N)+O(M log(M)) with N being the sum of the sizes of the input sorted sets, and M being the number of elements in the resulting sorted set.", "Add multiple sorted sets and store the resulting sorted set in a new key")
        .arguments("destination:key#0 numkeys:integer key*:key#1 weight?*:integer='WEIGHTS' aggregate?:oneof='AGGREGATE'(sum:token='SUM' min:token='MIN' max:token='MAX')"),
];
