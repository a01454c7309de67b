-- Stands before every script: the arguments that each of them gets, what the keys are called, and what holds for a
-- session whoever changes it.
--
-- A server that is out of memory refuses the first write of a script alone, and only one that may need memory: so every
-- script that adds something begins its writes with such a one.
--
-- Times are microseconds since the epoch, unless a comment says milliseconds. As Lua's numbers, and as scores, they
-- are exact until the year 2255.

local prefix, channel, now = ARGV[1], ARGV[2], tonumber(ARGV[3])

-- Milliseconds for which the server keeps what has expired: its clock may be ahead of the store's, by which all else
-- is decided.
local GRACE = 300000

-- Sorted set: the keys of all sessions, by `expires_at`.
local EXPIRY = prefix .. 'expiry'

-- Sorted set: the keys of all sessions, all with score 0, and so in the order of their bytes.
local ORDER = prefix .. 'order'

-- Hash: `last_seen_at`, `expires_at`, `revision`, `payload` and, where there is one, `principal`.
local function session_of(key)
  return prefix .. 'session:' .. key
end

-- Sorted set: the keys of a principal's sessions, by `expires_at`.
local function principal_of(principal)
  return prefix .. 'principal:' .. principal
end

-- Hash, of a session or a process that has had events: `newest`, the number of the newest event; `bytes`, the size
-- of all events so far; `at`, when the newest was appended.
local function log_of(key)
  return prefix .. 'log:' .. key
end

-- Stream: the events that are kept, each with the id `<number>-0`.
local function events_of(key)
  return prefix .. 'events:' .. key
end

-- Sorted set: the streams that had their final event, by its number.
local function ended_of(key)
  return prefix .. 'ended:' .. key
end

-- Hash: `owner` and `expires_at`.
local function lease_of(name)
  return prefix .. 'lease:' .. name
end

-- Has the server keep a key until a time (milliseconds) at least, and remove it by itself one day.
local function keep(name, at)
  if redis.call('PEXPIRETIME', name) < at then
    redis.call('PEXPIREAT', name, at)
  end
end

local function keep_log(key, at)
  keep(log_of(key), at)
  keep(events_of(key), at)
  keep(ended_of(key), at)
end

-- Returns until when (milliseconds) the server keeps what belongs to a session.
local function kept_until(expires_at)
  return math.floor(tonumber(expires_at) / 1000) + GRACE
end

-- Has the indexes and the server know when a session expires.
local function file(key, principal, expires_at)
  local at = kept_until(expires_at)
  redis.call('ZADD', EXPIRY, expires_at, key)
  keep(EXPIRY, at)
  redis.call('ZADD', ORDER, 0, key)
  keep(ORDER, at)
  if principal then
    local index = principal_of(principal)
    redis.call('ZADD', index, expires_at, key)
    keep(index, at)
    -- A sweep cannot tell whose a session was that the server has removed.
    redis.call('ZREMRANGEBYSCORE', index, '-inf', now - GRACE * 1000)
  end
  keep(session_of(key), at)
  keep_log(key, at)
end

local function is_process(key)
  return string.sub(key, 1, 1) == '@'
end

local function is_later_than_now(expires_at)
  return expires_at and tonumber(expires_at) > now
end

-- Returns when a live session expires; `nil` where there is no live one.
local function live_until(key)
  local expires_at = redis.call('HGET', session_of(key), 'expires_at')
  return is_later_than_now(expires_at) and expires_at or nil
end

-- Returns the fields of a session as the store reads them.
local function fields_of(key)
  return redis.call('HMGET', session_of(key), 'last_seen_at', 'expires_at', 'revision', 'principal', 'payload')
end

-- Removes all that belongs to a key, and wakes those who wait for it: the one place where a session ends. Returns 1
-- where there was a session, else 0.
local function remove(key)
  local principal = redis.call('HGET', session_of(key), 'principal')
  if principal then
    redis.call('ZREM', principal_of(principal), key)
  end
  redis.call('ZREM', EXPIRY, key)
  redis.call('ZREM', ORDER, key)
  local existed = redis.call('DEL', session_of(key))
  redis.call('UNLINK', log_of(key), events_of(key), ended_of(key))
  redis.call('PUBLISH', channel, ':' .. key)
  return existed
end
