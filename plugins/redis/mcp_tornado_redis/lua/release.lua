-- Releases a lease if this owner has it.

local lease, owner = unpack(ARGV, 4)

if redis.call('HGET', lease_of(lease), 'owner') == owner then
  redis.call('DEL', lease_of(lease))
end
