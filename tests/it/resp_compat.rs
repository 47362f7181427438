//! RESP compatibility: the same bytes are sent to a real redis-server and to Terrace, and the replies are compared byte
//! by byte, over no L2, the embedded store and Redis, in RESP2 and RESP3.
//!
//! Each case is one pipeline on a connection of its own, between FLUSHALL and QUIT. The test compares everything that
//! arrives until the server closes the connection. [`EXCEPTIONS`] lists intended differences from Redis 7.0 with their
//! reasons; the test fails when an exception no longer differs.

use std::fmt::Write as _;

use ::redis::{Connection, Value};
use terrace::config::Config;

use crate::support::{
    eventually,
    redis::RedisServer,
    resp::{Client, converse, request},
    setting_from_environment,
    terrace::{Terrace, config, config_embedded, config_patient},
};

/// Command sequences. Words are separated by blanks, the sequences of a case by ` | `. `''` is an empty word; `\r`,
/// `\n`, `\0`, `\xff` and `\_` (a blank) are escapes.
const CASES: &[&str] = &[
    // connection
    "PING",
    "ping hello",
    "PING a b",
    "ECHO hello | ECHO",
    r"ECHO \0\r\n\xff",
    "ECHO ''",
    "SELECT 0 | SELECT 3 | SELECT 15 | SELECT -1 | SELECT abc | SELECT 99999999999 | SELECT",
    "HELLO 1 | HELLO 4 | HELLO abc | HELLO 2 AUTH | HELLO 2 FOO bar | HELLO 2 SETNAME a\\_b",
    "HELLO 3 AUTH default | HELLO 2 AUTH nobody secret",
    "AUTH secret | AUTH a b c d | AUTH",
    "AUTH default anything | AUTH nobody x",
    "CLIENT SETNAME me | CLIENT GETNAME | CLIENT SETNAME '' | CLIENT GETNAME",
    "CLIENT GETNAME | CLIENT SETNAME a\\_b | CLIENT SETNAME a\\nb | CLIENT GETNAME",
    "CLIENT | CLIENT FOO | CLIENT GETNAME x | CLIENT SETNAME | CLIENT ID x",
    "CLIENT NO-EVICT on | CLIENT NO-EVICT off | CLIENT NO-EVICT x | CLIENT NO-EVICT",
    "CLIENT LIST TYPE foo | CLIENT LIST ID x | CLIENT LIST FOO | CLIENT LIST TYPE pubsub | CLIENT LIST TYPE replica",
    "CLIENT LIST ID 999999999",
    "CLIENT SETNAME n | RESET | CLIENT GETNAME | PING",
    "RESET x",
    // errors of any command
    "FOO | FOO a b c | foo\\r\\nbar x\\ny",
    "FOO aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa \
     bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb c d",
    "GET | GET a b | SET a | MGET | DEL | EXPIRE a | TTL | INCRBY a | GETRANGE a 1 | SETEX a 1",
    "CONFIG | CONFIG GET | CONFIG FOO | COMMAND FOO | COMMAND COUNT x",
    // SET and GET
    "SET k v | GET k | get K | GET missing",
    r"SET \0\xff\r\n binary\0\xff\r\n | GET \0\xff\r\n",
    "SET k '' | GET k | STRLEN k | EXISTS k",
    "SET k v NX | SET k w NX | GET k | SET k x XX | GET k | SET none v XX | GET none",
    "SET k v GET | SET k w GET | GET k | SET k x NX GET | GET k | SET none v XX GET | SET n2 v NX GET | GET n2",
    "SET k v EX 100 | TTL k | SET k v | TTL k | SET k v PX 100000 | TTL k | SET k w KEEPTTL | TTL k | GET k",
    "SET k v EXAT 4102444800 | EXPIRETIME k | PEXPIRETIME k | SET k v PXAT 4102444800123 | PEXPIRETIME k",
    "SET k v EXAT 4102444800 | EXPIRETIME k | SET k v PXAT 4102444800500 | EXPIRETIME k",
    "SET k v EXAT 1 | GET k | SET k v | SET k w PXAT 1 | GET k | EXISTS k",
    "SET k v EX 0 | SET k v EX -1 | SET k v PX 0 | SET k v EXAT 0 | SET k v PXAT -5 | GET k",
    "SET k v EX abc | SET k v EX 1.5 | SET k v EX '' | SET k v EX 9223372036854775807 | SET k v PX 9223372036854775807",
    "SET k v EX 9223372036854775 | SET k v EXAT 9223372036854776 | SET k v EX 99999999999999999999",
    "SET k v EX | SET k v NX XX | SET k v XX NX | SET k v FOO | SET k v EX 10 PX 10 | SET k v EX 10 KEEPTTL",
    "SET k v KEEPTTL EX 10 | SET k v PERSIST | SET k v NX NX | SET k v EX 10 EX 100 | TTL k | SET k v GET GET",
    "SET k v nx ex 100 | TTL k | SET k w ex 50 xx get | TTL k | SET k v EX NX",
    "SETEX k 100 v | TTL k | GET k | SETEX k 0 v | SETEX k -1 v | SETEX k x v | SETEX k 9223372036854775807 v",
    "PSETEX k 100000 v | TTL k | PSETEX k 0 v | PSETEX k x v | PSETEX k 9223372036854775807 v",
    "SETNX k v | SETNX k w | GET k",
    "MSET a 1 b 2 | MGET a b c a | MSET a 1 b | MSET a | MSET a 1 a 2 | GET a",
    "SET k v EX 100 | MSET k w | TTL k | SETNX k x | GET k",
    "SET k v | GETDEL k | GETDEL k | EXISTS k",
    "GETEX k | SET k v | GETEX k | TTL k | GETEX k EX 100 | TTL k | GETEX k PERSIST | TTL k | GETEX k PX 100000 | TTL k",
    "SET k v | GETEX k EXAT 4102444800 | EXPIRETIME k | GETEX k PXAT 4102444800123 | PEXPIRETIME k | GETEX k | PEXPIRETIME k",
    "SET k v | GETEX k EXAT 1 | EXISTS k | SET k v | GETEX k PXAT 1 | GET k",
    "GETEX none EX 0 | GETEX none EX abc | SET k v | GETEX k EX 0 | GETEX k EX abc | GETEX k EX -1 | GETEX k PX 0",
    "SET k v | GETEX k FOO | GETEX k EX | GETEX k EX 10 PX 10 | GETEX k EX 10 PERSIST | GETEX k NX | GETEX k KEEPTTL",
    "SET k v | GETEX k GET | GETEX k PERSIST EX 10 | GETEX k EX 9223372036854775807 | GET k",
    "APPEND k abc | APPEND k def | GET k | APPEND k '' | STRLEN k | APPEND",
    "SET k v EX 100 | APPEND k w | TTL k | GET k",
    "SET k This\\_is\\_a\\_string | GETRANGE k 0 3 | GETRANGE k -3 -1 | GETRANGE k 0 -1 | GETRANGE k 10 100",
    "SET k Hello | GETRANGE k 5 3 | GETRANGE k -1 -5 | GETRANGE k -100 2 | GETRANGE k 100 200 | GETRANGE k -100 -90",
    "SET k Hello | GETRANGE k a 1 | GETRANGE k 1 b | GETRANGE none 0 -1 | SUBSTR k 1 2 | GETRANGE k 0 0 | SUBSTR k 1",
    "SET k Hello | GETRANGE k -9223372036854775808 9223372036854775807 | GETRANGE k 0 -9223372036854775808",
    "STRLEN none | SET k hello | STRLEN k",
    // keys
    "SET a 1 | SET b 2 | DEL a b c | EXISTS a b | DEL a",
    "SET a 1 | DEL a a a | SET a 1 | EXISTS a a a | UNLINK a | UNLINK a | EXISTS a",
    "SET a 1 | TYPE a | TYPE none | TYPE",
    "SET a 1 | TTL a | PTTL a | TTL none | PTTL none | EXPIRETIME a | EXPIRETIME none | PEXPIRETIME a | PEXPIRETIME none",
    "DBSIZE | SET a 1 | SET b 1 | DBSIZE | FLUSHDB | DBSIZE | FLUSHALL ASYNC | FLUSHDB SYNC | FLUSHALL FOO | FLUSHDB a b",
    "RANDOMKEY | SET only 1 | RANDOMKEY",
    "KEYS * | SET user:1 a | KEYS * | KEYS user:? | KEYS x* | KEYS | KEYS user:[12]",
    "SCAN 0 | SET k v | SCAN 0 | SCAN 0 MATCH k* | SCAN 0 MATCH x* | SCAN 0 COUNT 100 | SCAN 0 TYPE string",
    "SET k v | SCAN 0 TYPE hash | SCAN 0 TYPE STRING | SCAN 0 MATCH * COUNT 5 TYPE string",
    "SCAN abc | SCAN -x | SCAN 0 COUNT 0 | SCAN 0 COUNT -1 | SCAN 0 COUNT abc | SCAN 0 FOO | SCAN 0 MATCH | SCAN 0 FOO x",
    "SCAN 18446744073709551616 | SCAN '' | SCAN \\_1 | SCAN 1x | SCAN -0 | SCAN +0 | SCAN -+0",
    // expiry
    "EXPIRE none 10 | SET k v | EXPIRE k 100 | TTL k | PEXPIRE k 200000 | TTL k | PERSIST k | TTL k | PERSIST k | PERSIST none",
    "SET k v | EXPIREAT k 4102444800 | EXPIRETIME k | PEXPIREAT k 4102444800123 | PEXPIRETIME k",
    "SET k v | EXPIRE k 0 | EXISTS k | SET k v | EXPIRE k -1 | GET k | SET k v | PEXPIRE k -100 | GET k",
    "SET k v | EXPIREAT k 1 | GET k | SET k v | PEXPIREAT k 0 | GET k | SET k v | EXPIREAT k -1 | GET k",
    "SET k v | EXPIRE k abc | EXPIRE k 1.5 | EXPIRE k 9223372036854775807 | EXPIRE k -9223372036854775808 | TTL k",
    "SET k v | PEXPIRE k 9223372036854775807 | EXPIRE k 9223372036854775",
    "SET k v | EXPIRE k 100 NX | EXPIRE k 200 NX | TTL k | EXPIRE k 200 XX | TTL k | PERSIST k | EXPIRE k 100 XX | TTL k",
    "SET k v | EXPIRE k 100 GT | TTL k | EXPIRE k 100 LT | TTL k | EXPIRE k 50 GT | TTL k | EXPIRE k 200 GT | TTL k",
    "SET k v EX 200 | EXPIRE k 300 LT | EXPIRE k 50 LT | TTL k | EXPIRE k 40 XX GT | EXPIRE k 100 XX GT | TTL k",
    "SET k v | EXPIRE k 10 FOO | EXPIRE k 10 NX XX | EXPIRE k 10 NX GT | EXPIRE k 10 GT LT | EXPIRE k 10 NX LT | TTL k",
    "SET k v | EXPIRE k abc FOO | EXPIRE none abc | EXPIRE k 10 nx nx | TTL k | PEXPIREAT k 4102444800123 gt | TTL none",
    // numbers
    "INCR n | INCR n | DECR n | INCRBY n 10 | DECRBY n 3 | GET n | INCRBY n -20 | GET n",
    "SET n abc | INCR n | SET n '' | INCR n | SET n \\_1 | INCR n | SET n 1\\_ | INCR n | SET n +1 | INCR n | SET n 01 | INCR n",
    "SET n 9223372036854775807 | INCR n | SET n -9223372036854775808 | DECR n | DECRBY n -9223372036854775808",
    "INCRBY n abc | DECRBY n abc | INCRBY n 1.5 | INCRBY n 9223372036854775808 | DECRBY n 9223372036854775807 | GET n",
    "SET n 10 EX 100 | INCR n | TTL n | INCRBYFLOAT n 0.5 | TTL n",
    "INCRBYFLOAT f 0.1 | INCRBYFLOAT f 0.2 | GET f | INCRBYFLOAT f -0.3 | INCRBYFLOAT f 5.0e3 | INCRBYFLOAT f 1e-5",
    "SET f 10.50 | INCRBYFLOAT f 0.1 | SET f 3.0e3 | INCRBYFLOAT f 200 | SET f 10 | INCRBYFLOAT f 0 | INCRBYFLOAT f 1.",
    "INCRBYFLOAT f abc | INCRBYFLOAT f '' | INCRBYFLOAT f \\_1 | INCRBYFLOAT f nan | INCRBYFLOAT f inf | INCRBYFLOAT f -inf",
    "SET f abc | INCRBYFLOAT f 1 | SET f '' | INCRBYFLOAT f 1 | SET f 1e5 | INCRBYFLOAT f 1 | INCRBYFLOAT f +1 | INCR f",
    "INCRBYFLOAT f 100000000000000000 | INCRBYFLOAT f 1 | INCRBYFLOAT g 3.14159265358979323846 | INCRBYFLOAT g -1",
    // COMMAND
    "COMMAND GETKEYS get k | COMMAND GETKEYS MSET a 1 b 2 | COMMAND GETKEYS mget a b c | COMMAND GETKEYS del a",
    "COMMAND GETKEYS ping x | COMMAND GETKEYS foo x | COMMAND GETKEYS get | COMMAND GETKEYS get a b | COMMAND GETKEYS",
    "COMMAND INFO foo | COMMAND INFO get foo set | COMMAND DOCS foo | COMMAND LIST FILTERBY MODULE x | COMMAND LIST x",
    "COMMAND LIST FILTERBY PATTERN getr* | COMMAND LIST FILTERBY FOO x | COMMAND INFO client|id config|get command|list",
    "COMMAND GETKEYS zunionstore d 2 a b | COMMAND GETKEYS xread streams a b 0 0 | COMMAND GETKEYS zinter 3 a b",
    "COMMAND GETKEYS sort k store d | COMMAND GETKEYS object encoding k | COMMAND GETKEYS memory usage k",
    "COMMAND GETKEYSANDFLAGS set k v | COMMAND GETKEYSANDFLAGS lmpop 2 a b left | COMMAND GETKEYSANDFLAGS ping",
    // atomic commands on several keys
    "SET a 1 | RENAME a b | GET a | GET b | RENAME a b | RENAME b b | GET b | RENAME a | SET c 3 EX 100 | RENAME c b | TTL b",
    "SET a 1 | SET b 2 | RENAMENX a b | RENAMENX a c | MGET a b c | RENAMENX none x | RENAMENX c c | GET c",
    "SET a 1 EX 100 | COPY a b | TTL b | COPY a b | SET a 2 | COPY a b REPLACE | GET b | COPY none x | COPY a a | EXISTS x",
    "SET a 1 | COPY a b FOO | COPY a b DB | COPY a b DB x | COPY a b DB 0 | GET b | COPY a | COPY a c replace REPLACE",
    "MSETNX a 1 b 2 | MGET a b | MSETNX b 3 c 4 | MGET a b c | MSETNX a | MSETNX a 1 b | MSETNX c 1 c 2 | GET c",
    "SET k 1 EX 100 | GETSET k 2 | TTL k | GETSET none x | GET none | GETSET k",
    "SETRANGE k 5 abc | GET k | SETRANGE k 0 xy | GET k | SETRANGE k 6 '' | SETRANGE none 3 '' | EXISTS none | STRLEN k",
    "SETRANGE k -1 a | SETRANGE k x a | SETRANGE k | SET e v EX 100 | SETRANGE e 1 w | TTL e | GET e",
    "SET a ohmytext | SET b mynewtext | LCS a b | LCS a b LEN | LCS a b IDX | LCS a b IDX MINMATCHLEN 4 | LCS none b",
    "SET a ohmytext | SET b mynewtext | LCS a b IDX MINMATCHLEN 4 WITHMATCHLEN | LCS a b LEN IDX | LCS a b FOO | LCS a",
    "SET a rnmabcd | SET b rnmxabcdrn | LCS a b IDX WITHMATCHLEN | LCS a b MINMATCHLEN x | LCS a a LEN | LCS none none IDX",
    "SET a 1 | TOUCH a none a | TOUCH",
    // transactions
    "MULTI | SET a 1 | INCR a | GET a | EXEC | GET a | EXEC | DISCARD",
    "MULTI | MULTI | SET a 1 | EXEC | GET a",
    "MULTI | FOO | SET a 1 | EXEC | GET a | MULTI | GET | EXEC | MULTI | SET a 1 | DISCARD | GET a",
    "SET s abc | MULTI | INCR s | SET t 1 | GET s | EXEC | GET t | MULTI | EXEC",
    "WATCH a | SET a 1 | MULTI | SET a 2 | EXEC | GET a | WATCH a | MULTI | SET a 3 | EXEC | GET a",
    "WATCH a b | UNWATCH | SET b 1 | MULTI | GET b | EXEC | WATCH a | SET a 1 | DISCARD | MULTI | WATCH b | GET a | EXEC",
    "WATCH a | SET a 1 | MULTI | DISCARD | MULTI | PING | EXEC | MULTI | PING x | ECHO y | SELECT 1 | SELECT 0 | EXEC",
    "SET a 1 | WATCH a | DEL none | MULTI | GET a | EXEC | WATCH a | RENAME a b | MULTI | GET a | EXEC | GET b",
    "WATCH a | FLUSHALL | MULTI | PING | EXEC | SET a 1 | WATCH a | FLUSHALL | MULTI | PING | EXEC",
    "MULTI | SET a 1 | RESET | GET a | EXEC | MULTI | SET k v EX 100 | TTL k | MSETNX k 1 z 2 | RENAME k y | GET y | EXEC",
    "MULTI | SUBSCRIBE | GET k | EXEC",
    // subscriptions within one connection
    "SUBSCRIBE a b a | UNSUBSCRIBE a | UNSUBSCRIBE | UNSUBSCRIBE | PING",
    "PSUBSCRIBE a* | PUNSUBSCRIBE x | PUNSUBSCRIBE | PUNSUBSCRIBE | PING | PUBLISH a b",
    "SUBSCRIBE a | PSUBSCRIBE b* | UNSUBSCRIBE | PUNSUBSCRIBE | GET k",
    "SUBSCRIBE | PUBLISH a | PUBSUB CHANNELS | PUBSUB NUMSUB | PUBSUB NUMSUB x y | PUBSUB NUMPAT | PUBSUB FOO",
    // other server commands
    "CLIENT REPLY OFF | PING | CLIENT REPLY ON | PING | CLIENT REPLY SKIP | PING | PING | CLIENT REPLY FOO",
    "CLIENT KILL 1.2.3.4:5 | CLIENT KILL ID x | CLIENT KILL ID 0 | CLIENT KILL TYPE foo | CLIENT KILL ID 99999 ADDR x",
    "CLIENT KILL FOO x | CLIENT KILL ID | CLIENT KILL USER nobody | CLIENT KILL SKIPME maybe | CLIENT KILL TYPE master",
    "CLIENT GETREDIR | CLIENT TRACKINGINFO | CLIENT UNBLOCK 99999 | CLIENT UNBLOCK x | CLIENT UNBLOCK 9 FOO",
    "SLOWLOG LEN x | SLOWLOG GET x | SLOWLOG GET -2 | SLOWLOG RESET | SLOWLOG GET | SLOWLOG LEN | SLOWLOG FOO | SLOWLOG",
    "LATENCY LATEST | LATENCY HISTORY command | LATENCY RESET | LATENCY RESET foo | LATENCY HISTORY | LATENCY FOO",
    "OBJECT REFCOUNT none | OBJECT ENCODING none | OBJECT FOO k | OBJECT | SET n 12 | OBJECT ENCODING n",
    "SET s abc | OBJECT ENCODING s | OBJECT ENCODING | OBJECT FREQ none",
    "MEMORY USAGE none | MEMORY USAGE | MEMORY USAGE k SAMPLES x | MEMORY USAGE k FOO 1 | MEMORY FOO",
    "ACL WHOAMI | ACL USERS | ACL LIST | ACL CAT | ACL CAT foo | ACL FOO | ACL WHOAMI x",
    "MODULE LIST | FUNCTION FLUSH | FUNCTION LIST | WAIT 0 0 | WAIT x 0 | WAIT 0 x | WAIT 0 -1 | READONLY | READWRITE | ASKING",
    "CLUSTER INFO | ROLE | TIME x | LASTSAVE x | CONFIG SET | CONFIG SET slowlog-max-len | CONFIG SET nosuch 1",
    "CONFIG SET slowlog-max-len x | CONFIG SET slowlog-max-len 64 | CONFIG GET slowlog-max-len | CONFIG SET slowlog-max-len 128",
    "INFO modules | INFO Modules",
    "CONFIG SET notify-keyspace-events foo | CONFIG SET notify-keyspace-events KEA | CONFIG GET notify-keyspace-events",
    "CONFIG SET notify-keyspace-events '' | CONFIG GET notify-keyspace-events | CONFIG SET notify-keyspace-events KEA",
    "CONFIG SET notify-keyspace-events Kx | CONFIG GET notify-keyspace-events | CONFIG SET notify-keyspace-events KEA",
    "CONFIG SET notify-keyspace-events nmdtexzhsl$gEK | CONFIG GET notify-keyspace-events | CONFIG SET notify-keyspace-events KEA",
    "CONFIG SET notify-keyspace-events mAn | CONFIG GET notify-keyspace-events | CONFIG SET notify-keyspace-events KEA",
    "CONFIG SET notify-keyspace-events g | CONFIG GET notify-keyspace-events | CONFIG SET notify-keyspace-events KEA",
    "CONFIG SET latency-monitor-threshold 100 | CONFIG GET latency-monitor-threshold | CONFIG SET latency-monitor-threshold 0",
    // CONFIG GET of parameters that tools read
    "CONFIG GET save | CONFIG GET appendonly | CONFIG GET databases | CONFIG GET nosuch | CONFIG GET DATABASES",
];

