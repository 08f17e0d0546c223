-- Replaces fields of a hash, each only while it holds what it was seen to hold. Its life is left as it is.
--
-- KEYS[1]  a user or an app
-- ARGV[1…] name, value seen, new value, in turn
--
-- Returns how many were replaced: 0 or more.
local key, replaced = KEYS[1], 0

for i = 1, #ARGV, 3 do
  if redis.call('HGET', key, ARGV[i]) == ARGV[i + 1] then
    redis.call('HSET', key, ARGV[i], ARGV[i + 2])
    replaced = replaced + 1
  end
end
return replaced
