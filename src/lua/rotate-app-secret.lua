-- Gives a registered app a new secret; the one it had stays valid as the previous one. Sent again with the
-- secret that the app has already, it changes nothing but, if so asked, ends the previous one.
--
-- KEYS[1]  app:<appid>
-- ARGV[1]  the new secret, sealed     ARGV[2]  its fingerprint
-- ARGV[3]  '1': end the previous one  ARGV[4]  version of the app from now on
--
-- Returns 'ROTATED', or 'UNKNOWN' when there is no such app.
local appKey, sealed, fingerprint, endPrevious, version = KEYS[1], ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4]

local app = redis.call('HMGET', appKey, 'version', 'secret', 'fingerprint')
if not app[1] then return 'UNKNOWN' end
-- The version first: it is what a full Redis refuses, and nothing is half done then.
redis.call('HSET', appKey, 'version', version)
if app[3] ~= fingerprint then
  redis.call('HSET', appKey, 'previous', app[2], 'previous_fingerprint', app[3])
  redis.call('HSET', appKey, 'secret', sealed, 'fingerprint', fingerprint)
end
if endPrevious then redis.call('HDEL', appKey, 'previous', 'previous_fingerprint') end
return 'ROTATED'
