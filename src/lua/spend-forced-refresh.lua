-- Asks whether WeChat may be asked now for a new access_token by force, and counts it if so. The list holds
-- when that was done last, newest first: so no day, wherever it begins, sees more than it may.
--
-- KEYS[1]  wechat:token-forced:{<appid>}
-- ARGV[1]  milliseconds between two
-- ARGV[2]  how many in 24 hours
--
-- Returns 0 it may, else the milliseconds until it may.
local key, gapMs, perDay = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local dayMs = 86400000

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last, oldest = redis.call('LINDEX', key, 0), redis.call('LINDEX', key, perDay - 1)
if last and now - last < gapMs then return last + gapMs - now end
if oldest and now - oldest < dayMs then return oldest + dayMs - now end

redis.call('LPUSH', key, string.format('%d', now))
redis.call('LTRIM', key, 0, perDay - 1)
redis.call('PEXPIRE', key, dayMs)
return 0
