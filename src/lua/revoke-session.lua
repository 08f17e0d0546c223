-- Ends one session. With the last living one the user's hash goes, and the session_key with it; before that
-- the hash lives as long as the longest session that is left.
-- Adds nothing, so it works on a Redis that is full.
--
-- KEYS[1]  user:{<sub>}
-- ARGV[1…] fields of the session (one for each token key that may have made it)
--
-- Returns 1 when there was such a session, else 0.
local userKey = KEYS[1]

if redis.call('HDEL', userKey, unpack(ARGV)) == 0 then return 0 end

-- A session that has expired keeps its field until the next login: it must not keep the session_key alive.
local now, lastEnd = tonumber(redis.call('TIME')[1]), 0
local flat = redis.call('HGETALL', userKey)
for i = 1, #flat, 2 do
  if string.find(flat[i], ':', 1, true) then
    local issued, life = string.match(flat[i + 1], '^(%x+)%.(%x+)')
    lastEnd = math.max(lastEnd, tonumber(issued, 16) + tonumber(life, 16))
  end
end
if lastEnd > now then
  redis.call('EXPIREAT', userKey, lastEnd)
else
  redis.call('DEL', userKey)
end
return 1
