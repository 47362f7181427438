//! Rows of the list commands, forwarded to Redis.

use crate::resp::{
    command::Row,
    key_spec::{Begin, Find, KeySpec},
    table::PASS,
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("blmove", 6, PASS)
        .flags("write denyoom noscript blocking")
        .categories("write list slow blocking")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access delete"), KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RW insert")])
        .doc("list", "6.2.0", "O(1)", "Pop an element from a list, push it to another list and return it; or block until one is available")
        .arguments("source:key#0 destination:key#1 wherefrom:oneof(left:token='LEFT' right:token='RIGHT') whereto:oneof(left:token='LEFT' right:token='RIGHT') timeout:double"),
    Row::new("blmpop", -5, PASS)
        .flags("write blocking movablekeys")
        .categories("write list slow blocking")
        .keys(&[KeySpec::new(Begin::At(2), Find::Counted(0, 1, 1), "RW access delete")])
        .doc("list", "7.0.0", "O(N+M) where N is the number of provided keys and M is the number of elements returned.", "Pop elements from a list, or block until one is available")
        .arguments("timeout:double numkeys:integer key*:key#0 where:oneof(left:token='LEFT' right:token='RIGHT') count?:integer='COUNT'"),
    Row::new("blpop", -3, PASS)
        .flags("write noscript blocking")
        .categories("write list slow blocking")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-2, 1, 0), "RW access delete")])
        .doc("list", "2.0.0", "O(N) where N is the number of provided keys.", "Remove and get the first element in a list, or block until one is available")
        .arguments("key*:key#0 timeout:double"),
    Row::new("brpop", -3, PASS)
        .flags("write noscript blocking")
        .categories("write list slow blocking")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(-2, 1, 0), "RW access delete")])
        .doc("list", "2.0.0", "O(N) where N is the number of provided keys.", "Remove and get the last element in a list, or block until one is available")
        .arguments("key*:key#0 timeout:double"),
    Row::new("brpoplpush", 4, PASS)
        .flags("write denyoom noscript blocking")
        .categories("write list slow blocking")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access delete"), KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RW insert")])
        .doc("list", "2.2.0", "O(1)", "Pop an element from a list, push it to another list and return it; or block until one is available")
        .deprecated("6.2.0", "`BLMOVE` with the `RIGHT` and `LEFT` arguments")
        .arguments("source:key#0 destination:key#1 timeout:double"),
    Row::new("lindex", 3, PASS)
        .flags("readonly")
        .categories("read list slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("list", "1.0.0", "O(N) where N is the number of elements to traverse to get to the element at index. This makes asking for the first or the last element of the list O(1).", "Get an element from a list by its index")
        .arguments("key:key#0 index:integer"),
    Row::new("linsert", 5, PASS)
        .flags("write denyoom")
        .categories("write list slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW insert")])
        .doc("list", "2.2.0", "O(N) where N is the number of elements to traverse before seeing the value pivot. This means that inserting somewhere on the left end on the list (head) can be considered O(1) and inserting somewhere on the right end (tail) is O(N).", "Insert an element before or after another element in a list")
        .arguments("key:key#0 where:oneof(before:token='BEFORE' after:token='AFTER') pivot element"),
    Row::new("llen", 2, PASS)
        .flags("readonly fast")
        .categories("read list fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO")])
        .doc("list", "1.0.0", "O(1)", "Get the length of a list")
        .arguments("key:key#0"),
    Row::new("lmove", 5, PASS)
        .flags("write denyoom")
        .categories("write list slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access delete"), KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RW insert")])
        .doc("list", "6.2.0", "O(1)", "Pop an element from a list, push it to another list and return it")
        .arguments("source:key#0 destination:key#1 wherefrom:oneof(left:token='LEFT' right:token='RIGHT') whereto:oneof(left:token='LEFT' right:token='RIGHT')"),
    Row::new("lmpop", -4, PASS)
        .flags("write movablekeys")
        .categories("write list slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Counted(0, 1, 1), "RW access delete")])
        .doc("list", "7.0.0", "O(N+M) where N is the number of provided keys and M is the number of elements returned.", "Pop elements from a list")
        .arguments("numkeys:integer key*:key#0 where:oneof(left:token='LEFT' right:token='RIGHT') count?:integer='COUNT'"),
    Row::new("lpop", -2, PASS)
        .flags("write fast")
        .categories("write list fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access delete")])
        .doc("list", "1.0.0", "O(N) where N is the number of elements returned", "Remove and get the first elements in a list")
        .arguments("key:key#0 count?:integer@6.2.0"),
    Row::new("lpos", -3, PASS)
        .flags("readonly")
        .categories("read list slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("list", "6.0.6", "O(N) where N is the number of elements in the list, for the average case. When searching for elements near the head or the tail of the list, or when the MAXLEN option is provided, the command may run in constant time.", "Return the index of matching elements on a list")
        .arguments("key:key#0 element rank?:integer='RANK' num-matches?:integer='COUNT' len?:integer='MAXLEN'"),
    Row::new("lpush", -3, PASS)
        .flags("write denyoom fast")
        .categories("write list fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW insert")])
        .doc("list", "1.0.0", "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.", "Prepend one or multiple elements to a list")
        .arguments("key:key#0 element*"),
    Row::new("lpushx", -3, PASS)
        .flags("write denyoom fast")
        .categories("write list fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW insert")])
        .doc("list", "2.2.0", "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.", "Prepend an element to a list, only if the list exists")
        .arguments("key:key#0 element*"),
    Row::new("lrange", 4, PASS)
        .flags("readonly")
        .categories("read list slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("list", "1.0.0", "O(S+N) where S is the distance of start offset from HEAD for small lists, from nearest end (HEAD or TAIL) for large lists; and N is the number of elements in the specified range.", "Get a range of elements from a list")
        .arguments("key:key#0 start:integer stop:integer"),
    Row::new("lrem", 4, PASS)
        .flags("write")
        .categories("write list slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW delete")])
        .doc("list", "1.0.0", "O(N+M) where N is the length of the list and M is the number of elements removed.", "Remove elements from a list")
        .arguments("key:key#0 count:integer element"),
    Row::new("lset", 4, PASS)
        .flags("write denyoom")
        .categories("write list slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update")])
        .doc("list", "1.0.0", "O(N) where N is the length of the list. Setting either the first or the last element of the list is O(1).", "Set the value of an element in a list by its index")
        .arguments("key:key#0 index:integer element"),
    Row::new("ltrim", 4, PASS)
        .flags("write")
        .categories("write list slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW delete")])
        .doc("list", "1.0.0", "O(N) where N is the number of elements to be removed by the operation.", "Trim a list to the specified range")
        .arguments("key:key#0 start:integer stop:integer"),
    Row::new("rpop", -2, PASS)
        .flags("write fast")
        .categories("write list fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access delete")])
        .doc("list", "1.0.0", "O(N) where N is the number of elements returned", "Remove and get the last elements in a list")
        .arguments("key:key#0 count?:integer@6.2.0"),
    Row::new("rpoplpush", 3, PASS)
        .flags("write denyoom")
        .categories("write list slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW access delete"), KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RW insert")])
        .doc("list", "1.2.0", "O(1)", "Remove the last element in a list, prepend it to another list and return it")
        .deprecated("6.2.0", "`LMOVE` with the `RIGHT` and `LEFT` arguments")
        .arguments("source:key#0 destination:key#1"),
    Row::new("rpush", -3, PASS)
        .flags("write denyoom fast")
        .categories("write list fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW insert")])
        .doc("list", "1.0.0", "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.", "Append one or multiple elements to a list")
        .arguments("key:key#0 element*"),
    Row::new("rpushx", -3, PASS)
        .flags("write denyoom fast")
        .categories("write list fast")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW insert")])
        .doc("list", "2.2.0", "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.", "Append an element to a list, only if the list exists")
        .arguments("key:key#0 element*"),
];
