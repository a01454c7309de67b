-- Returns the number of the newest event, or 0 if there was none, or nil if the session is not live.

local key = unpack(ARGV, 8)

if is_process(key) then
  keep_process_log(key)
elseif not live_session_expiry(key) then
  return nil
end
return tonumber(redis.call('HGET', log_of(key), 'newest') or 0)
