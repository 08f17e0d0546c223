-- Notes in the user's hash that the worker has provisioned the user. Does nothing to a user who has no
-- session any more: the hash must not come back to life. The fields are those of open-session.lua.
--
-- KEYS[1]  user:{<sub>}
-- ARGV[1]  user_id, packed (user-marks.ts)
-- ARGV[2]  unionid that was provisioned, or ''
--
-- Returns 1 noted, 2 noted but a newer unionid still waits for the worker, 0 no such user.
local userKey, userId, unionid = KEYS[1], ARGV[1], ARGV[2]
local epochSeconds, acknowledgedBit = 1577836800, 2 ^ 31

local user = redis.call('HMGET', userKey, 'o', 'u', 'm')
if not user[1] then return 0 end
local marks = user[3] or string.rep('\0', 12)
local exchange, provisioning = string.sub(marks, 1, 8), string.sub(marks, 9, 12)
local newerWaits = user[2] and user[2] ~= unionid
if not newerWaits then
  provisioning = struct.pack('>I4', redis.call('TIME')[1] - epochSeconds + acknowledgedBit)
end
redis.call('HSET', userKey, 'm', exchange .. provisioning .. userId)
-- Of the version before: they would count.
redis.call('HDEL', userKey, 'i')
if newerWaits then return 2 end
redis.call('HDEL', userKey, 'g')
return 1
