-- Returns at most `limit` live sessions with keys after `after`, each as a list of its fields; and, where there may be
-- more of them further on, the key after which to look. It looks at some thousand sessions at the most: meanwhile
-- the server does nothing else.

local after, limit = unpack(ARGV, 4)
limit = tonumber(limit)

local MOST = 2000

local found, looked_at = {}, 0
while #found < limit do
  if looked_at >= MOST then
    return { found, after }
  end
  local start = after == '' and '-' or '(' .. after
  local keys = redis.call('ZRANGEBYLEX', ORDER, start, '+', 'LIMIT', 0, math.min(limit - #found, MOST))
  if #keys == 0 then
    break
  end
  for _, key in ipairs(keys) do
    local fields = fields_of(key)
    if is_later_than_now(fields[2]) then
      found[#found + 1] = fields
    end
  end
  looked_at = looked_at + #keys
  after = keys[#keys]
end
return { found }
