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

local function base36(number)
  local digits = ''
  while number > 0 do
    local digit = number % 36
    digits = string.sub('0123456789abcdefghijklmnopqrstuvwxyz', digit + 1, digit + 1) .. digits
    number = (number - digit) / 36
  end
  return digits
end

local value = redis.call('HGET', userKey, field)
if not value then return 0 end
local issuedText, device, usedText = string.match(value, '^([%d%l]+)(%u)([%d%l]*)$')
local issued, usedAfter
if issuedText then
  issued, usedAfter = tonumber(issuedText, 36), tonumber(usedText, 36) or 0
else -- as the version before wrote it
  issuedText, usedText, device = string.match(value, '^(%x+)%.(%x+)%.(.*)$')
  issued, usedAfter, device = tonumber(issuedText, 16), tonumber(usedText, 16), string.upper(device)
end
local used, lastEnd = issued + usedAfter, issued + lifeSecondsMax
local now = tonumber(redis.call('TIME')[1])
if math.min(used + idleSeconds, lastEnd) <= now or now - used < stepSeconds then return 0 end

redis.call('HSET', userKey, field, base36(issued) .. device .. base36(now - issued))
local sessionEnd = math.min(now + idleSeconds, lastEnd)
if redis.call('TTL', userKey) < sessionEnd - now then redis.call('EXPIREAT', userKey, sessionEnd) end
return 1
