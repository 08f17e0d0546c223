-- Notes that a session is in use, which prolongs it and, where needed, the hash it stands in. A session that
-- has been ended does not come back.
--
-- KEYS[1]  user:{<sub>}
-- ARGV[1]  field of the session
-- ARGV[2]  seconds a session lives unused   ARGV[3]  seconds a session lives at most
-- ARGV[4]  seconds that must have passed since the last note
--
-- Returns 1 noted, 0 noted a moment ago or no such session.
local userKey, field = KEYS[1], ARGV[1]
local idleSeconds, lifeSecondsMax, stepSeconds = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local value = redis.call('HGET', userKey, field)
if not value then return 0 end
local issuedHex, usedHex, device = string.match(value, '^(%x+)%.(%x+)%.(.*)$')
local issued = tonumber(issuedHex, 16)
local used, lastEnd = issued + tonumber(usedHex, 16), issued + lifeSecondsMax
local now = tonumber(redis.call('TIME')[1])
if math.min(used + idleSeconds, lastEnd) <= now or now - used < stepSeconds then return 0 end

redis.call('HSET', userKey, field, string.format('%x.%x.%s', issued, now - issued, device))
local sessionEnd = math.min(now + idleSeconds, lastEnd)
if redis.call('TTL', userKey) < sessionEnd - now then redis.call('EXPIREAT', userKey, sessionEnd) end
return 1
