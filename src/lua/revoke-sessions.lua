-- Ends the sessions of a user: all of them, and the session_key goes too; or all but one.
-- Adds nothing, so it works on a Redis that is full.
--
-- KEYS[1]  user:{<sub>}
-- ARGV[1]  seconds a session lives unused   ARGV[2]  seconds a session lives at most
-- ARGV[3]  channel that hears of users whose sessions were ended
-- ARGV[4…] fields of the session that stays (one for each token key that may have made it); none: no one stays
--
-- Returns 1 when something was there to be ended, else 0.
local userKey = KEYS[1]
local idleSeconds, lifeSecondsMax, endedChannel, firstField = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], 4

-- When a session was opened, and its last use in seconds after that.
local function timesOf(value)
  local issued, used = string.match(value, '^([%d%l]+)%u([%d%l]*)$')
  if issued then return tonumber(issued, 36), tonumber(used, 36) or 0 end
  issued, used = string.match(value, '^(%x+)%.(%x+)') -- as the version before wrote it
  return tonumber(issued, 16), tonumber(used, 16)
end

local kept = {}
for i = firstField, #ARGV do kept[ARGV[i]] = true end

local lastEnd, others = 0, {}
local flat = redis.call('HGETALL', userKey)
if #flat == 0 then return 0 end
for i = 1, #flat, 2 do
  local name, value = flat[i], flat[i + 1]
  if kept[name] then
    local issued, used = timesOf(value)
    lastEnd = math.min(issued + used + idleSeconds, issued + lifeSecondsMax)
  elseif string.find(name, ':', 1, true) then
    others[#others + 1] = name
  end
end

if lastEnd == 0 then
  redis.call('DEL', userKey)
elseif #others == 0 then
  return 0
else
  redis.call('HDEL', userKey, unpack(others))
  redis.call('EXPIREAT', userKey, lastEnd)
end
-- pcall: what has ended has ended, also where this Redis user may not use the channel.
redis.pcall('PUBLISH', endedChannel, string.match(userKey, '{(.-)}'))
return 1
