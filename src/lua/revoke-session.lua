-- Ends one session. With the last living one the user's hash goes, and the session_key with it; before that
-- the hash lives as long as the longest session that is left.
-- Adds nothing, so it works on a Redis that is full.
--
-- KEYS[1]  user:{<sub>}
-- ARGV[1]  seconds a session lives unused   ARGV[2]  seconds a session lives at most
-- ARGV[3]  channel that hears of users whose sessions were ended
-- ARGV[4…] fields of the session (one for each token key that may have made it)
--
-- Returns 1 when there was such a session, else 0.
local userKey = KEYS[1]
local idleSeconds, lifeSecondsMax, endedChannel, firstField = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], 4

-- When a session was opened, and its last use in seconds after that.
local function timesOf(value)
  local issued, used = string.match(value, '^([%d%l]+)%u([%d%l]*)$')
  if issued then return tonumber(issued, 36), tonumber(used, 36) or 0 end
  issued, used = string.match(value, '^(%x+)%.(%x+)') -- as the version before wrote it
  return tonumber(issued, 16), tonumber(used, 16)
end

if redis.call('HDEL', userKey, unpack(ARGV, firstField)) == 0 then return 0 end

-- A session that has expired keeps its field until the next login: it must not keep the session_key alive.
local lastEnd = 0
local flat = redis.call('HGETALL', userKey)
for i = 1, #flat, 2 do
  if string.find(flat[i], ':', 1, true) then
    local issued, used = timesOf(flat[i + 1])
    lastEnd = math.max(lastEnd, math.min(issued + used + idleSeconds, issued + lifeSecondsMax))
  end
end
redis.call('EXPIREAT', userKey, lastEnd) -- an end that has passed deletes at once
-- pcall: what has ended has ended, also where this Redis user may not use the channel.
redis.pcall('PUBLISH', endedChannel, string.match(userKey, '{(.-)}'))
return 1
