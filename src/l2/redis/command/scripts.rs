//! The Lua scripts, for operations that no plain command does: each reads and writes at one instant.
//!
//! A single one is called by digest and sent in full only when Redis does not know it (a new or restarted server, SCRIPT
//! FLUSH). In a batch they are always sent in full: the others would be done by the time an unknown digest is noticed.

use std::sync::LazyLock;

use ::redis::{Cmd, Script};

use crate::l2::codec;

/// A script and its digest.
pub(crate) struct Lua {
    text: String,
    script: Script,
}

impl Lua {
    fn new(text: &str) -> Self {
        Self { text: text.to_owned(), script: Script::new(text) }
    }

    /// A script that knows headers.
    fn of_payloads(text: &str) -> Self {
        Self::new(&[&heads(), text].concat())
    }

    /// The call without its arguments.
    pub(crate) fn call(&self, by: By, key: &[u8]) -> Cmd {
        self.call_with(by, std::iter::once(key))
    }

    /// The call with these keys, without its arguments.
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

/// What stands for a script in its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// EVALSHA: short.
    Digest,
    /// EVAL: known in any case.
    Text,
}

/// What scripts know of headers (`l2::codec`): `head_of(value)` is the length of the header that a value begins with, 0 for
/// none; `head_at(key)` that of the value there; `guard(key)` puts an empty one before a value that looks like a header.
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

/// SET under a condition on the bytes, or with a life for a key that is new.
///
/// KEYS\[1\]; ARGV: value, `1` to compare, the bytes to compare with, `1` to return the old value, then the options of
/// SET for a key that exists, `|`, and those for a new one. Returns {stored, old value or nil}.
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

/// EXPIRE under conditions and with the value.
///
/// KEYS\[1\]; ARGV: PEXPIRE, PEXPIREAT or PERSIST, milliseconds, conditions out of `nxgl`, `1` to return the value.
/// Returns {found, applied, value or nil}. Times are compared by Redis's own GT and LT, not as Lua's numbers.
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

/// APPEND within a limit, with a life for a key that is new.
///
/// KEYS\[1\]; ARGV: suffix, most bytes, life in milliseconds or empty. Returns {appended, length}.
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

/// SETRANGE with a life for a key that is new.
///
/// KEYS\[1\]; ARGV: offset, bytes, life in milliseconds or empty. Returns the length.
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

/// INCRBY or INCRBYFLOAT behind a header, or with a life for a key that is new.
///
/// KEYS\[1\]; ARGV: the command, its argument, life in milliseconds or empty. Returns the number as it is stored: as a number
/// it would pass through Lua's doubles and lose digits. For the same reason Redis adds, on the payload alone, and the header
/// goes back in front of the sum.
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

/// Removes a key whose value begins with a header.
///
/// KEYS\[1\]; ARGV: the header. Returns whether it went.
pub(crate) static BURY: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) ~= ARGV[1] then return 0 end
return redis.call('UNLINK', KEYS[1])",
    )
});

/// Opens a ban in the log.
///
/// KEYS\[1\]: the log; ARGV: pattern, most bans that may be open, a number that was given already. Returns the number, or 0
/// where too many are open.
pub(crate) static BAN: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
local number = math.max(tonumber(redis.call('HGET', KEYS[1], 'n') or 0), tonumber(ARGV[3])) + 1
local open = redis.call('HLEN', KEYS[1]) - redis.call('HEXISTS', KEYS[1], 'n')
if open >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'n', number, number, ARGV[1])
return number",
    )
});

/// Writes a log that was lost or cut again.
///
/// KEYS\[1\]: the log; ARGV: the greatest number, then number and pattern of each open ban.
pub(crate) static RESTORE_BANS: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
if tonumber(redis.call('HGET', KEYS[1], 'n') or 0) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'n', ARGV[1])
for i = 2, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1",
    )
});

/// Makes a key one of after some bans: notes it with each, and removes what stood there unless it was noted with all. A
/// week is longer than any sweep: it bounds the life of a note whose sweeper was lost.
///
/// KEYS: the key, then the notes. Returns 1 if what stood there is gone.
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

/// Looks at the keys of a page and removes those that match and are not noted, if it is not too late for that.
///
/// KEYS\[1\]: the note; ARGV: until when by this server's clock, microseconds; the cursor, the pattern, keys of the page,
/// what Terrace's own keys begin with. Returns the next cursor and how many went; -1 where it is too late. In parts, because Lua's
/// stack is small.
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

/// Removes a key that is not noted, if it is not too late for that.
///
/// KEYS: the note, the key; ARGV: until when by this server's clock, microseconds. Returns how many went, -1 where it is too
/// late.
pub(crate) static SWEEP_KEY: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
local time = redis.call('TIME')
if time[1] * 1000000 + time[2] > tonumber(ARGV[1]) then return -1 end
if redis.call('SISMEMBER', KEYS[1], KEYS[2]) == 1 then return 0 end
return redis.call('UNLINK', KEYS[2])",
    )
});

/// Takes or keeps a right that ends by itself.
///
/// KEYS\[1\]; ARGV: who, milliseconds. Returns 0 if another one has it.
pub(crate) static KEEP_SWEEP: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1",
    )
});
