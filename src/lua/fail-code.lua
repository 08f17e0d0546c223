-- Ends a claim without success: gives the code back, or keeps the refusal for the code's retries.
-- Fenced: only the present owner may, and only while the claim is pending.
--
-- KEYS[1]  code:<hash of appid and code>
-- ARGV[1]  owner
-- ARGV[2]  'R' give the code back, 'N' keep the refusal
-- ARGV[3]  value: error code and errcode, for 'N'
-- ARGV[4]  life of the record in milliseconds
--
-- Returns 'SET' or 'STALE'.
local key, owner, state, value, lifeMs = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local record = redis.call('HMGET', key, 'own', 'st')
if record[1] ~= owner or record[2] ~= 'P' then return 'STALE' end
redis.call('HSET', key, 'st', state, 'val', value)
redis.call('PEXPIRE', key, lifeMs)
return 'SET'
