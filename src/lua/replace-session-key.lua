-- Puts a session_key that WeChat has renewed by our order into the user's hash. The one before it becomes the
-- previous one; the sessions stay as they are. The fields are those of open-session.lua.
--
-- KEYS[1]  user:{<sub>}
-- ARGV[1]  session_key, sealed
-- ARGV[2]  the order, 8 bytes: when it began and the fingerprint of the key (user-marks.ts)
-- ARGV[3]  the fingerprint alone, as text
--
-- Returns 1 replaced, 2 a newer key is held, 0 no such user.
local userKey, sealedKey, exchange, fingerprint = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local epochSeconds = 1577836800

local user = redis.call('HMGET', userKey, 'o', 'k', 'm', 'x')
if not user[1] then return 0 end
local function startOf(packed)
  local high, low = struct.unpack('>BI4', packed)
  return high * 2 ^ 32 + low
end
local marks = user[3] or string.rep('\0', 12)
local heldSince, heldFingerprint, ownFingerprint = startOf(marks), string.sub(marks, 6, 8), string.sub(exchange, 6)
if user[4] then -- of the version before
  heldSince = (tonumber(string.sub(user[4], 1, 8), 36) or 0) - epochSeconds * 1000
  heldFingerprint, ownFingerprint = string.sub(user[4], 9), fingerprint
end
if startOf(exchange) < heldSince then return 2 end

if user[2] and heldFingerprint ~= ownFingerprint then redis.call('HSET', userKey, 'p', user[2]) end
redis.call('HSET', userKey, 'k', sealedKey, 'm', exchange .. string.sub(marks, 9))
if user[4] then redis.call('HDEL', userKey, 'x') end
return 1
