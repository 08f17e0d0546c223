/** The backends of deploy/examples/, which check JWTs by themselves: run as they are, where they can be. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { decodeProtectedHeader } from 'jose'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createClient } from './harness/client.ts'
import { newKey } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { encode, ISSUER, signEd25519, signingKeyOf } from './harness/jwt.ts'
import { NODE_ENVIRONMENT } from './harness/node-environment.ts'

const EXAMPLES = new URL('../deploy/examples/', import.meta.url).pathname
const START_TIMEOUT_MS = 15_000

/** The first Python of this machine that has what the example wants: the PATH's may be another than Debian's. */
function findPython(): string | undefined {
  return ['python3', '/usr/bin/python3'].find((python) => {
    try {
      execFileSync(python, ['-c', 'import jwt, cryptography'], { stdio: 'ignore' })
      return true
    } catch {
      return false
    }
  })
}

const python = findPython()
if (python === undefined)
  console.log('Not tested: verify_jwt.py, for no Python here has PyJWT and cryptography')

/** An example that listens on a port of its own. It ends with the test. */
async function startExample(command: string, file: string, env: Record<string, string>) {
  const child = spawn(command, [EXAMPLES + file], {
    env: { ...NODE_ENVIRONMENT, PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(async () => {
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  })
  const [text] = (await once(child.stdout, 'data', { signal: AbortSignal.timeout(START_TIMEOUT_MS) })) as [
    Buffer,
  ]
  const client = createClient(`http://127.0.0.1:${/listening on (\d+)/.exec(text.toString())?.[1]}`)
  onTestFinished(() => client.close())
  return client
}

async function makeJwt({ login, send, wechat }: Harness, audience: string) {
  const { token, sub } = (await login({ code: wechat.issueCode().code })).body
  const { body } = await send('POST', '/token', {
    headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
    body: JSON.stringify({ audience }),
  })
  return { session: token, jwt: body.token, sub }
}

describe.each([
  ['verify-jwt.mjs', process.execPath],
  ['verify_jwt.py', python],
] as const)('%s', (file, command = '') => {
  test.skipIf(command === '')('knows the user without asking the gateway, and nobody else', async () => {
    const tokenKey = newKey('t1')
    const harness = await startHarness({ env: { JWT_AUDIENCES: 'orders,stock', TOKEN_KEYS: tokenKey } })
    const JWKS_URL = `${harness.url}/.well-known/jwks.json`
    const orders = await startExample(command, file, { JWKS_URL, AUDIENCE: 'orders' })
    const { session, jwt, sub } = await makeJwt(harness, 'orders')

    expect(await orders.get('/', jwt)).toMatchObject({
      status: 200,
      body: { sub, appid: 'wx0123456789abcdef' },
    })

    const { kid } = decodeProtectedHeader(jwt)
    const [head = '', claims = '', signature = ''] = jwt.split('.')
    const said = JSON.parse(Buffer.from(claims, 'base64url').toString()) as Record<string, unknown>
    const ours = signingKeyOf(tokenKey)
    const header = { alg: 'EdDSA', typ: 'at+jwt', kid }
    const bad = {
      'for another service': (await makeJwt(harness, 'stock')).jwt,
      'a session token': session,
      nothing: '-',
      'alg none': `${encode({ ...header, alg: 'none' })}.${claims}.`,
      'another typ': signEd25519(ours, { ...header, typ: 'JWT' }, said),
      'another kid': signEd25519(ours, { ...header, kid: 'foreign' }, said),
      'another iss': signEd25519(ours, header, { ...said, iss: `${ISSUER}x` }),
      expired: signEd25519(ours, header, { ...said, exp: Number(said['iat']) - 1 }),
      'another sub': `${head}.${encode({ ...said, sub: 'another' })}.${signature}`,
      'too long': `${jwt}${'A'.repeat(4_000)}`,
    }
    for (const [what, token] of Object.entries(bad))
      expect((await orders.get('/', token)).status, what).toBe(401)
    expect((await orders.get('/')).status).toBe(401)
    expect((await orders.get('/', jwt)).status).toBe(200)
  })

  test.skipIf(command === '')('lets nobody in while the keys cannot be had', async () => {
    const harness = await startHarness({ env: { JWT_AUDIENCES: 'orders' } })
    const { jwt } = await makeJwt(harness, 'orders')
    for (const JWKS_URL of ['http://127.0.0.1:1/.well-known/jwks.json', `${harness.url}/nothing-here`]) {
      const orders = await startExample(command, file, { JWKS_URL, AUDIENCE: 'orders' })
      expect((await orders.get('/', jwt)).status).toBe(503)
    }
  })
})
