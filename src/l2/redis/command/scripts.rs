//! Lua scripts for operations without an equivalent plain command. Each script reads and writes atomically.
//!
//! A single script is called by digest and sent in full only if Redis does not know it (after a restart or SCRIPT
//! FLUSH). Scripts in a batch are always sent in full: by the time an unknown digest is noticed, the other commands
//! have run.

use std::sync::LazyLock;

use ::redis::{Cmd, Script};

use crate::l2::codec;

/// A script and its digest.
pub(crate) struct Lua {
    text: String,
    script: Script,
}

impl Lua {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), script: Script::new(text) }
    }

    /// Creates a script that can use the header functions of [`heads`].
    fn of_payloads(text: &str) -> Self {
        Self::new(&[&heads(), text].concat())
    }

    /// Returns the call without arguments.
    pub(crate) fn call(&self, by: By, key: &[u8]) -> Cmd {
        self.call_with(by, std::iter::once(key))
    }

    /// Returns the call with these keys, without arguments.
    pub(crate) fn call_with<'a>(&self, by: By, keys: impl Iterator<Item = &'a [u8]> + Clone) -> Cmd {
        let mut command = Cmd::new();
        match by {
            By::Digest => command.arg("EVALSHA").arg(self.script.get_hash()),
            By::Text => command.arg("EVAL").arg(&self.text),
        };
        command.arg(keys.clone().count());
        keys.for_each(|key| {
            command.arg(key);
        });
        command
    }
}

/// Form of a script in its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// EVALSHA: short, but Redis may not know the script.
    Digest,
    /// EVAL: always works.
    Text,
}

/// Returns the Lua functions for headers (`l2::codec`): `head_of(value)` returns the length of the header at the start
/// of a value, 0 for none; `head_at(key)` returns the header length of the value at a key; `guard(key)` adds an empty
/// header to a value that starts with the magic bytes.
fn heads() -> String {
    let quoted = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\{byte:03}")).collect::<String>();
    format!(
        r"
local MAGIC, EMPTY = '{magic}', '{empty}'
local function head_of(value)
  if #value < {fixed} or string.sub(value, 1, 8) ~= MAGIC then return 0 end
  local length = string.byte(value, 10) * 256 + string.byte(value, 11)
  if length > {most} or #value < {fixed} + length then return 0 end
  local sum = redis.sha1hex(string.sub(value, 9, 11) .. string.sub(value, {fixed} + 1, {fixed} + length))
  sum = string.gsub(string.sub(sum, 1, 16), '..', function(hex) return string.char(tonumber(hex, 16)) end)
  if sum ~= string.sub(value, 12, {fixed}) then return 0 end
  return {fixed} + length
end
local function is_marked(key) return redis.call('GETRANGE', key, 0, 7) == MAGIC end
local function head_at(key)
  if not is_marked(key) then return 0 end
  return head_of(redis.call('GETRANGE', key, 0, {fixed} + {most} - 1))
end
local function guard(key)
  if is_marked(key) then redis.call('SET', key, EMPTY .. redis.call('GET', key), 'KEEPTTL') end
end",
        magic = quoted(&codec::MAGIC),
        empty = quoted(&codec::head_of(&[])),
        fixed = codec::FIXED_BYTES,
        most = codec::FIELDS_MAX_BYTES,
    )
}

/// SET with a condition on the present bytes, or with a TTL for new keys only.
///
/// KEYS\[1\]; ARGV: value, `1` to compare, the bytes to compare with, `1` to return the old value, then the SET options
/// for an existing key, `|`, and the SET options for a new key. Returns {stored, old value or nil}.
pub(crate) static SET: LazyLock<Lua> = LazyLock::new(|| {
    Lua::of_payloads(
        r"
local compare, want = ARGV[2] == '1', ARGV[4] == '1'
local old = false
if compare or want then old = redis.call('GET', KEYS[1]) end
local shown = want and old
if compare and (not old or string.sub(old, head_of(old) + 1) ~= ARGV[3]) then return {0, shown} end
local exists = (compare or want) and old or redis.call('EXISTS', KEYS[1]) == 1
local options, mine = {}, exists
for i = 5, #ARGV do
  if ARGV[i] == '|' then mine = not exists
  elseif mine then options[#options + 1] = ARGV[i] end
end
redis.call('SET', KEYS[1], ARGV[1], unpack(options))
return {1, shown}",
    )
});

/// EXPIRE with conditions, optionally returning the value.
///
/// KEYS\[1\]; ARGV: PEXPIRE, PEXPIREAT or PERSIST, milliseconds, conditions (letters of `nxgl`), `1` to return the
/// value. Returns {found, applied, value or nil}. The GT and LT options of Redis compare times, because Lua numbers
/// would lose precision.
pub(crate) static EXPIRE: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, 0, false} end
local value = ARGV[4] == '1' and redis.call('GET', KEYS[1])
local lives = redis.call('PTTL', KEYS[1]) >= 0
local function asked(letter) return string.find(ARGV[3], letter, 1, true) end
if asked('n') and lives or asked('x') and not lives or asked('g') and asked('l') then return {1, 0, value} end
if ARGV[1] == 'PERSIST' then
  if asked('l') then return {1, 0, value} end
  return {1, redis.call('PERSIST', KEYS[1]), value}
