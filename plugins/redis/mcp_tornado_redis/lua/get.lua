-- Returns the fields of a session; they are nil where there is none.

local key = unpack(ARGV, 4)

return fields_of(key)
