-- Removes at most `limit` sessions that expired by `moment`. Returns how many: with those that the server has removed
-- already, of which the indexes still know.

local moment, limit = unpack(ARGV, 4)

local expired = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', moment, 'LIMIT', 0, limit)
for _, key in ipairs(expired) do
  remove(key)
end
return #expired
