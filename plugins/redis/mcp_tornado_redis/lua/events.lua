-- Stands before the scripts that know events: the bounds, and how events are kept.

local max_events, max_bytes, max_age = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

-- Milliseconds for which the server keeps the events of a process that neither appends nor reads.
local idle_process_kept = tonumber(ARGV[7])

-- Returns the parts of an entry of the stream: a list of its id, and of the names and values that `add` gave it.
local function event_in(entry)
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

-- Adds an event; `before` is the size of all events before it, which makes the bound in bytes a comparison.
local function add(key, number, stream, final, at, before, data)
  redis.call('XADD', events_of(key), string.format('%d-0', number),
    'stream', stream, 'final', final, 'at', at, 'before', before, 'data', data)
end

-- Says whether an event is within the bounds, in a log with this newest number and this size. Those that are not are
-- older than all that are.
local function is_kept(event, newest, bytes)
  return event.number == newest
    or (event.number > newest - max_events and bytes - event.before <= max_bytes and event.at >= now - max_age)
end

-- Returns until when (milliseconds) the server keeps the events of a process that is there now.
local function process_kept_until()
  return math.floor(now / 1000) + idle_process_kept
end

-- Has the server keep the events of a process that still reads. Were they removed meanwhile, numbers would begin anew,
-- and who reads after an old one would miss what comes.
local function keep_process(key)
  local at = process_kept_until()
  if redis.call('PEXPIRETIME', log_of(key)) < at - idle_process_kept / 2 then
    keep_log(key, at)
  end
end
