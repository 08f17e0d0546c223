-- Forward auth for HAProxy (haproxy.cfg): asks the gateway's /auth who the bearer is. Sets X-Auth-* for the backend
-- when it says, and txn.auth_status (200, 401 or 503) and txn.auth_body (a problem document) for the rules.
--
-- Fails closed: whatever is not a 200 or a 401 of the gateway is a 503.

local AUTH_URL = "http://" .. os.getenv("GATEWAY") .. "/auth"
-- Of one try; HAProxy tries four times.
local TIMEOUT_MS = 500
local PASSED_ON = { "x-auth-subject", "x-auth-appid", "x-auth-openid", "x-auth-unionid" }

local UNAVAILABLE = '{"type":"urn:wechat-login-gateway:error:store_unavailable",'
  .. '"title":"The session store cannot be reached.","status":503,"code":"store_unavailable","retry":"same_code"}'

local function ask(authorization)
  -- The token is all it needs.
  local asked, answer = pcall(function()
    return core.httpclient():get({
      url = AUTH_URL,
      headers = {
        ["authorization"] = { authorization },
        -- For a backend of one Mini Program: tokens of others do not count.
        -- ["x-auth-require-appid"] = { "wx0123456789abcdef" },
      },
      timeout = TIMEOUT_MS,
    })
  end)
  if asked and answer ~= nil then return answer end
  return { status = 503, headers = {} }
end

core.register_action("forward_auth", { "http-req" }, function(txn)
  local given = txn.http:req_get_headers()["authorization"]
  local answer = ask(given and given[0] or "")
  if answer.status == 200 then
    for _, name in ipairs(PASSED_ON) do
      local values = answer.headers[name]
      if values then txn.http:req_set_header(name, values[0]) end
    end
    txn:set_var("txn.auth_status", 200)
  elseif answer.status == 401 then
    txn:set_var("txn.auth_status", 401)
    txn:set_var("txn.auth_body", answer.body)
  else
    txn:set_var("txn.auth_status", 503)
    txn:set_var("txn.auth_body", UNAVAILABLE)
  end
end, 0)