/// Command sequences with scripts and functions, in the notation of [`CASES`]. They need Redis as L2.
const SCRIPT_CASES: &[&str] = &[
    // replies of each type
    r"EVAL return\_1 0 | EVAL return\_'a\r\nb' 0 | EVAL return\_{1,2,{3,'a',{}}} 0 | EVAL return\_{} 0 | EVAL return\_nil 0",
    r"EVAL return\_true 0 | EVAL return\_false 0 | EVAL return\_3.99 0 | EVAL return\_{1,nil,3} 0 | EVAL return 0 | EVAL '' 0",
    r"EVAL return\_{ok='fine'} 0 | EVAL return\_{err='WRONG\_x'} 0 | EVAL return\_redis.status_reply('s') 0",
    r"EVAL return\_redis.error_reply('MY\_error') 0 | EVAL error('boom') 0 | EVAL return\_redis.error_reply('single') 0",
    r"EVAL redis.setresp(3);return\_{double=3.5} 0 | EVAL redis.setresp(3);return\_{map={a=1}} 0",
    r"EVAL redis.setresp(3);return\_{set={a=true}} 0 | EVAL redis.setresp(3);return\_{1,{double=1e100},{map={k={1,2}}}} 0",
    r"EVAL redis.setresp(3);return\_{verbatim_string={format='txt',string='v'}} 0 | EVAL redis.setresp(3);return\_true 0",
    r"EVAL redis.setresp(3);return\_{big_number='123456789123456789'} 0 | EVAL redis.setresp(3);return\_nil 0",
    r"HSET h f v | EVAL redis.setresp(3);return\_redis.call('hgetall',KEYS[1]) 1 h | EVAL return\_redis.call('hgetall',KEYS[1]) 1 h",
    r"ZADD z 1.5 m | EVAL redis.setresp(3);return\_redis.call('zscore',KEYS[1],'m') 1 z | EVAL_RO return\_redis.call('zscore',KEYS[1],'m') 1 z",
    // arguments
    r"EVAL return\_{KEYS[1],KEYS[2],ARGV[1],ARGV[2]} 2 a b c d | EVAL return\_#ARGV 0 a b c | EVAL return\_ARGV[1] 0 \0\xff\r\n",
    "EVAL return\\_1 -1 | EVAL return\\_1 x | EVAL return\\_1 2 a | EVAL return\\_1 +1 a | EVAL return\\_1 | EVAL | EVAL return\\_1 1.0 a",
    "EVAL this\\_is\\_no\\_script 0 | EVAL return\\_redis.call('nosuch') 0 | EVAL return\\_redis.call('get') 0 | EVAL return\\_x 0",
    // writes, errors after writes
    r"EVAL return\_redis.call('set',KEYS[1],ARGV[1]) 1 k v | GET k | EVAL return\_redis.call('incr',KEYS[1]) 1 n | GET n | EVAL return\_redis.call('incr',KEYS[1]) 1 k",
    r"SET k v | EVAL redis.call('set',KEYS[1],'w');error('late') 1 k | GET k | EVAL return\_redis.pcall('incr',KEYS[1]) 1 k",
    r"SET k v | EVAL redis.call('set',ARGV[1],'w') 0 k | EVAL_RO return\_redis.call('set',KEYS[1],'x') 1 k | GET other",
    r"RPUSH l 1 2 3 | EVAL return\_redis.call('lrange',KEYS[1],0,-1) 1 l | EVAL return\_redis.call('get',KEYS[1]) 1 l",
    // the cache of scripts
    "SCRIPT FLUSH | EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0 | SCRIPT LOAD return\\_1 | EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0",
    "SCRIPT LOAD return\\_1 | SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db ffff | EVALSHA E0E1F9FABFC9D4800C877A703B823AC0578FF8DB 0",
    "SCRIPT LOAD return\\_1 | EVALSHA_RO e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0 | EVALSHA x 0 | EVALSHA_RO x 0 | EVALSHA x 1 | EVALSHA x y",
    "SCRIPT LOAD not\\_lua\\_at\\_all | SCRIPT LOAD | SCRIPT | SCRIPT FOO | SCRIPT EXISTS | SCRIPT KILL | SCRIPT KILL x | SCRIPT DEBUG",
    "SCRIPT FLUSH ASYNC | SCRIPT FLUSH SYNC | SCRIPT FLUSH FOO | SCRIPT FLUSH SYNC x | SCRIPT HELP x",
    // functions
    r"FUNCTION FLUSH | FUNCTION LOAD #!lua\_name=l\nredis.register_function('f',function(k,a)return{k[1],a[1]}end) | FCALL f 1 k v | FCALL f 0 | FCALL nosuch 0",
    r"FUNCTION FLUSH | FUNCTION LOAD #!lua\_name=l\nredis.register_function{function_name='r',callback=function()return\_1\_end,flags={'no-writes'}} | FCALL_RO r 0 | FCALL r 0",
    r"FUNCTION FLUSH | FUNCTION LOAD #!lua\_name=l\nredis.register_function('f',function(k)return\_redis.call('incr',k[1])end) | FCALL f 1 n | GET n | FCALL_RO f 1 n",
    r"FUNCTION FLUSH | FUNCTION LOAD #!lua\_name=l\nredis.register_function('f',function()return\_1\_end) | FUNCTION LIST | FUNCTION LIST WITHCODE | FUNCTION LIST LIBRARYNAME x* | FUNCTION LIST LIBRARYNAME *l | FUNCTION LIST WITHCODE LIBRARYNAME *[a-m] | FUNCTION LIST LIBRARYNAME *x | FUNCTION LIST LIBRARYNAME | FUNCTION LIST LIBRARYNAME *l FOO | FUNCTION LIST LIBRARYNAME *l LIBRARYNAME *l | FUNCTION DELETE l | FUNCTION DELETE l | FUNCTION LIST",
    r"FUNCTION FLUSH | FUNCTION LOAD x | FUNCTION LOAD REPLACE #!lua\_name=l\nredis.register_function('f',function()return\_1\_end) | FUNCTION LOAD #!lua\_name=l\nredis.register_function('f',function()return\_1\_end)",
    "FUNCTION FLUSH | FUNCTION DUMP | FUNCTION RESTORE x | FUNCTION STATS | FUNCTION KILL | FUNCTION FLUSH FOO | FUNCTION | FUNCTION FOO | FUNCTION LOAD",
    "FCALL | FCALL f | FCALL f x | FCALL f -1 | FCALL f 2 a | FCALL_RO f 1 | FUNCTION DELETE | FUNCTION RESTORE | FUNCTION LIST FOO",
    // transactions
    r"MULTI | EVAL return\_redis.call('set',KEYS[1],'v') 1 k | GET k | EVAL return\_{1,{2}} 0 | EXEC | GET k",
    r"MULTI | EVAL error('x') 0 | EVALSHA ffff 0 | EVAL return\_1 x | SET k v | EXEC | GET k",
    r"WATCH k | EVAL redis.call('set',KEYS[1],'w') 1 k | MULTI | GET k | EXEC | WATCH k | MULTI | EVAL return\_redis.call('get',KEYS[1]) 1 k | EXEC",
    "MULTI | EVAL | EXEC | MULTI | SCRIPT LOAD return\\_1 | EXEC",
    // COMMAND
    "COMMAND GETKEYS eval x 0 | COMMAND GETKEYS eval x 2 a b c | COMMAND GETKEYS eval x 2 a | COMMAND GETKEYS evalsha x 1x a | COMMAND GETKEYS eval x",
    "COMMAND GETKEYSANDFLAGS eval x 1 a | COMMAND GETKEYSANDFLAGS eval_ro x 1 a | COMMAND GETKEYSANDFLAGS fcall f 1 a | COMMAND GETKEYSANDFLAGS fcall_ro f 1 a",
];

