-- Returns how many sessions are live: all, or those of a principal.

local principal = unpack(ARGV, 4)

return redis.call('ZCOUNT', principal and principal_of(principal) or EXPIRY, '(' .. ARGV[3], '+inf')
