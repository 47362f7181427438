//! Lua scripts of load leases. Each script reads and writes the key and its record atomically.
//!
//! Forms of a record; numbers are decimal unless noted:
//!
//! | record | fields | TTL |
//! |---|---|---|
//! | `L` | generation (hex), holder (hex), replication id, mark (hex), failures, exclusive time in ms, greatest ban number, fingerprint | exclusive time + 60 s |
//! | `F` | failures, message | time without a load + 60 s |
//! | `A` | greatest ban number, header with tags | time of the negative answer |
//!
//! The fingerprint of a key is its expiry in Unix milliseconds (-1: none, -2: absent), its length and the SHA-1 of its
//! bytes; of a value over 1 KiB only the first and last 64 bytes are hashed. The replication id changes when a replica
//! is promoted and differs between primaries: a record that survived a failover or moved with its slot is void, because
//! the removal of the record may have been lost.

use std::sync::LazyLock;

use super::scripts::Lua;

/// Functions of the scripts that compare fingerprints.
const FINGERPRINT: &str = r"
local GRACE = 60000
local function fingerprint(key)
  local at = redis.call('PEXPIRETIME', key)
  if at == -2 then return '-2:' end
  local length = redis.call('STRLEN', key)
  local sample
  if length <= 1024 then sample = redis.call('GET', key)
  else sample = redis.call('GETRANGE', key, 0, 63) .. redis.call('GETRANGE', key, -64, -1) end
  return string.format('%.0f', at) .. ':' .. length .. ':' .. redis.sha1hex(sample)
end
local function replication()
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') or ''
end
local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function unchanged(key, before)
  local now = fingerprint(key)
  if now == before then return true end
  local at = tonumber(string.match(before, '^(%-?%d+):'))
  return now == '-2:' and at and at >= 0 and milliseconds() >= at
end
local LOADING = '^L (%x+) (%x+) (%S+) (%S+) (%d+) (%d+) (%d+) (.*)$'
";

fn with_fingerprint(text: &str) -> Lua {
    Lua::new(&[FINGERPRINT, text].concat())
}

/// Takes a lease.
///
/// KEYS: the key, its record; ARGV: remaining TTL in ms from which the value is fresh, exclusive time in ms, holder (hex),
/// generation (hex), `1` to treat a fresh value as stale, `1` to ignore a negative answer, the mark (hex) and the Unix
/// milliseconds of its creation, minimum age of the mark in ms, the greatest known ban number. Returns `fresh`, value, TTL; `granted`, value or nil, TTL,
/// generation (empty: not fenced), exclusive time, `1` for a takeover, ban number; `busy`, value or nil, TTL, age, remaining time, holder (hex);
/// `failed`, value or nil, TTL, message, remaining time; or `absent`, TTL, ban number, header.
pub(crate) static ACQUIRE: LazyLock<Lua> = LazyLock::new(|| {
    with_fingerprint(
        r"
local key, rec = KEYS[1], KEYS[2]
local lease, generation, force = tonumber(ARGV[2]), ARGV[4], ARGV[5] == '1'
local value, life = redis.call('GET', key), redis.call('PTTL', key)
if value and not force and (life == -1 or life >= tonumber(ARGV[1])) then return {'fresh', value, life} end
local record, left = redis.call('GET', rec), redis.call('PTTL', rec)
local kind = record and string.sub(record, 1, 1)
local failures, over, epoch = '0', 0, replication()
if kind == 'A' and not value and not force and ARGV[6] ~= '1' then
  local ban, head = string.match(record, '^A (%d+) (.*)$')
  return {'absent', left, ban, head}
elseif kind == 'F' then
  local count, message = string.match(record, '^F (%d+) (.*)$')
  if left > GRACE then return {'failed', value, life, message, left - GRACE} end
  failures = count
elseif kind == 'L' then
  local number, holder, id, mark, count, time, ban, before = string.match(record, LOADING)
  if left > GRACE then
    if holder ~= ARGV[3] then return {'busy', value, life, time - (left - GRACE), left - GRACE, holder} end
    return {'granted', value, life, number, left - GRACE, 0, ban}
  end
  failures, over = count, 1
  if id == epoch and mark == ARGV[7] and unchanged(key, before) then generation = number end
end
if ARGV[7] == '' or epoch == '' or milliseconds() - tonumber(ARGV[8]) < tonumber(ARGV[9]) then
  return {'granted', value, life, '', lease, over, ARGV[10]}
end
local fields = {'L', generation, ARGV[3], epoch, ARGV[7], failures, ARGV[2], ARGV[10], fingerprint(key)}
redis.call('SET', rec, table.concat(fields, ' '), 'PX', lease + GRACE)
return {'granted', value, life, generation, lease, over, ARGV[10]}",
    )
});

