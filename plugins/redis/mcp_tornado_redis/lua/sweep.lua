-- Removes at most `limit` sessions that expired by `moment`, and returns their number. Sessions that the server has
-- removed by itself count too, if they are still in the indexes.

local moment, limit = unpack(ARGV, 4)

local expired = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', moment, 'LIMIT', 0, limit)
for _, key in ipairs(expired) do
  remove_key(key)
end
return #expired
