-- Removes a session, or the events of a process. Returns 1 if there was a session, else 0.

local key = unpack(ARGV, 4)

return remove_key(key)
