-- Opens a session of a user: one script, one slot, so that no other process sees half of it.
--
-- KEYS[1]  user:{<sub>}                    KEYS[2]  limit:login_per_user:{<sub>}
-- KEYS[3]  block:{<sub>}
-- ARGV[1]  appid    ARGV[2]  openid        ARGV[3]  unionid, or '' when WeChat gave none
-- ARGV[4]  session_key, sealed             ARGV[5]  its fingerprint (equal keys, equal fingerprints)
-- ARGV[6]  when the exchange began, unix ms of this Redis, base 36 (8 digits)
-- ARGV[7]  field of the session            ARGV[8]  device
-- ARGV[9]  seconds a session lives unused   ARGV[10] sessions a user may hold
-- ARGV[11] seconds after which a provisioned user is provisioned again
-- ARGV[12] logins a user may make in a minute
-- ARGV[13] seconds a session lives at most   ARGV[14] channel that hears of users whose sessions were ended
-- ARGV[15…] fields of the session that the client held before, if any: this login ends it
--
-- The hash:  a appid, o openid, u unionid
--            k session_key (sealed), x "<exchange start, 8 digits><fingerprint>", p the session_key before it
--            g  e<unix s> queued for provisioning then, a<unix s> acknowledged by the worker then
--            i user_id once provisioned
--            <kid>:<hash of the secret>  "<issued unix s>.<last use, s after that>.<device>", one a session
-- Seconds are hexadecimal: a user with unionid and one session then fits the 256 bytes that Redis allots.
--
-- Returns {'OPENED', 1 if provisioning is due, user_id or '', unionid or ''}
--         {'LIMITED', ms until the user may log in again}
--         {'BLOCKED'}
local userKey, limitKey, blockKey = KEYS[1], KEYS[2], KEYS[3]
local unionid, sealedKey, fingerprint, exchangeStart = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local field, device, idleSeconds, sessionsMax = ARGV[7], ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])
local refreshSeconds, loginsMax, lifeSecondsMax = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local endedChannel, firstReplaced = ARGV[14], 15
local limitWindowSeconds, exchangeStartDigits = 60, 8

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
    local issuedHex, usedHex = string.match(value, '^(%x+)%.(%x+)')
    local issued = tonumber(issuedHex, 16)
    local sessionEnd = math.min(issued + tonumber(usedHex, 16) + idleSeconds, issued + lifeSecondsMax)
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

local write = { 'a', ARGV[1], 'o', ARGV[2], field, string.format('%x.0.%s', now, device) }
local function set(name, value)
  write[#write + 1] = name
  write[#write + 1] = value
end

-- A result that arrives late never replaces a newer key. An equal key is sealed afresh, and the one before
-- it stays: WeChat gives the same key again when logins follow each other quickly.
local held = user.x or ''
local heldSince, heldFingerprint = string.sub(held, 1, exchangeStartDigits), string.sub(held, exchangeStartDigits + 1)
-- As numbers: Lua would compare text by the collation of the server's locale.
if tonumber(exchangeStart, 36) >= (tonumber(heldSince, 36) or 0) then
  if user.k and heldFingerprint ~= fingerprint then set('p', user.k) end
  set('k', sealedKey)
  set('x', exchangeStart .. fingerprint)
end

local due, provision = 1, user.g
if unionid ~= '' and unionid ~= user.u then
  set('u', unionid)
  provision = nil -- the worker has to hear of the unionid, also of a user it knows
end
if not provision then
  set('g', string.format('e%x', now))
elseif string.sub(provision, 1, 1) == 'a' and now - tonumber(string.sub(provision, 2), 16) < refreshSeconds then
  due = 0
end

redis.call('HSET', userKey, unpack(write))
if #gone > 0 then redis.call('HDEL', userKey, unpack(gone)) end
-- The other sessions were used before now, so none of them outlives this one.
redis.call('EXPIREAT', userKey, now + math.min(idleSeconds, lifeSecondsMax))
-- pcall: the session is open, also where this Redis user may not use the channel.
if endedAny then redis.pcall('PUBLISH', endedChannel, string.match(userKey, '{(.-)}')) end
return { 'OPENED', due, user.i or '', unionid ~= '' and unionid or user.u or '' }
