-- Opens a session of a user: one script, one slot, so that no other process sees half of it.
--
-- KEYS[1]  user:{<sub>}                    KEYS[2]  limit:login_per_user:{<sub>}
-- KEYS[3]  block:{<sub>}
-- ARGV[1]  appid    ARGV[2]  openid        ARGV[3]  unionid, or '' when WeChat gave none
-- ARGV[4]  session_key, sealed             ARGV[5]  its exchange, 8 bytes: start and fingerprint (user-marks.ts)
-- ARGV[6]  the fingerprint alone, as text (equal keys, equal fingerprints)
-- ARGV[7]  field of the session            ARGV[8]  letter of the device
-- ARGV[9]  seconds a session lives unused   ARGV[10] sessions a user may hold
-- ARGV[11] seconds after which a provisioned user is provisioned again
-- ARGV[12] logins a user may make in a minute
-- ARGV[13] seconds a session lives at most   ARGV[14] channel that hears of users whose sessions were ended
-- ARGV[15…] fields of the session that the client held before, if any: this login ends it
--
-- The hash:  a appid, o openid, u unionid
--            k session_key (sealed), p the session_key before it
--            m exchange of k, provisioning, user_id: packed (user-marks.ts)
--            <kid>:<hash of the secret>  one a session (session-value.ts)
-- So short that a user with a unionid and one session fits the 224 bytes that Redis allots.
-- By the version before, in place of parts of m:
--            x "<exchange start, unix ms, base 36, 8 digits><fingerprint as text>", i user_id
--            g e<unix s> queued for provisioning then, a<unix s> acknowledged by the worker then
--
-- Returns {'OPENED', 1 if provisioning is due, 1 if the worker has given a user_id, unionid or ''}
--         {'LIMITED', ms until the user may log in again}
--         {'BLOCKED'}
local userKey, limitKey, blockKey = KEYS[1], KEYS[2], KEYS[3]
local unionid, sealedKey, exchange, fingerprint = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local field, device, idleSeconds, sessionsMax = ARGV[7], ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])
local refreshSeconds, loginsMax, lifeSecondsMax = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local endedChannel, firstReplaced = ARGV[14], 15
local limitWindowSeconds, epochSeconds, acknowledgedBit = 60, 1577836800, 2 ^ 31

-- When a session was opened, and its last use in seconds after that.
local function timesOf(value)
  local issued, used = string.match(value, '^([%d%l]+)%u([%d%l]*)$')
  if issued then return tonumber(issued, 36), tonumber(used, 36) or 0 end
  issued, used = string.match(value, '^(%x+)%.(%x+)') -- as the version before wrote it
  return tonumber(issued, 16), tonumber(used, 16)
end

local function base36(number)
  local digits = ''
  while number > 0 do
    local digit = number % 36
    digits = string.sub('0123456789abcdefghijklmnopqrstuvwxyz', digit + 1, digit + 1) .. digits
    number = (number - digit) / 36
  end
  return digits
end

-- First a write that a full Redis refuses: nothing below can then be half done.
local logins = redis.call('INCR', limitKey)
if logins == 1 then redis.call('EXPIRE', limitKey, limitWindowSeconds) end
if logins > loginsMax then return { 'LIMITED', redis.call('PTTL', limitKey) } end
if redis.call('EXISTS', blockKey) == 1 then return { 'BLOCKED' } end

local now = tonumber(redis.call('TIME')[1])
local flat = redis.call('HGETALL', userKey)
local user, sessions, gone, replaced = {}, {}, {}, {}
local endedAny = false
for i = firstReplaced, #ARGV do replaced[ARGV[i]] = true end
for i = 1, #flat, 2 do
  local name, value = flat[i], flat[i + 1]
  if not string.find(name, ':', 1, true) then
    user[name] = value
  elseif name ~= field then
    local issued, used = timesOf(value)
    local sessionEnd = math.min(issued + used + idleSeconds, issued + lifeSecondsMax)
    if sessionEnd <= now then
      gone[#gone + 1] = name
    elseif replaced[name] then
      gone[#gone + 1] = name
      endedAny = true
    else
      sessions[#sessions + 1] = { name = name, issued = issued }
    end
  end
end

-- The oldest make room for the new one.
if #sessions >= sessionsMax then
  table.sort(sessions, function(a, b)
    if a.issued ~= b.issued then return a.issued > b.issued end
    return a.name < b.name
  end)
  for i = #sessions, sessionsMax, -1 do
    gone[#gone + 1] = sessions[i].name
    endedAny = true
  end
end

local write = { 'a', ARGV[1], 'o', ARGV[2], field, base36(now) .. device }
local function set(name, value)
  write[#write + 1] = name
  write[#write + 1] = value
end

local marks = user.m or string.rep('\0', 12)
local heldExchange, provisioning, userId = string.sub(marks, 1, 8), string.sub(marks, 9, 12), string.sub(marks, 13)

-- A result that arrives late never replaces a newer key. An equal key is sealed afresh, and the one before
-- it stays: WeChat gives the same key again when logins follow each other quickly.
-- As numbers: Lua would compare text by the collation of the server's locale.
local function startOf(packed)
  local high, low = struct.unpack('>BI4', packed)
  return high * 2 ^ 32 + low
end
local heldSince, heldFingerprint = startOf(heldExchange), string.sub(heldExchange, 6)
local ownFingerprint = string.sub(exchange, 6)
if user.x then
  heldSince = (tonumber(string.sub(user.x, 1, 8), 36) or 0) - epochSeconds * 1000
  heldFingerprint, ownFingerprint = string.sub(user.x, 9), fingerprint
end
if startOf(exchange) >= heldSince then
  if user.k and heldFingerprint ~= ownFingerprint then set('p', user.k) end
  set('k', sealedKey)
  heldExchange = exchange
  if user.x then gone[#gone + 1] = 'x' end
end

local due, stamp = 1, struct.unpack('>I4', provisioning)
if user.g then
  stamp = tonumber(string.sub(user.g, 2), 16) - epochSeconds
  if string.sub(user.g, 1, 1) == 'a' then stamp = stamp + acknowledgedBit end
  gone[#gone + 1] = 'g'
end
if unionid ~= '' and unionid ~= user.u then
  set('u', unionid)
  stamp = 0 -- the worker has to hear of the unionid, also of a user it knows
end
if stamp == 0 then
  stamp = now - epochSeconds
elseif stamp >= acknowledgedBit and now - (stamp - acknowledgedBit + epochSeconds) < refreshSeconds then
  due = 0
end
set('m', heldExchange .. struct.pack('>I4', stamp) .. userId)

redis.call('HSET', userKey, unpack(write))
if #gone > 0 then redis.call('HDEL', userKey, unpack(gone)) end
-- The other sessions were used before now, so none of them outlives this one.
redis.call('EXPIREAT', userKey, now + math.min(idleSeconds, lifeSecondsMax))
-- pcall: the session is open, also where this Redis user may not use the channel.
if endedAny then redis.pcall('PUBLISH', endedChannel, string.match(userKey, '{(.-)}')) end
local known = (user.i or userId ~= '') and 1 or 0
return { 'OPENED', due, known, unionid ~= '' and unionid or user.u or '' }
