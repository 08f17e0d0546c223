-- Ends one session. With the last one the user's hash goes, and the session_key with it.
-- Only deletes, so it works on a Redis that is full.
--
-- KEYS[1]  user:{<sub>}
-- ARGV[1…] fields of the session (one for each token key that may have made it)
--
-- Returns 1 when there was such a session, else 0.
local userKey = KEYS[1]

local removed = redis.call('HDEL', userKey, unpack(ARGV))
for _, name in ipairs(redis.call('HKEYS', userKey)) do
  if string.sub(name, 1, 2) == 's:' then return removed end
end
redis.call('DEL', userKey)
return removed