/// Raw bytes that are sent before QUIT.
const RAW: &[&[u8]] = &[
    b"PING\r\n",
    b"PING\n",
    b"\r\n\r\nPING\r\n",
    b"  PING   \r\n",
    b"SET k \"a b\\x41\\n\\\"\" \r\nGET k\r\n",
    b"SET k 'a \\'b\\n'\r\nGET k\r\n",
    b"SET k \"unbalanced\r\n",
    b"SET k \"a\"b\r\n",
    b"SET k 'x\r\n",
    b"SET k \"\"\r\nECHO \"\"\r\n",
    b"ping\r\n*1\r\n$4\r\nPING\r\nping\r\n",
    b"*0\r\nPING\r\n",
    b"*-1\r\nPING\r\n",
    b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n",
    b"*abc\r\n",
    b"*\r\n",
    b"*1x\r\n",
    b"*01\r\n",
    b"*99999999999999999999\r\n",
    b"*3000000000\r\n",
    b"*2\r\n$3\r\nGET\r\n:1\r\n",
    b"*1\r\n+PING\r\n",
    b"*1\r\nPING\r\n",
    b"*1\r\n\r\n\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$abc\r\n",
    b"*1\r\n$\r\n",
    b"*1\r\n$+4\r\nPING\r\n",
    b"*1\r\n$04\r\nPING\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$99999999999999999999\r\n",
    b"*1\r\n$0\r\n\r\n",
    b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
    b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*2\r\n$3\r\nGET\r\n$-5\r\n",
    b"$4\r\nPING\r\n",
    b"POST / HTTP/1.1\r\n",
    b"Host: example.org\r\n",
];

