-- Claims a code for one caller, so that it is sent to WeChat by one process at a time.
--
-- KEYS[1]  code:<hash of appid and code>
-- ARGV[1]  owner, random per flight
-- ARGV[2]  bind: hash of what ties a retry to the client that began (nonce, or user agent and address)
-- ARGV[3]  lease in milliseconds: how long the owner may be silent before somebody else may take over
-- ARGV[4]  life of the record in milliseconds
-- ARGV[5]  how many leaders may be lost: after so many that went silent the code is given up
--
-- The record:  st   P pending, D done, N refused for good, R given back
--              own  owner,  bind,  gen  how often it was led,  lease  unix ms,  val  the outcome of D or N
--              used  how many leaders went silent, each of whom may have used the code up
--
-- Returns {'LEAD', generation, now in unix ms, used}        exchange it; now is the start of the exchange
--         {'WAIT', rest of the lease in ms}      somebody else is exchanging it: ask again
--         {'SETTLED', value}                     done, for this client
--         {'REFUSED', value}                     WeChat refused it (value: error code and errcode)
--         {'OTHER_CLIENT'}                       done or pending for somebody else
--         {'EXHAUSTED'}                          led too often
local key, owner, bind = KEYS[1], ARGV[1], ARGV[2]
local leaseMs, lifeMs, leadsMax = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local record = redis.call('HMGET', key, 'st', 'bind', 'val', 'gen', 'lease', 'own', 'used')
local state, boundTo, value = record[1], record[2], record[3]
local generation, leaseEnd, heldBy, used = tonumber(record[4]), tonumber(record[5]), record[6], tonumber(record[7]) or 0

if not state then
  redis.call('HSET', key, 'st', 'P', 'own', owner, 'bind', bind, 'gen', 1, 'lease', now + leaseMs)
  redis.call('PEXPIRE', key, lifeMs)
  return { 'LEAD', 1, now, 0 }
end

if state == 'N' then return { 'REFUSED', value } end

-- A code that was given back has no outcome that belongs to anybody, and a phone may have changed its
-- network since: any client may try it again. In every other state it stays with the client that began.
if state ~= 'R' and boundTo ~= bind then return { 'OTHER_CLIENT' } end

if state == 'D' then return { 'SETTLED', value } end

-- The owner asks again: its first answer was lost on the way. It leads already.
if state == 'P' and heldBy == owner then return { 'LEAD', generation, now, used } end

if state == 'R' or now >= leaseEnd then
  -- Leaders that gave the code back do not count: it was not at WeChat, and their clients were told to send it again.
  if state == 'P' and used + 1 >= leadsMax then return { 'EXHAUSTED' } end
  redis.call('HSET', key, 'st', 'P', 'own', owner, 'bind', bind, 'gen', generation + 1, 'lease', now + leaseMs)
  if state == 'P' then
    used = used + 1 -- nobody knows how far the silent one has come
    redis.call('HSET', key, 'used', used)
  end
  redis.call('PEXPIRE', key, lifeMs)
  return { 'LEAD', generation + 1, now, used }
end

return { 'WAIT', leaseEnd - now }