end
local applied
if asked('g') then applied = redis.call(ARGV[1], KEYS[1], ARGV[2], 'GT')
elseif asked('l') then applied = redis.call(ARGV[1], KEYS[1], ARGV[2], 'LT')
else applied = redis.call(ARGV[1], KEYS[1], ARGV[2]) end
return {1, applied, value}",
    )
});

/// APPEND with a size limit, and with a TTL for new keys only.
///
/// KEYS\[1\]; ARGV: suffix, maximum bytes, TTL in milliseconds or empty. Returns {appended, length}.
pub(crate) static APPEND: LazyLock<Lua> = LazyLock::new(|| {
    Lua::of_payloads(
        r"
local head = head_at(KEYS[1])
local length = redis.call('STRLEN', KEYS[1]) - head + #ARGV[1]
if length > tonumber(ARGV[2]) then return {0, length} end
local new = ARGV[3] ~= '' and redis.call('EXISTS', KEYS[1]) == 0
redis.call('APPEND', KEYS[1], ARGV[1])
if head == 0 then guard(KEYS[1]) end
if new then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return {1, length}",
    )
});

/// SETRANGE with a TTL for new keys only.
///
/// KEYS\[1\]; ARGV: offset, bytes, TTL in milliseconds or empty. Returns the length.
pub(crate) static SETRANGE: LazyLock<Lua> = LazyLock::new(|| {
    Lua::of_payloads(
        r"
local head = head_at(KEYS[1])
if ARGV[2] == '' then return redis.call('STRLEN', KEYS[1]) - head end
local new = ARGV[3] ~= '' and redis.call('EXISTS', KEYS[1]) == 0
local length = redis.call('SETRANGE', KEYS[1], string.format('%.0f', ARGV[1] + head), ARGV[2]) - head
if head == 0 then guard(KEYS[1]) end
if new then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return length",
    )
});

/// INCRBY or INCRBYFLOAT for a value with a header, or with a TTL for new keys only.
///
/// KEYS\[1\]; ARGV: the command, its argument, TTL in milliseconds or empty. Returns the stored digits as text, because
/// a Lua number would lose digits. For the same reason, Redis increments the bare payload, and the script then restores
/// the header.
pub(crate) static INCREMENT: LazyLock<Lua> = LazyLock::new(|| {
    Lua::of_payloads(
        r"
local new = redis.call('EXISTS', KEYS[1]) == 0
local head = new and 0 or head_at(KEYS[1])
if head == 0 then
  redis.call(ARGV[1], KEYS[1], ARGV[2])
  if new and ARGV[3] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
  return redis.call('GET', KEYS[1])
end
local all = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], string.sub(all, head + 1), 'KEEPTTL')
local done = redis.pcall(ARGV[1], KEYS[1], ARGV[2])
if type(done) == 'table' and done.err then
  redis.call('SET', KEYS[1], all, 'KEEPTTL')
  return done
end
local sum = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], string.sub(all, 1, head) .. sum, 'KEEPTTL')
return sum",
    )
});

/// Removes a key whose value starts with this header.
///
/// KEYS\[1\]; ARGV: the header. Returns 1 if the key was removed.
pub(crate) static BURY: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) ~= ARGV[1] then return 0 end
return redis.call('UNLINK', KEYS[1])",
    )
});

