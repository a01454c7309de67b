-- Returns the number of the newest event, 0 where there was none; nil where the session is not live.

local key = unpack(ARGV, 8)

if is_process(key) then
  keep_process(key)
elseif not live_until(key) then
  return nil
end
return tonumber(redis.call('HGET', log_of(key), 'newest') or 0)
