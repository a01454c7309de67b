-- Replaces the fields of a live session if its revision is the expected one. A time that is '' keeps its present value.
-- Returns a list of both times; or the revision, if it is another one; or nil if the session is not live.

local key, expected, revision, payload, last_seen_at, expires_at, principal = unpack(ARGV, 4)

local session = session_of(key)
local stored = redis.call('HMGET', session, 'last_seen_at', 'expires_at', 'revision', 'principal')
local stored_last_seen_at, stored_expires_at, stored_revision, stored_principal = unpack(stored)
if not is_later_than_now(stored_expires_at) then
  return nil
end
if stored_revision ~= expected then
  return stored_revision
end
if last_seen_at == '' then
  last_seen_at = stored_last_seen_at
end
if expires_at == '' then
  expires_at = stored_expires_at
end
redis.call('HSET', session,
  'last_seen_at', last_seen_at, 'expires_at', expires_at, 'revision', revision, 'payload', payload)
if principal then
  redis.call('HSET', session, 'principal', principal)
else
  redis.call('HDEL', session, 'principal')
end
if stored_principal and stored_principal ~= principal then
  redis.call('ZREM', principal_of(stored_principal), key)
end
index_session(key, principal, expires_at)
return { last_seen_at, expires_at }