/// Stores the result of a load, if its lease is still valid.
///
/// KEYS: the key, its record, and on a single server the ban log; ARGV: generation (hex), mark (hex), the greatest known
/// ban number, time limit by this server's clock in microseconds or empty, key of this primary's copy of the greatest ban
/// number or empty, `value` or `absent`, then the value and the options of SET, or the header of the negative answer and
/// its TTL in ms. Returns `stored`, the age of the lease in ms and 1 if
/// the key had another value; `lost`, `changed`, or `bans` if a ban above the known
/// number exists.
pub(crate) static FILL: LazyLock<Lua> = LazyLock::new(|| {
    with_fingerprint(
        r"
local key, rec = KEYS[1], KEYS[2]
if ARGV[4] ~= '' then
  local time = redis.call('TIME')
  if time[1] * 1000000 + time[2] > tonumber(ARGV[4]) then return {'lost'} end
end
local greatest = 0
if KEYS[3] then
  local mark = redis.call('HGET', KEYS[3], 'loads')
  if not mark or string.match(mark, '^%x+') ~= ARGV[2] then return {'lost'} end
  greatest = redis.call('HGET', KEYS[3], 'n') or 0
elseif ARGV[5] ~= '' then
  greatest = redis.call('GET', ARGV[5]) or 0
end
if tonumber(greatest) > tonumber(ARGV[3]) then return {'bans'} end
local record = redis.call('GET', rec)
local number, holder, id, mark, count, time, ban, before = string.match(record or '', LOADING)
if number ~= ARGV[1] or mark ~= ARGV[2] or id ~= replication() then return {'lost'} end
local took = time - (redis.call('PTTL', rec) - GRACE)
if not unchanged(key, before) then
  redis.call('DEL', rec)
  return {'changed'}
end
local old = redis.call('GET', key)
local differs = old and old ~= ARGV[7] and 1 or 0
if ARGV[6] == 'value' then
  redis.call('SET', key, ARGV[7], unpack(ARGV, 8))
  redis.call('DEL', rec)
else
  redis.call('SET', rec, 'A ' .. ARGV[3] .. ' ' .. ARGV[7], 'PX', ARGV[8])
  redis.call('DEL', key)
end
return {'stored', took, differs}",
    )
});

/// Ends a lease without a result.
///
/// KEYS\[1\]: the record; ARGV: holder (hex), `released`, `left` or `failed`, and after `failed`: message, time without a
/// load in ms or empty, a random number from 0.9 to 1.1. Returns 1 if the lease was the holder's.
pub(crate) static END_LOAD: LazyLock<Lua> = LazyLock::new(|| {
    with_fingerprint(
        r"
local number, holder, id, mark, count = string.match(redis.call('GET', KEYS[1]) or '', LOADING)
if holder ~= ARGV[1] then return 0 end
if ARGV[2] == 'released' then redis.call('DEL', KEYS[1])
elseif ARGV[2] == 'left' then
  if redis.call('PTTL', KEYS[1]) > GRACE then redis.call('PEXPIRE', KEYS[1], GRACE) end
else
  count = count + 1
  local pause = tonumber(ARGV[4]) or math.min(30000, 1000 * 2 ^ math.min(count - 1, 5)) * ARGV[5]
  redis.call('SET', KEYS[1], 'F ' .. count .. ' ' .. ARGV[3], 'PX', math.floor(pause) + GRACE)
end
return 1",
    )
});

/// Marks leases as in use.
///
/// KEYS\[1\]: the ban log; ARGV: id of the mark (hex), a ban number that is already in use. The mark takes the next number
/// of the bans, so that a write whose sender does not know the mark is noticed. Returns that number; 0 if this primary has
/// created a mark.
pub(crate) static MARK_LOADS: LazyLock<Lua> = LazyLock::new(|| {
    with_fingerprint(
        r"
local id = string.sub(replication(), 1, 16)
local mark = redis.call('HGET', KEYS[1], 'loads')
if mark and string.match(mark, '(%x+)$') == id then return 0 end
local number = math.max(tonumber(redis.call('HGET', KEYS[1], 'n') or 0), tonumber(ARGV[2])) + 1
local created = string.format('%.0f', milliseconds())
redis.call('HSET', KEYS[1], 'n', number, 'loads', table.concat({ARGV[1], number, created, id}, ' '))
return number",
    )
});
