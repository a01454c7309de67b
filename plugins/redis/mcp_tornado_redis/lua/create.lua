-- Inserts a session. Returns 1, or 0 if the key is taken.

local key, last_seen_at, expires_at, revision, payload, principal = unpack(ARGV, 4)

local session = session_of(key)
if redis.call('EXISTS', session) == 1 then
  return 0
end
redis.call('HSET', session,
  'last_seen_at', last_seen_at, 'expires_at', expires_at, 'revision', revision, 'payload', payload)
if principal then
  redis.call('HSET', session, 'principal', principal)
end
-- The server may have evicted a session to free memory, and left its events.
redis.call('UNLINK', log_of(key), events_of(key), ended_of(key))
index_session(key, principal, expires_at)
return 1