/// Intended differences from Redis 7.0, with their reasons.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("SET '' v | GET ''", "a key has 1 to 65536 bytes"),
    ("GET __terrace:x", "Terrace's own records are not for clients"),
    ("FOO\\xff", "errors are text"),
    ("INCRBYFLOAT f 0x10", "numbers are decimal"),
    ("CLIENT SETINFO LIB-NAME x", "of Redis 7.2, sent by every current client"),
    ("CLIENT NO-TOUCH on", "of Redis 7.2"),
    ("CLIENT TRACKING on", "nothing is announced to clients"),
    ("CLIENT MAINT_NOTIFICATIONS on", "refused by name"),
    ("CLIENT HELP", "made from the table"),
    ("COMMAND HELP", "made from the table"),
    ("CONFIG HELP", "made from the table"),
    ("COMMAND", "only the commands there are"),
    ("COMMAND COUNT", "only the commands there are"),
    ("COMMAND LIST", "only the commands there are"),
    ("COMMAND DOCS set", "without history"),
    ("COMMAND INFO client", "only the subcommands there are"),
    ("CONFIG GET maxmemory", "that of L1"),
    ("CONFIG SET maxmemory 1", "settings change with the configuration file"),
    ("OBJECT HELP", "made from the table"),
    ("SET k v | OBJECT FREQ k", "L1 counts under any policy"),
    ("SET k v | MEMORY USAGE k", "another memory"),
    ("EVAL return\\_1 0", "scripts run in Redis"),
    ("SET k v | DUMP k", "refused by name"),
    ("SWAPDB 0 1", "refused by name"),
    ("SET k v | MOVE k 1", "refused by name"),
    ("SET k v | COPY k l DB 1", "refused by name"),
    ("DEBUG SLEEP 0", "refused by name"),
    ("INFO server", "Terrace's own"),
    ("CLIENT INFO", "another client"),
    ("HELLO", "another client id"),
    ("LPUSH l a", "strings only without a Redis"),
];

