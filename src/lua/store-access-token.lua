-- Keeps a new access_token and gives the lock back, if the lock is still the caller's: whoever has lost it
-- has been overtaken, and the other's token may be the newer one.
--
-- KEYS[1]  wechat:token:{<appid>}     KEYS[2]  wechat:token-lock:{<appid>}
-- ARGV[1]  owner of the lock          ARGV[2]  the access_token, sealed
-- ARGV[3]  its life in milliseconds
--
-- The hash: t access_token (sealed), e when it ends, unix ms
--
-- Returns 1 kept, 0 the lock was lost.
local tokenKey, lockKey = KEYS[1], KEYS[2]
local owner, sealedToken, lifeMs = ARGV[1], ARGV[2], tonumber(ARGV[3])

if redis.call('GET', lockKey) ~= owner then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', tokenKey, 't', sealedToken, 'e', string.format('%d', now + lifeMs))
redis.call('PEXPIRE', tokenKey, lifeMs)
redis.call('DEL', lockKey)
return 1
