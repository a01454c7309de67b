-- Adds an event. Returns its number; or 'gone' where the session is not live; or 'ended' where the stream is.

local key, stream, final, data = unpack(ARGV, 8)

local expires_at = live_until(key)
if not expires_at and not is_process(key) then
  return 'gone'
end
local ended = ended_of(key)
if redis.call('ZSCORE', ended, stream) then
  return 'ended'
end

local log = redis.call('HMGET', log_of(key), 'newest', 'bytes', 'at')
local number = (tonumber(log[1]) or 0) + 1
local before = tonumber(log[2]) or 0
local bytes = before + #data
-- Never less than the one before, though clocks differ: so those that are too old are the first ones.
local at = math.max(tonumber(log[3]) or 0, now)

redis.call('HSET', log_of(key), 'newest', number, 'bytes', bytes, 'at', at)
if number == 1 then
  -- To make room, the server may have removed a log and left its events.
  redis.call('UNLINK', events_of(key), ended)
end
add(key, number, stream, final, at, before, data)
if final == '1' then
  redis.call('ZADD', ended, number, stream)
  redis.call('ZREMRANGEBYRANK', ended, 0, -max_events - 1)
end

while true do
  local oldest = event_in(redis.call('XRANGE', events_of(key), '-', '+', 'COUNT', 1)[1])
  if is_kept(oldest, number, bytes) then
    break
  end
  redis.call('XDEL', events_of(key), oldest.id)
end

keep_log(key, expires_at and kept_until(expires_at) or process_kept_until())
redis.call('PUBLISH', channel, string.format('%d:%s', number, key))
return number