/// Commands that Redis 7.0 lacks or describes differently, with the reasons.
const DESCRIBED_OTHERWISE: &[&str] = &[
    // Commands of Redis 7.2 and later.
    "client|maint_notifications",
    "client|no-touch",
    "client|setinfo",
    // Containers with fewer subcommands, or with the same ones in another order.
    "acl",
    "client",
    "cluster",
    "command",
    "config",
    "function",
    "latency",
    "memory",
    "module",
    "object",
    "pubsub",
    "script",
    "slowlog",
    "xgroup",
    "xinfo",
];

fn pipeline(case: &str, protocol: u8) -> Vec<u8> {
    let mut bytes = if protocol == 3 { request("HELLO 3") } else { Vec::new() };
    bytes.extend(request("FLUSHALL"));
    bytes.extend(case.split(" | ").flat_map(request));
    bytes.extend(request("QUIT"));
    bytes
}

/// The replies without the map of HELLO, which contains an id.
fn after_hello(replies: Vec<u8>, protocol: u8) -> Vec<u8> {
    const END: &[u8] = b"$7\r\nmodules\r\n*0\r\n";
    if protocol == 2 {
        return replies;
    }
    let at = replies.windows(END.len()).position(|window| window == END).expect("HELLO is answered with its map");
    replies[at + END.len()..].to_vec()
}

struct Pair {
    redis: RedisServer,
    terrace: Terrace,
}

impl Pair {
    fn new(config: Config) -> Self {
        let pair = Self { redis: RedisServer::start_with(&["--databases", "3"]), terrace: Terrace::start(config) };
        eventually("Terrace's L2 answers", || converse(pair.terrace.resp(), b"DBSIZE\r\nQUIT\r\n").starts_with(b":"));
        pair
    }

