-- Gives a registered app new settings of the message push, in place of those it had, or takes them away.
--
-- KEYS[1]  app:<appid>
-- ARGV[1]  version of the app from now on
-- ARGV[2]  the settings, sealed; left out: it takes no pushes
--
-- Returns 'SET', or 'UNKNOWN' when there is no such app.
local appKey, version, sealed = KEYS[1], ARGV[1], ARGV[2]

if redis.call('HEXISTS', appKey, 'version') == 0 then return 'UNKNOWN' end
-- The version first: it is what a full Redis refuses, and nothing is half done then.
redis.call('HSET', appKey, 'version', version)
if sealed then redis.call('HSET', appKey, 'push', sealed) else redis.call('HDEL', appKey, 'push') end
return 'SET'
