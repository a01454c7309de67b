-- Appends an event. Returns its number; or 'gone' if the session is not live; or 'ended' if the stream has ended.

local key, stream, final, data = unpack(ARGV, 8)

local expires_at = live_session_expiry(key)
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
-- Never less than the time of the event before, although clocks differ: so the events that are too old are the first
-- ones.
local at = math.max(tonumber(log[3]) or 0, now)

redis.call('HSET', log_of(key), 'newest', number, 'bytes', bytes, 'at', at)
if number == 1 then
  -- The server may have evicted a log to free memory, and left its events.
  redis.call('UNLINK', events_of(key), ended)
end
add_event(key, number, stream, final, at, before, data)
if final == '1' then
  redis.call('ZADD', ended, number, stream)
  redis.call('ZREMRANGEBYRANK', ended, 0, -max_events - 1)
end

while true do
  local oldest = parse_entry(redis.call('XRANGE', events_of(key), '-', '+', 'COUNT', 1)[1])
  if is_within_bounds(oldest, number, bytes) then
    break
  end
  redis.call('XDEL', events_of(key), oldest.id)
end

extend_log_ttl(key, expires_at and removal_time(expires_at) or process_removal_time())
redis.call('PUBLISH', channel, string.format('%d:%s', number, key))
return number
