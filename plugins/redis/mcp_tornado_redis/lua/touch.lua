-- Moves both times of a live session forward. Returns 1, or 0 if it is not live or a time would go backwards.

local key, last_seen_at, expires_at = unpack(ARGV, 4)

local session = session_of(key)
local stored = redis.call('HMGET', session, 'last_seen_at', 'expires_at', 'principal')
local stored_last_seen_at, stored_expires_at, principal = stored[1], stored[2], stored[3]
if not is_later_than_now(stored_expires_at)
  or tonumber(last_seen_at) < tonumber(stored_last_seen_at)
  or tonumber(expires_at) < tonumber(stored_expires_at) then
  return 0
end
redis.call('HSET', session, 'last_seen_at', last_seen_at, 'expires_at', expires_at)
index_session(key, principal, expires_at)
return 1
