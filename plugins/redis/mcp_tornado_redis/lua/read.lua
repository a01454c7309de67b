-- Returns at most `limit` events with numbers above `after`, each as a list of number, stream, final and data. If a
-- stream is given, returns only the events of that stream.

local key, after, limit, stream = unpack(ARGV, 8)
after, limit = tonumber(after), tonumber(limit)

if is_process(key) then
  keep_process_log(key)
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
    local event = parse_entry(entry)
    if #found < limit and is_within_bounds(event, newest, bytes) and (not stream or stream == event.stream) then
      found[#found + 1] = { event.number, event.stream, event.final, event.data }
    end
    start = '(' .. event.id
  end
  if #entries < limit then
    break
  end
end
return found
