-- Takes or renews a lease. Returns 1, or 0 if another owner has it.

local lease, owner, expires_at = unpack(ARGV, 4)

local stored = redis.call('HMGET', lease_of(lease), 'owner', 'expires_at')
if stored[1] ~= owner and is_later_than_now(stored[2]) then
  return 0
end
redis.call('HSET', lease_of(lease), 'owner', owner, 'expires_at', expires_at)
extend_ttl(lease_of(lease), removal_time(expires_at))
return 1
