-- Takes away what Redis knows of a user who is to be forgotten: sessions, session_key, ids, and the count of
-- their logins. A block stays. Adds nothing, so it works on a Redis that is full.
--
-- KEYS[1]  user:{<sub>}    KEYS[2]  limit:login_per_user:{<sub>}
-- ARGV[1]  channel that hears of users whose sessions were ended
--
-- Returns {when, unix ms of this Redis; sessions that were there}
local userKey, limitKey, endedChannel = KEYS[1], KEYS[2], ARGV[1]

local sessions = 0
for _, name in ipairs(redis.call('HKEYS', userKey)) do
  if string.find(name, ':', 1, true) then sessions = sessions + 1 end
end
redis.call('DEL', userKey, limitKey)
-- pcall: what is gone is gone, also where this Redis user may not use the channel.
redis.pcall('PUBLISH', endedChannel, string.match(userKey, '{(.-)}'))
local time = redis.call('TIME')
return { time[1] * 1000 + math.floor(time[2] / 1000), sessions }
