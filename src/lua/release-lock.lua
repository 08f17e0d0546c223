-- Gives a lock back, if it is still the caller's.
--
-- KEYS[1]  wechat:token-lock:{<appid>}
-- ARGV[1]  owner
--
-- Returns 1, or 0 when the lock was another's or gone.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
