-- Replaces a live session whose revision is the expected one; a time that is '' stays as it is now. Returns a list of
-- both times; or the other revision that was found; or nil where the session is not live.

local key, expected, revision, payload, last_seen_at, expires_at, principal = unpack(ARGV, 4)

local session = session_of(key)
local stored = redis.call('HMGET', session, 'last_seen_at', 'expires_at', 'revision', 'principal')
local stored_seen, stored_expires, stored_revision, stored_principal = unpack(stored)
if not is_later_than_now(stored_expires) then
  return nil
end
if stored_revision ~= expected then
  return stored_revision
end
if last_seen_at == '' then
  last_seen_at = stored_seen
end
if expires_at == '' then
  expires_at = stored_expires
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
file(key, principal, expires_at)
return { last_seen_at, expires_at }