/// Opens a ban in the log.
///
/// KEYS\[1\]: the log; ARGV: pattern, maximum number of open bans, a number that is already in use. Returns the number
/// of the new ban, or 0 if too many bans are open.
pub(crate) static BAN: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
local number = math.max(tonumber(redis.call('HGET', KEYS[1], 'n') or 0), tonumber(ARGV[3])) + 1
local open = redis.call('HLEN', KEYS[1]) - redis.call('HEXISTS', KEYS[1], 'n') - redis.call('HEXISTS', KEYS[1], 'loads')
if open >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'n', number, number, ARGV[1])
return number",
    )
});

/// Restores a log that lost records.
///
/// KEYS\[1\]: the log; ARGV: the greatest ban number, then number and pattern of each open ban.
pub(crate) static RESTORE_BANS: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
if tonumber(redis.call('HGET', KEYS[1], 'n') or 0) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'n', ARGV[1])
for i = 2, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1",
    )
});

/// Notes a key with several bans, and removes its value unless the key was noted with all of them. The TTL of the
/// notes, a week, is longer than any sweep; it bounds the lifetime of notes whose sweeper was lost.
///
/// KEYS: the key, then the notes. Returns 1 if the value was removed.
pub(crate) static CLEAR_BANNED: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
local gone = 0
for i = 2, #KEYS do
  if redis.call('SADD', KEYS[i], KEYS[1]) == 1 then
    gone = 1
    if redis.call('SCARD', KEYS[i]) == 1 then redis.call('EXPIRE', KEYS[i], 604800) end
  end
end
if gone == 1 then redis.call('UNLINK', KEYS[1]) end
return gone",
    )
});

/// Removes the keys of one page that match and are not noted, unless the time limit has passed.
///
/// KEYS\[1\]: the note; ARGV: time limit by this server's clock in microseconds, cursor, pattern, number of keys per
/// page, prefix of Terrace's own keys. Returns the next cursor and the number of removed keys; -1 after the time limit.
/// The script works in chunks, because the Lua stack is small.
pub(crate) static SWEEP_PAGE: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
local time = redis.call('TIME')
if time[1] * 1000000 + time[2] > tonumber(ARGV[1]) then return -1 end
local page = redis.call('SCAN', ARGV[2], 'MATCH', ARGV[3], 'COUNT', ARGV[4])
local reserved, keys = ARGV[5], {}
for _, key in ipairs(page[2]) do
  if string.sub(key, 1, #reserved) ~= reserved then keys[#keys + 1] = key end
end
local removed = 0
for first = 1, #keys, 500 do
  local last = math.min(first + 499, #keys)
  local old = {}
  for at, noted in ipairs(redis.call('SMISMEMBER', KEYS[1], unpack(keys, first, last))) do
    if noted == 0 then old[#old + 1] = keys[first + at - 1] end
  end
  if #old > 0 then removed = removed + redis.call('UNLINK', unpack(old)) end
end
return {page[1], removed}",
    )
});

/// Removes the keys that are not noted, unless the time limit has passed.
///
/// KEYS: the note, then the keys; ARGV: time limit by this server's clock in microseconds. Returns the number of removed
/// keys; -1 after the time limit.
pub(crate) static SWEEP_LISTED: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
local time = redis.call('TIME')
if time[1] * 1000000 + time[2] > tonumber(ARGV[1]) then return -1 end
local old = {}
for at, noted in ipairs(redis.call('SMISMEMBER', KEYS[1], unpack(KEYS, 2))) do
  if noted == 0 then old[#old + 1] = KEYS[at + 1] end
end
if #old == 0 then return 0 end
return redis.call('UNLINK', unpack(old))",
    )
});

/// Removes a key that is not noted, unless the time limit has passed.
///
/// KEYS: the note, the key; ARGV: time limit by this server's clock in microseconds. Returns the number of removed
/// keys; -1 after the time limit.
pub(crate) static SWEEP_KEY: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
local time = redis.call('TIME')
if time[1] * 1000000 + time[2] > tonumber(ARGV[1]) then return -1 end
if redis.call('SISMEMBER', KEYS[1], KEYS[2]) == 1 then return 0 end
return redis.call('UNLINK', KEYS[2])",
    )
});

/// Acquires or renews a right that expires.
///
/// KEYS\[1\]; ARGV: token of the owner, milliseconds. Returns 0 if another owner has the right.
pub(crate) static KEEP_SWEEP: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1",
    )
});
