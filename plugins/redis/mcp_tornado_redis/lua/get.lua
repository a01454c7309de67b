-- Returns the fields of a session; all are nil if there is none.

local key = unpack(ARGV, 4)

return fields_of(key)
