-- Follows `common.lua` in the scripts that use events: the bounds, and the functions for stored events.

local max_events, max_bytes, max_age = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

-- Milliseconds for which the server keeps the events of a process that neither appends nor reads.
local idle_process_ttl = tonumber(ARGV[7])

-- Returns the parts of an entry of the stream: a list of the id, and of the names and values that `add_event` wrote.
local function parse_entry(entry)
  local id, fields = entry[1], entry[2]
  return {
    id = id,
    number = tonumber(string.match(id, '^%d+')),
    stream = fields[2],
    final = fields[4],
    at = tonumber(fields[6]),
    before = tonumber(fields[8]),
    data = fields[10],
  }
end

-- Adds an event. `before` is the size of all events before it: with it, the bound in bytes is one comparison.
local function add_event(key, number, stream, final, at, before, data)
  redis.call('XADD', events_of(key), string.format('%d-0', number),
    'stream', stream, 'final', final, 'at', at, 'before', before, 'data', data)
end

-- Returns whether an event is within the bounds, in a log with this newest number and this size. The events outside the
-- bounds are older than all events within them.
local function is_within_bounds(event, newest, bytes)
  return event.number == newest
    or (event.number > newest - max_events and bytes - event.before <= max_bytes and event.at >= now - max_age)
end

-- Returns the time (milliseconds) at which the server removes the events of a process that is active now.
local function process_removal_time()
  return math.floor(now / 1000) + idle_process_ttl
end

-- Makes the server keep the events of a process that still reads. If it removed them, the numbers would start at 1
-- again, and a reader that continues after an old number would miss the new events.
local function keep_process_log(key)
  local at = process_removal_time()
  if redis.call('PEXPIRETIME', log_of(key)) < at - idle_process_ttl / 2 then
    extend_log_ttl(key, at)
  end
end
