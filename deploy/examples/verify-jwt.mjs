/**
 * A backend that knows its users without asking the gateway: it checks the JWT of POST /token by itself.
 * Needs the package jose. Run: AUDIENCE=orders JWKS_URL=http://gateway:3000/.well-known/jwks.json node verify-jwt.mjs
 *
 *   JWKS_URL   where the gateway publishes its keys
 *   AUDIENCE   this service, as in the gateway's JWT_AUDIENCES
 *   ISSUER     the gateway's JWT_ISSUER
 *   PORT       0 takes a free one
 *
 * What it does not know: whether the user has logged out in the last minutes (JWT_TTL_SECONDS). Where that
 * matters, ask the gateway's /auth instead.
 */
import { createServer } from 'node:http'
import { createRemoteJWKSet, jwtVerify } from 'jose'

const { JWKS_URL = '', AUDIENCE = '', ISSUER = 'urn:wechat-login-gateway', PORT = '8080' } = process.env
if (JWKS_URL === '' || AUDIENCE === '') throw new Error('JWKS_URL and AUDIENCE are required')

/** Kept for ten minutes; an unknown kid makes it look again, at most once in 30 s. */
const keys = createRemoteJWKSet(new URL(JWKS_URL), {
  timeoutDuration: 2_000,
  cacheMaxAge: 600_000,
  cooldownDuration: 30_000,
})

/** What jose says when the token is at fault, and not the way to the keys. */
const TOKEN_FAULT = /^ERR_(JWT_|JWS_|JWKS_NO_MATCHING_KEY$|JOSE_ALG_NOT_ALLOWED$|JOSE_NOT_SUPPORTED$)/

/** Who sends this; undefined for whatever is not a token of the gateway for us. Throws when there are no keys. */
async function bearerOf(authorization = '') {
  const [, token] = /^Bearer ([\w.-]{1,2048})$/i.exec(authorization) ?? []
  if (token === undefined) return undefined
  try {
    const { payload } = await jwtVerify(token, keys, {
      algorithms: ['EdDSA'], // never what the token says by itself
      typ: 'at+jwt',
      issuer: ISSUER,
      audience: AUDIENCE,
      requiredClaims: ['sub', 'exp'],
    })
    return payload
  } catch (error) {
    if (TOKEN_FAULT.test(error.code)) return undefined
    throw error
  }
}

async function answer(request, response) {
  try {
    const bearer = await bearerOf(request.headers.authorization)
    if (bearer === undefined) response.writeHead(401, { 'www-authenticate': 'Bearer' }).end()
    else
      response
        .writeHead(200, { 'content-type': 'application/json' })
        .end(JSON.stringify({ sub: bearer.sub, appid: bearer.appid }))
  } catch {
    response.writeHead(503, { 'retry-after': '1' }).end() // the keys cannot be had; nobody is let in for that
  }
}

const server = createServer((request, response) => void answer(request, response))
server.listen(Number(PORT), '127.0.0.1', () => console.log(`listening on ${server.address().port}`))
