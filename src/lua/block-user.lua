-- Blocks a user: ends all their sessions and keeps them from opening another. In this order it works on a
-- Redis that is full as well: a script that has taken something away may add.
--
-- KEYS[1]  user:{<sub>}    KEYS[2]  block:{<sub>}
-- ARGV[1]  what is noted of the block      ARGV[2]  seconds it lasts; 0: until it is lifted
-- ARGV[3]  channel that hears of users whose sessions were ended
--
-- Returns 1 when the user was logged in, else 0.
local userKey, blockKey, note, seconds, endedChannel = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]), ARGV[3]

local loggedIn = redis.call('DEL', userKey)
if seconds > 0 then
  redis.call('SET', blockKey, note, 'EX', seconds)
else
  redis.call('SET', blockKey, note)
end
-- pcall: what has ended has ended, also where this Redis user may not use the channel.
redis.pcall('PUBLISH', endedChannel, string.match(userKey, '{(.-)}'))
return loggedIn
