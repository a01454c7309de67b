-- The beginning of every script: the arguments that all scripts take, the names of the keys, and the functions that
-- keep the keys of a session consistent.
--
-- A server that is out of memory refuses only the first write of a script, and only a command that may need memory.
-- So in every script that adds data, the first write is such a command.
--
-- Times are microseconds since the epoch, unless a comment says milliseconds. As numbers of Lua and as scores they are
-- exact until the year 2255.

local prefix, channel, now = ARGV[1], ARGV[2], tonumber(ARGV[3])

-- Milliseconds for which the server keeps a key after its expiry. The clock of the server may be ahead of the clock of
-- the store, which decides everything else.
local GRACE = 300000

-- Sorted set: the keys of all sessions, by `expires_at`.
local EXPIRY = prefix .. 'expiry'

-- Sorted set: the keys of all sessions, all with score 0, so they are in the order of their bytes.
local ORDER = prefix .. 'order'

-- Hash: `last_seen_at`, `expires_at`, `revision`, `payload` and, if the session has one, `principal`.
local function session_of(key)
  return prefix .. 'session:' .. key
end

-- Sorted set: the keys of the sessions of a principal, by `expires_at`.
local function principal_of(principal)
  return prefix .. 'principal:' .. principal
end

-- Hash, for a session or a process that has had events: `newest`, the number of the newest event; `bytes`, the size of
-- all events so far; `at`, the time of the newest event.
local function log_of(key)
  return prefix .. 'log:' .. key
end

-- Stream: the events that are kept, each with the id `<number>-0`.
local function events_of(key)
  return prefix .. 'events:' .. key
end

-- Sorted set: the streams that have ended, by the number of their final event.
local function ended_of(key)
  return prefix .. 'ended:' .. key
end

-- Hash: `owner` and `expires_at`.
local function lease_of(name)
  return prefix .. 'lease:' .. name
end

-- Makes the server keep a key until at least this time (milliseconds), and remove it by itself at some time.
local function extend_ttl(name, at)
  if redis.call('PEXPIRETIME', name) < at then
    redis.call('PEXPIREAT', name, at)
  end
end

local function extend_log_ttl(key, at)
  extend_ttl(log_of(key), at)
  extend_ttl(events_of(key), at)
  extend_ttl(ended_of(key), at)
end

-- Returns the time (milliseconds) at which the server removes the keys of a session or lease that expires then.
local function removal_time(expires_at)
  return math.floor(tonumber(expires_at) / 1000) + GRACE
end

-- Updates the indexes, and the times at which the server removes the keys of a session, to its expiry.
local function index_session(key, principal, expires_at)
  local at = removal_time(expires_at)
  redis.call('ZADD', EXPIRY, expires_at, key)
  extend_ttl(EXPIRY, at)
  redis.call('ZADD', ORDER, 0, key)
  extend_ttl(ORDER, at)
  if principal then
    local index = principal_of(principal)
    redis.call('ZADD', index, expires_at, key)
    extend_ttl(index, at)
    -- When the server has removed a session, a sweep does not know its principal. So old entries are removed here.
    redis.call('ZREMRANGEBYSCORE', index, '-inf', now - GRACE * 1000)
  end
  extend_ttl(session_of(key), at)
  extend_log_ttl(key, at)
end

local function is_process(key)
  return string.sub(key, 1, 1) == '@'
end

local function is_later_than_now(expires_at)
  return expires_at and tonumber(expires_at) > now
end

-- Returns the expiry of a live session, or `nil` if there is no live session with this key.
local function live_session_expiry(key)
  local expires_at = redis.call('HGET', session_of(key), 'expires_at')
  return is_later_than_now(expires_at) and expires_at or nil
end

-- Returns the fields of a session, in the order in which the store reads them.
local function fields_of(key)
  return redis.call('HMGET', session_of(key), 'last_seen_at', 'expires_at', 'revision', 'principal', 'payload')
end

-- Removes a session or the events of a process, and wakes the tasks that wait for it. Every end of a session goes
-- through this function. Returns 1 if there was a session, else 0.
local function remove_key(key)
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
