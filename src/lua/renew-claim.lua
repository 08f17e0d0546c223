-- Tells that the owner of a claim is still at work.
--
-- KEYS[1]  code:<hash of appid and code>
-- ARGV[1]  owner
-- ARGV[2]  lease in milliseconds
--
-- Returns 1, or 0 when the claim is no longer this owner's.
local key, owner, leaseMs = KEYS[1], ARGV[1], tonumber(ARGV[2])

local record = redis.call('HMGET', key, 'own', 'st')
if record[1] ~= owner or record[2] ~= 'P' then return 0 end
local time = redis.call('TIME')
redis.call('HSET', key, 'lease', time[1] * 1000 + math.floor(time[2] / 1000) + leaseMs)
return 1
