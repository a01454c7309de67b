-- Returns at most `limit` live sessions with keys after `after`, each as a list of its fields. The server runs no other
-- command meanwhile, so the script examines a few thousand keys at most. If it stops early, it also returns the key
-- after which to continue.

local after, limit = unpack(ARGV, 4)
limit = tonumber(limit)

local MAX_EXAMINED = 2000

local found, examined = {}, 0
while #found < limit do
  if examined >= MAX_EXAMINED then
    return { found, after }
  end
  local start = after == '' and '-' or '(' .. after
  local keys = redis.call('ZRANGEBYLEX', ORDER, start, '+', 'LIMIT', 0, math.min(limit - #found, MAX_EXAMINED))
  if #keys == 0 then
    break
  end
  for _, key in ipairs(keys) do
    local fields = fields_of(key)
    if is_later_than_now(fields[2]) then
      found[#found + 1] = fields
    end
  end
  examined = examined + #keys
  after = keys[#keys]
end
return { found }
