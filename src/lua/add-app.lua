-- Registers an app, unless it is registered already.
--
-- KEYS[1]  app:<appid>
-- ARGV[1…] fields and values, in turn (apps.ts says which)
--
-- Returns {'ADDED'}
--         {'EXISTS', version of the app that is there}
local appKey = KEYS[1]

local version = redis.call('HGET', appKey, 'version')
if version then return { 'EXISTS', version } end
redis.call('HSET', appKey, unpack(ARGV))
return { 'ADDED' }