    fn differences(&self, what: &str, bytes: &[u8], protocol: u8) -> Option<String> {
        let wanted = after_hello(converse(&format!("127.0.0.1:{}", self.redis.port()), bytes), protocol);
        let got = after_hello(converse(self.terrace.resp(), bytes), protocol);
        let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("\r\n", " ");
        (wanted != got)
            .then(|| format!("RESP{protocol} {what}\n  redis:   {}\n  terrace: {}\n", show(&wanted), show(&got)))
    }

    fn compare_cases(&self, cases: &[&str]) {
        let mut faults = String::new();
        for case in cases {
            for protocol in [2, 3] {
                let fault = self.differences(case, &pipeline(case, protocol), protocol);
                faults.extend(fault);
            }
        }
        assert!(faults.is_empty(), "{faults}");
    }
}

fn over_redis(below: &RedisServer) -> Config {
    let mut config = config_patient(below.url());
    config.resp.flush = Some(true);
    config
}

#[test]
fn replies_are_redis_s_over_none() {
    Pair::new(config()).compare_cases(CASES);
}

#[test]
fn replies_are_redis_s_over_the_embedded_store() {
    let dir = tempfile::tempdir().unwrap();
    Pair::new(config_embedded(dir.path())).compare_cases(CASES);
}

#[test]
fn replies_are_redis_s_over_redis() {
    let below = RedisServer::start();
    Pair::new(over_redis(&below)).compare_cases(CASES);
}

#[test]
fn replies_of_scripts_are_redis_s() {
    let below = RedisServer::start();
    Pair::new(over_redis(&below)).compare_cases(SCRIPT_CASES);
}

/// A random command on one of few keys. Expiration times are absolute, so that no answer depends on the time.
/// (No DBSIZE, because Redis counts expired keys that were not removed yet.)
fn random_command(random: &mut fastrand::Rng) -> String {
    let mut pick = |words: &[&str]| words[random.usize(..words.len())].to_owned();
    let values = ["1", "-7", "9223372036854775807", "0.5", "abc", "''", "1e3", "\\xff\\0", "10", "+1", "007"];
    let (key, other, value) = (pick(&["a", "b", "c"]), pick(&["a", "b", "c"]), pick(&values));
    let at = pick(&["4102444800", "4202444800", "1", "0", "-1", "x"]);
    let option = pick(&["", "NX", "XX", "GET", "KEEPTTL", "NX GET", "XX GET", "PERSIST", "FOO", "nx xx"]);
    let only = pick(&["", "NX", "XX", "GT", "LT", "XX GT", "NX LT", "FOO"]);
    let (start, end) = (pick(&["0", "-1", "1", "-100", "100", "x"]), pick(&["0", "-1", "2", "-3", "100"]));
    let templates = [
        format!("SET {key} {value} {option}"),
        format!("SET {key} {value} EXAT {at} {option}"),
        format!("SET {key} {value} PXAT {at}123"),
        format!("GET {key}"),
        format!("MGET {key} {other} none"),
        format!("MSET {key} {value} {other} 1"),
        format!("SETNX {key} {value}"),
        format!("GETDEL {key}"),
        format!("GETEX {key}"),
        format!("GETEX {key} EXAT {at}"),
        format!("GETEX {key} {option}"),
        format!("APPEND {key} {value}"),
        format!("STRLEN {key}"),
        format!("GETRANGE {key} {start} {end}"),
        format!("DEL {key} {other}"),
        format!("EXISTS {key} {other}"),
        format!("TYPE {key}"),
        format!("EXPIRETIME {key}"),
        format!("PEXPIRETIME {key}"),
        format!("EXPIREAT {key} {at} {only}"),
        format!("PEXPIREAT {key} {at}000 {only}"),
        format!("PERSIST {key}"),
        format!("INCR {key}"),
        format!("DECR {key}"),
        format!("INCRBY {key} {value}"),
        format!("DECRBY {key} {value}"),
        format!("INCRBYFLOAT {key} {value}"),
        format!("GETSET {key} {value}"),
        format!("SETRANGE {key} {start} {value}"),
        format!("SUBSTR {key} {start} {end}"),
        format!("MSETNX {key} {value} {other} 1"),
        format!("RENAME {key} {other}"),
        format!("RENAMENX {key} {other}"),
        format!("COPY {key} {other}"),
        format!("COPY {key} {other} REPLACE"),
        format!("LCS {key} {other} IDX"),
        format!("TOUCH {key} {other}"),
        "MULTI".to_owned(),
        "EXEC".to_owned(),
        "EXEC".to_owned(),
        "DISCARD".to_owned(),
        format!("WATCH {key}"),
        "UNWATCH".to_owned(),
    ];
    templates[random.usize(..templates.len())].clone()
}

