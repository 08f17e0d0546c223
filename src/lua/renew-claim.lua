-- Tells that the owner of a claim is still at work.
--
-- KEYS[1]  code:<hash of appid and code>
-- ARGV[1]  owner
-- ARGV[2]  end of the lease in unix ms, as the owner reckoned it when it sent this. Not a duration: a Redis that hung
--          reads what was sent to it seconds ago, and must not give a lease to whoever has gone since.
--
-- Returns 1, or 0 when the claim is no longer this owner's.
local key, owner, leaseEnd = KEYS[1], ARGV[1], ARGV[2]

local record = redis.call('HMGET', key, 'own', 'st')
if record[1] ~= owner or record[2] ~= 'P' then return 0 end
redis.call('HSET', key, 'lease', leaseEnd)
return 1
