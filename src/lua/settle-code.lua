-- Records the success of a code, so that a retry of the same client gets the same session.
--
-- Success is not fenced: an owner that was stalled and lost its lease still holds what only WeChat could
-- have given it, and dropping that would waste the user's code. The first success stays.
--
-- KEYS[1]  code:<hash of appid and code>
-- ARGV[1]  value: from which the same client's token can be found again (no secret)
-- ARGV[2]  life of the record in milliseconds
-- ARGV[3]  bind
--
-- Returns 'SET', 'LOST' (another success was first) or 'OTHER_CLIENT'.
local key, value, lifeMs, bind = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]

local record = redis.call('HMGET', key, 'st', 'bind')
if record[1] == 'D' then return 'LOST' end
if record[2] and record[2] ~= bind then return 'OTHER_CLIENT' end
redis.call('HSET', key, 'st', 'D', 'val', value, 'bind', bind)
redis.call('PEXPIRE', key, lifeMs)
return 'SET'
