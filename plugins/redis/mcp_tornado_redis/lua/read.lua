-- Returns at most `limit` events with numbers above `after`, each as a list of number, stream, final and data; where a
-- stream is given, that one's alone.

local key, after, limit, stream = unpack(ARGV, 8)
after, limit = tonumber(after), tonumber(limit)

if is_process(key) then
  keep_process(key)
end
local log = redis.call('HMGET', log_of(key), 'newest', 'bytes')
local newest, bytes = tonumber(log[1] or 0), tonumber(log[2] or 0)
local found = {}
if after >= newest then
  return found
end
local start = string.format('%d-0', math.max(after, newest - max_events) + 1)
while #found < limit do
  local entries = redis.call('XRANGE', events_of(key), start, '+', 'COUNT', limit)
  for _, entry in ipairs(entries) do
    local event = event_in(entry)
    if #found < limit and is_kept(event, newest, bytes) and (not stream or stream == event.stream) then
      found[#found + 1] = { event.number, event.stream, event.final, event.data }
    end
    start = '(' .. event.id
  end
  if #entries < limit then
    break
  end
end
return found
