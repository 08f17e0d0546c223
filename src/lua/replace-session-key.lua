-- Puts a session_key that WeChat has renewed by our order into the user's hash. The one before it becomes the
-- previous one; the sessions stay as they are. The fields are those of open-session.lua.
--
-- KEYS[1]  user:{<sub>}
-- ARGV[1]  session_key, sealed       ARGV[2]  its fingerprint
-- ARGV[3]  when the order began, unix ms of this Redis, base 36 (8 digits)
--
-- Returns 1 replaced, 2 a newer key is held, 0 no such user.
local userKey, sealedKey, fingerprint, start = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local startDigits = 8

local user = redis.call('HMGET', userKey, 'o', 'k', 'x')
if not user[1] then return 0 end
local held = user[3] or ''
if tonumber(start, 36) < (tonumber(string.sub(held, 1, startDigits), 36) or 0) then return 2 end

if user[2] and string.sub(held, startDigits + 1) ~= fingerprint then redis.call('HSET', userKey, 'p', user[2]) end
redis.call('HSET', userKey, 'k', sealedKey, 'x', start .. fingerprint)
return 1
