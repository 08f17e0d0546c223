-- Notes in the user's hash that the worker has provisioned the user. Does nothing to a user who has no
-- session any more: the hash must not come back to life.
--
-- KEYS[1]  user:{<sub>}
-- ARGV[1]  user_id, in the short form of user-id.ts
-- ARGV[2]  unionid that was provisioned, or ''
--
-- Returns 1 noted, 2 noted but a newer unionid still waits for the worker, 0 no such user.
local userKey, userId, unionid = KEYS[1], ARGV[1], ARGV[2]

local user = redis.call('HMGET', userKey, 'o', 'u')
if not user[1] then return 0 end
if user[2] and user[2] ~= unionid then
  redis.call('HSET', userKey, 'i', userId)
  return 2
end
redis.call('HSET', userKey, 'i', userId, 'g', string.format('a%x', redis.call('TIME')[1]))
return 1
