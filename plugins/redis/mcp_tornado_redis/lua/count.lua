-- Returns the number of live sessions: of all, or of one principal.

local principal = unpack(ARGV, 4)

return redis.call('ZCOUNT', principal and principal_of(principal) or EXPIRY, '(' .. ARGV[3], '+inf')