fn compare_random_sequences(pair: &Pair) {
    let seed = setting_from_environment("TERRACE_TEST_SEED", fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..60 {
        let commands: Vec<String> = (0..50).map(|_| random_command(&mut random)).collect();
        let protocol = random.u8(2..4);
        let case = commands.join(" | ");
        let fault = pair.differences(&case, &pipeline(&case, protocol), protocol);
        assert!(fault.is_none(), "TERRACE_TEST_SEED={seed}\n{}", fault.unwrap_or_default());
    }
}

#[test]
fn random_sequences_are_answered_as_redis_does_over_none() {
    compare_random_sequences(&Pair::new(config()));
}

#[test]
fn random_sequences_are_answered_as_redis_does_over_the_embedded_store() {
    let dir = tempfile::tempdir().unwrap();
    compare_random_sequences(&Pair::new(config_embedded(dir.path())));
}

#[test]
fn random_sequences_are_answered_as_redis_does_over_redis() {
    let below = RedisServer::start();
    compare_random_sequences(&Pair::new(over_redis(&below)));
}

#[test]
fn keys_of_another_type_are_refused_as_redis_does() {
    let below = RedisServer::start();
    let pair = Pair::new(over_redis(&below));
    let cases = [
        "GET l | STRLEN l | GETRANGE l 0 1 | GETDEL l | GETEX l | GETEX l EX 10 | APPEND l x | TYPE l | EXISTS l | TTL l",
        "INCR l | INCRBYFLOAT l 1 | SET l v GET | SETNX l v | MGET l none | EXPIRE l 100 | TTL l | PERSIST l | TYPE l",
        "SCAN 0 TYPE list | SCAN 0 TYPE string | DEL l | EXISTS l",
        "SET l v | GET l | TYPE l",
    ];
    for case in cases {
        for protocol in [2, 3] {
            pair.redis.run("FLUSHALL");
            below.run("FLUSHALL");
            pair.redis.run("RPUSH l a b");
            below.run("RPUSH l a b");
            let mut bytes = if protocol == 3 { request("HELLO 3") } else { Vec::new() };
            bytes.extend(case.split(" | ").flat_map(request));
            bytes.extend(request("QUIT"));
            let fault = pair.differences(case, &bytes, protocol);
            assert!(fault.is_none(), "{}", fault.unwrap_or_default());
        }
    }
}

#[test]
fn bytes_that_are_no_proper_requests_are_answered_as_redis_does() {
    let pair = Pair::new(config());
    let mut faults = String::new();
    for raw in RAW {
        let mut bytes = raw.to_vec();
        bytes.extend(b"\r\nQUIT\r\n");
        faults.extend(pair.differences(&raw.escape_ascii().to_string(), &bytes, 2));
    }
    assert!(faults.is_empty(), "{faults}");
}

/// A value as text; unordered collections are sorted.
#[expect(clippy::wildcard_enum_match_arm, reason = "the crate's enum grows")]
fn normalized(value: Value) -> String {
    let sorted = |mut parts: Vec<String>| {
        parts.sort();
        parts.join(",")
    };
    match value {
        Value::Map(pairs) => {
            let pairs = pairs.into_iter().map(|(name, value)| (normalized(name), normalized(value)));
            // Terrace reports no history.
            let kept = pairs.filter(|(name, _)| name != "history").map(|(name, value)| format!("{name}={value}"));
            format!("{{{}}}", sorted(kept.collect()))
        }
        Value::Set(parts) => format!("({})", sorted(parts.into_iter().map(normalized).collect())),
        Value::Array(parts) => format!("[{}]", parts.into_iter().map(normalized).collect::<Vec<_>>().join(",")),
        Value::BulkString(bytes) => String::from_utf8(bytes).unwrap(),
        Value::SimpleString(text) => text,
        Value::Int(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// Names of all commands and subcommands that Terrace and Redis share.
fn shared_names(terrace: &mut Connection) -> Vec<String> {
    let names: Vec<String> =
        ::redis::cmd("COMMAND").arg("LIST").arg("FILTERBY").arg("PATTERN").arg("*").query(terrace).unwrap();
    let shared = |name: &String| !name.starts_with("terrace.") && !DESCRIBED_OTHERWISE.contains(&name.as_str());
    let names: Vec<String> = names.into_iter().filter(shared).collect();
    assert!(names.len() > 250, "{} names", names.len());
    names
}

#[test]
fn commands_are_described_as_redis_does() {
    let pair = Pair::new(config());
    let connect = |port: &str| {
        let url = format!("redis://127.0.0.1:{port}/?protocol=resp3");
        ::redis::Client::open(url).unwrap().get_connection().unwrap()
    };
    let mut redis = connect(&pair.redis.port().to_string());
    let mut terrace = connect(pair.terrace.resp().rsplit_once(':').unwrap().1);
    for name in shared_names(&mut terrace) {
        for kind in ["INFO", "DOCS"] {
            let ask = |connection: &mut Connection| {
                normalized(::redis::cmd("COMMAND").arg(kind).arg(&name).query::<Value>(connection).unwrap())
            };
            assert_eq!(ask(&mut terrace), ask(&mut redis), "COMMAND {kind} {name}");
        }
    }
}

/// Commands that pass through, including errors.
const PASSED: &[&str] = &[
    "HSET h a 1 b 2 | HGETALL h | HGET h a | HGET h x | HINCRBYFLOAT h a 0.1 | HKEYS h | HRANDFIELD none | HLEN h | HMGET h a x",
    "RPUSH l a b c | LRANGE l 0 -1 | LPOP l | LPOP l 5 | LPOP l 1 | LPOP l | BLPOP l 0.01 | LPOS l x | LMPOP 1 l LEFT | TYPE l",
    "SADD s b a | SCARD s | SISMEMBER s a | SMISMEMBER s a x | SMEMBERS none | SPOP none | SPOP none 1 | SINTERCARD 1 s",
    "ZADD z 1.5 a 2 b inf c | ZSCORE z a | ZRANGE z 0 -1 WITHSCORES | ZMSCORE z a x | ZINCRBY z 0.1 a | ZPOPMIN z | ZADD z NX INCR 1 a",
    "ZADD z 1 a | ZUNIONSTORE d 2 z z WEIGHTS 1 2 | ZRANGE d 0 -1 WITHSCORES | ZUNIONSTORE d 9 z | ZUNION 1 z WITHSCORES | BZPOPMIN x 0.01",
    "XADD x 1-1 f v | XRANGE x - + | XREAD STREAMS x 0 | XREAD STREAMS x 1-1 | XLEN x | XGROUP CREATE x g 0 | XINFO GROUPS x | XINFO FOO",
    "SETBIT b 7 1 | GETBIT b 7 | BITCOUNT b | BITOP NOT c b | GET c | BITPOS b 1 | BITFIELD b INCRBY u2 100 1 OVERFLOW FAIL | SETBIT b x 1",
    "PFADD p a b | PFCOUNT p | PFMERGE q p | PFCOUNT q | GEOADD g 13.361389 38.115556 a | GEOPOS g a x | GEODIST g a a | GEOHASH g a",
    "GEOADD g 13 38 a | GEOSEARCH g FROMLONLAT 13 38 BYRADIUS 1 km WITHDIST WITHCOORD | GEORADIUS g 13 38 1 km STORE d | ZCARD d",
    "RPUSH l 3 1 2 | SORT l | SORT l DESC STORE d | LRANGE d 0 -1 | SORT l BY w_* GET # | SORT_RO l | SORT l FOO",
    "LPUSH k a | GET k | INCR k | STRLEN k | APPEND k x | SETRANGE k 0 x | GETSET k x | LCS k k | SET k v XX GET | COPY k j | TYPE j",
    "SET k v | LPUSH k a | HSET k a b | SADD k a | ZADD k 1 a | XADD k * a b | PFADD k a | GEOADD k 1 1 a | SETBIT k 0 1 | GET k",
    "SADD s a | RENAME s t | TYPE t | SMEMBERS t | MSETNX t 1 u 2 | EXISTS u | DEL t | OBJECT ENCODING none | TOUCH t",
    "LPUSH | HSET h a | ZADD z x a | HSCAN h 0 | SSCAN none 0 | ZSCAN none 0 COUNT x | XADD | LINSERT l FOO a b",
    "MULTI | LPUSH l a | GET l | HGETALL none | ZADD z 1.5 m | ZSCORE z m | BLPOP none 0 | EXEC | LRANGE l 0 -1",
    "WATCH l | RPUSH l a | MULTI | LLEN l | EXEC | WATCH l | MULTI | LLEN l | EXEC | SET n 010 | OBJECT ENCODING n",
    "SET k v | GET k | SETBIT k 1 1 | GET k | SET e v EX 100 | GETBIT e 1 | TTL e | PFADD k x",
];

#[test]
fn commands_on_other_types_pass_through_unchanged() {
    let below = RedisServer::start();
    Pair::new(over_redis(&below)).compare_cases(PASSED);
}

#[test]
fn commands_on_other_types_need_a_redis_and_leave_reserved_keys_alone() {
    let below = RedisServer::start();
    let over = Terrace::start(over_redis(&below));
    eventually("L2 answers", || converse(over.resp(), b"DBSIZE\r\nQUIT\r\n").starts_with(b":"));
    let reply = |terrace: &Terrace, command: &str| {
        let replies = converse(terrace.resp(), &[request(command), request("QUIT")].concat());
        String::from_utf8_lossy(&replies).into_owned()
    };
    for command in [
        "LPUSH __terrace:x a",
        "ZUNIONSTORE d 1 __terrace:x",
        "SORT k STORE __terrace:x",
        "XREAD STREAMS __terrace:x 0",
    ] {
        assert!(reply(&over, command).starts_with("-ERR reserved prefix"), "{command}");
    }
    assert!(reply(&over, "SORT k BY nosort GET *").contains("could match reserved keys (__terrace:*)"));
    let none = Terrace::start(config());
    assert!(reply(&none, "LPUSH l a").starts_with("-ERR LPUSH requires Redis as L2, but l2.url is \"none\""));
    assert!(reply(&none, "XREAD BLOCK 1 STREAMS s 0").starts_with("-ERR XREAD requires Redis as L2"));
}

/// Writes whose events Terrace names as Redis does, of each class that it reports.
const WRITES: &[&str] = &[
    "SET k 1 EX 100",
    "INCR k",
    "DECRBY k 3",
    "INCRBYFLOAT k 0.5",
    "APPEND k x",
    "SETRANGE k 1 y",
    "PERSIST k",
    "EXPIRE k 100",
    "RENAME k r",
    "COPY r c",
    "DEL r c",
    "RPUSH l a b",
    "LPOP l",
    "SORT l ALPHA STORE sorted",
    "SADD s a b",
    "SREM s a",
    "HSET h f v",
    "HSET h f other",
    "HINCRBY h n 1",
    "HINCRBY h n -1",
    "HDEL h f",
    "ZADD z 1 a",
    "ZADD z 2 a",
    "ZINCRBY z 1 a",
    "XADD x 1-1 f v",
    "XTRIM x MAXLEN 0",
    "SETBIT b 1 1",
    "PFADD p a",
    "GEOADD g 1 2 a",
];

/// Returns the events of writes, as a subscriber of all of them receives them.
fn events(address: &str, selection: &str) -> Vec<String> {
    let mut listener = Client::connect_to(address);
    let mut writer = Client::connect_to(address);
    writer.ask(&format!("CONFIG SET notify-keyspace-events {selection}"), "+OK\r\n");
    writer.ask("FLUSHALL", "+OK\r\n");
    listener.say("PSUBSCRIBE __key*__:* end");
    (0..12).for_each(|_| drop(listener.line()));
    for write in WRITES {
        writer.say(write);
    }
    writer.say("PUBLISH end now");
    let mut messages = Vec::new();
    loop {
        let parts: Vec<String> = (0..9).map(|_| listener.line().trim_end().to_owned()).collect();
        if parts[6] == "end" {
            return messages;
        }
        messages.push(format!("{} {}", parts[6], parts[8]));
    }
}

/// Event classes select events as in Redis.
#[test]
fn keyspace_events_are_selected_by_their_classes() {
    let (redis, below) = (RedisServer::start(), RedisServer::start());
    let terrace = Terrace::start(over_redis(&below));
    eventually("L2 answers", || converse(terrace.resp(), b"DBSIZE\r\nQUIT\r\n").starts_with(b":"));
    for selection in ["KEA", "E$", "Kg", "Kl", "Es", "Kh", "Ez", "Kt", "Egh", "KExe", "A", "''"] {
        let wanted = events(&format!("127.0.0.1:{}", redis.port()), selection);
        assert_eq!(events(terrace.resp(), selection), wanted, "{selection}");
    }
}

/// Reads of types that the store does not have: replies for absent keys, and for strings.
const ABSENT_READS: &[&str] = &[
    "GEODIST k a b | GEOHASH k a b | GEOPOS k a b",
    "GEOSEARCH k FROMLONLAT 1 2 BYRADIUS 3 m | GEORADIUS_RO k 1 2 3 m | GEORADIUSBYMEMBER_RO k a 3 m",
    "HEXISTS k f | HGET k f | HGETALL k | HKEYS k | HLEN k | HMGET k f g | HSTRLEN k f | HVALS k",
    "HRANDFIELD k | HRANDFIELD k 2 | HRANDFIELD k -2 WITHVALUES | HRANDFIELD k x",
    "HSCAN k 0 | HSCAN k 0 MATCH a* COUNT 5 | HSCAN k x | SSCAN k 0 | ZSCAN k 0",
    "LINDEX k 0 | LLEN k | LRANGE k 0 -1 | LRANGE k x 1 | LRANGE k 1 x | LPOS k e | LPOS k e COUNT 2",
    "SCARD k | SDIFF k l | SINTER k l | SINTERCARD 2 k l | SISMEMBER k m | SMEMBERS k | SMISMEMBER k m n | SUNION k l",
    "SRANDMEMBER k | SRANDMEMBER k 3 | SRANDMEMBER k x",
    "SORT_RO k | SORT_RO k ALPHA",
    "XLEN k | XRANGE k - + | XREVRANGE k + - | XREAD STREAMS k 0 | XREAD COUNT 1 STREAMS k l 0 0",
    "XINFO STREAM k | XINFO GROUPS k | XINFO CONSUMERS k g | XPENDING k g",
    "ZCARD k | ZCOUNT k 0 1 | ZDIFF 2 k l | ZINTER 2 k l WITHSCORES | ZINTERCARD 2 k l | ZLEXCOUNT k - + | ZMSCORE k m n",
    "ZRANDMEMBER k | ZRANDMEMBER k 2 WITHSCORES | ZRANGE k 0 -1 | ZRANGEBYLEX k - + | ZRANGEBYSCORE k 0 1",
    "ZRANK k m | ZREVRANGE k 0 -1 | ZREVRANGE k x 1 | ZREVRANGEBYLEX k + - | ZREVRANGEBYSCORE k 1 0 | ZREVRANK k m",
    "ZSCORE k m | ZUNION 2 k l WITHSCORES | ZRANGE k 0 1 REV WITHSCORES",
    "SINTERCARD 3 k l | ZDIFF 3 k l",
    "HSCAN none 0 | GET k | HGETALL none | PING",
    "SET a 1 | MULTI | HGETALL none | GET a | HGET a f | EXEC",
];

fn compare_absent_reads(config: Config) {
    let pair = Pair::new(config);
    let strings = ABSENT_READS.iter().map(|case| format!("SET k text | {case}"));
    let all: Vec<String> = ABSENT_READS.iter().map(|case| (*case).to_owned()).chain(strings).collect();
    pair.compare_cases(&all.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn reads_of_other_types_answer_as_for_absent_keys_over_none() {
    compare_absent_reads(config());
}

#[test]
fn reads_of_other_types_answer_as_for_absent_keys_over_the_embedded_store() {
    let dir = tempfile::tempdir().unwrap();
    compare_absent_reads(config_embedded(dir.path()));
}

#[test]
fn each_exception_still_is_one() {
    let pair = Pair::new(config());
    let mut same = String::new();
    for (case, reason) in EXCEPTIONS {
        if pair.differences(case, &pipeline(case, 2), 2).is_none() {
            writeln!(same, "{case}: {reason}").unwrap();
        }
    }
    assert!(same.is_empty(), "these are answered as Redis does:\n{same}");
}
