/** Many Mini Programs behind one gateway: those of the configuration, and those added while it runs. */
import { describe, expect, onTestFinished, test } from 'vitest'
import { startSimulator } from './simulator/server.ts'
import { createAppsAdmin, newApp, newWechatApp } from './harness/apps-admin.ts'
import { faultsOf, writeTemporary } from './harness/configuration.ts'
import { APP_SECRET, APPID, gatewayEnvironment, newKey, SIMULATED } from './harness/environment.ts'
import { startHarness } from './harness/gateway.ts'
import type { Harness, HarnessOptions } from './harness/gateway.ts'
import { startGatewayProcess } from './harness/processes.ts'
import { until } from './harness/until.ts'

/** The promise: what is done to the apps on one gateway counts on every other one after this. */
const LIVE_MS = 2_000

async function startWithAdmin(options: HarnessOptions = {}) {
  const harness = await startHarness(options)
  return { ...harness, apps: createAppsAdmin(harness) }
}

function logIn({ wechat, login }: Pick<Harness, 'wechat' | 'login'>, appid: string, issuedFor = appid) {
  return login({ code: wechat.issueCode({ appid: issuedFor }).code, appid })
}

describe('an app added at run time', () => {
  test('is live on three gateways within 2 s, as are its new secret and its end, and it outlives a restart', async () => {
    const wechat = await startSimulator(SIMULATED)
    onTestFinished(() => wechat.close())
    const env = gatewayEnvironment(wechat)
    const gateways = await Promise.all([0, 1, 2].map(() => startGatewayProcess(env)))
    const [first] = gateways
    if (first === undefined) throw new RangeError('no gateway')
    const admin = createAppsAdmin({ admin: first.admin, env })
    const { appid, secret } = newWechatApp(wechat)
    const everywhere = async (what: string, status: number) => {
      await until(
        what,
        async () => {
          const replies = await Promise.all(gateways.map(({ login }) => logIn({ wechat, login }, appid)))
          return replies.every((reply) => reply.status === status)
        },
        LIVE_MS,
      )
    }

    expect((await logIn({ wechat, login: first.login }, appid)).body.code).toBe('appid_unknown')
    expect((await admin.add({ appid, secret })).status).toBe(201)
    expect((await logIn({ wechat, login: first.login }, appid)).status).toBe(200)
    await everywhere('its logins everywhere', 200)

    const newSecret = newApp().secret
    wechat.putApp({ appid, secrets: [newSecret] })
    expect((await admin.rotate(appid, { secret: newSecret, end_previous: true })).status).toBe(200)
    await everywhere('logins with the new secret everywhere', 200)

    const restarted = await startGatewayProcess(env)
    expect((await logIn({ wechat, login: restarted.login }, appid)).status).toBe(200)

    expect((await admin.remove(appid)).status).toBe(204)
    await everywhere('its end everywhere', 400)
    expect(gateways.map(({ output }) => output()).join('')).not.toMatch(new RegExp(`${secret}|${newSecret}`))
  })

  test('is listed beside the configured one, and no secret is shown', async () => {
    const { apps, wechat } = await startWithAdmin()
    const { appid, secret } = newWechatApp(wechat)
    const added = await apps.add({ appid, secret, limits: { exchange_per_minute: 7 } })
    const listed = await apps.list()

    expect(listed).toEqual([
      {
        appid: APPID,
        kind: 'wechat',
        source: 'static',
        login_enabled: true,
        limits: {},
        secrets: [{ fingerprint: expect.stringMatching(/^[0-9a-f]{8}$/) }],
        usable: true,
      },
      {
        appid,
        kind: 'wechat',
        source: 'runtime',
        login_enabled: true,
        limits: { exchange_per_minute: 7 },
        secrets: [{ fingerprint: expect.stringMatching(/^[0-9a-f]{8}$/) }],
        usable: true,
        created_at: expect.closeTo(Date.now() / 1000, -1),
      },
    ])
    expect(added.body).toEqual(listed[1])
    expect(JSON.stringify(listed)).not.toMatch(new RegExp(`${secret}|${APP_SECRET}`))
  })

  test('has to be named by its clients, not by those of the configured app, and its codes are worth nothing there', async () => {
    const harness = await startWithAdmin()
    const { appid, secret } = newWechatApp(harness.wechat)
    await harness.apps.add({ appid, secret })
    const unnamed = await harness.login({ code: harness.wechat.issueCode().code })
    expect((await harness.get('/session', unnamed.body.token)).body['appid']).toBe(APPID)

    const { code } = harness.wechat.issueCode({ appid })
    expect((await harness.login({ code })).body.code).toBe('code_invalid')
    expect((await logIn(harness, APPID, appid)).body).toMatchObject({ code: 'code_invalid', errcode: 40029 })
    const own = await logIn(harness, appid)
    expect((await harness.get('/session', own.body.token)).body['appid']).toBe(appid)
  })

  test('has its secret sealed in Redis, for this app alone', async () => {
    const harness = await startWithAdmin({ env: { LOG_LEVEL: 'silent' } })
    const { apps, redis, keys, wechat } = harness
    const { appid, secret } = newWechatApp(wechat)
    const other = newApp().appid
    await apps.add({ appid, secret })
    const kept = await redis.hgetallBuffer(keys.app(appid))
    expect(Buffer.concat(Object.values(kept)).toString('latin1')).not.toContain(secret)

    // Somebody who can write to Redis gives the secret to an app of their own.
    const moved = { ...kept, entry: (kept['entry'] ?? '').toString().replace(appid, other) }
    await redis.hset(keys.app(other), moved)
    await redis.hset(keys.apps, other, 'v')
    const found = await until('the moved app to be listed', async () =>
      (await apps.list()).find((app) => app['appid'] === other),
    )
    expect(found).toMatchObject({ usable: false })
    const reply = await logIn(harness, other, appid)
    expect(reply.body).toMatchObject({ code: 'app_misconfigured', retry: 'never' })
    expect(wechat.history()).toEqual([])
    expect(await harness.metric('apps_unusable_total', { why: 'secret' })).toBe(1)
  })

  test('that a newer gateway has written in a form of its own is left alone', async () => {
    const harness = await startWithAdmin({ env: { LOG_LEVEL: 'silent' } })
    const { redis, keys } = harness
    const { appid } = newApp()
    await redis.hset(keys.app(appid), { version: 'v', entry: `{"appid":"${appid}","kind":"of-tomorrow"}` })
    await redis.hset(keys.apps, appid, 'v')
    await until(
      'it to be read',
      async () => (await harness.metric('apps_unusable_total', { why: 'form' })) === 1,
    )
    expect((await harness.apps.list()).map((app) => app['appid'])).toEqual([APPID])
    expect((await harness.login({ code: harness.wechat.issueCode().code })).status).toBe(200)

    // Each addition reads the registry: what cannot be used is told of once for each of its versions.
    for (let i = 0; i < 3; i += 1) await harness.apps.add(newApp())
    expect(await harness.metric('apps_unusable_total', { why: 'form' })).toBe(1)
    const entry = `{"appid":"${appid}","kind":"wechat"}`
    await redis.hset(keys.app(appid), { version: 'v2', entry })
    await redis.hset(keys.apps, appid, 'v2')
    await until('a form that is known', async () =>
      (await harness.apps.list()).some((app) => app['appid'] === appid),
    )
  })

  test('goes on while the registry cannot be read, and what has changed meanwhile counts afterwards', async () => {
    const harness = await startWithAdmin()
    const { apps, redis, keys, wechat } = harness
    const { appid, secret } = newWechatApp(wechat)
    await apps.add({ appid, secret })
    await redis.set(keys.apps, 'not a hash')
    // The administrator's own call reads the registry, and tells that it could not.
    await until('a read to fail', async () => (await apps.remove(appid)).status === 503)
    expect((await logIn(harness, appid)).status).toBe(200)

    await redis.del(keys.apps)
    await until('its end to be seen', async () => (await logIn(harness, appid)).body.code === 'appid_unknown')
  })

  test('whose registration broke off halfway is mended by the next one', async () => {
    const harness = await startWithAdmin()
    const { apps, redis, keys, wechat } = harness
    const { appid, secret } = newWechatApp(wechat)
    await apps.add({ appid, secret })
    await redis.hdel(keys.apps, appid)
    await until('it to be gone', async () => (await apps.list()).length === 1)

    expect((await apps.add({ appid, secret })).body.code).toBe('app_exists')
    expect((await logIn(harness, appid)).status).toBe(200)
    await redis.hdel(keys.apps, appid)
    expect((await apps.remove(appid)).status).toBe(204)
    expect(await redis.exists(keys.app(appid))).toBe(0)
  })
})

function fingerprints(body: Record<string, unknown>): string[] {
  return (body['secrets'] as { fingerprint: string }[]).map(({ fingerprint }) => fingerprint)
}

describe('a secret that is rotated', () => {
  test('is tried first, the old one second, and the one that works is remembered', async () => {
    const harness = await startWithAdmin()
    const { apps, wechat } = harness
    const { appid, secret } = newWechatApp(wechat)
    await apps.add({ appid, secret })
    const newSecret = newApp().secret
    const outcomesOf = async () => {
      const { code } = wechat.issueCode({ appid })
      expect((await harness.login({ code, appid })).status).toBe(200)
      return wechat.history({ code }).map(({ outcome }) => outcome)
    }

    // Told to the gateway before WeChat.
    const { body } = await apps.rotate(appid, { secret: newSecret })
    expect(body['secrets']).toHaveLength(2)
    expect(await outcomesOf()).toEqual([40125, 'ok'])
    expect(await outcomesOf()).toEqual(['ok'])
    // Now WeChat knows only the new one.
    wechat.putApp({ appid, secrets: [newSecret] })
    expect(await outcomesOf()).toEqual([40125, 'ok'])
    expect(await outcomesOf()).toEqual(['ok'])
  })

  test('sent twice changes nothing, and ends the old one when told to', async () => {
    const { apps, wechat } = await startWithAdmin()
    const { appid, secret } = newWechatApp(wechat)
    const [old] = fingerprints((await apps.add({ appid, secret })).body)
    const rotation = { secret: newApp().secret }
    const once = fingerprints((await apps.rotate(appid, rotation)).body)
    const twice = fingerprints((await apps.rotate(appid, rotation)).body)
    expect(once).toEqual([expect.not.stringMatching(old ?? ''), old])
    expect(twice).toEqual(once)
    expect(fingerprints((await apps.rotate(appid, { ...rotation, end_previous: true })).body)).toEqual([
      once[0],
    ])
  })
})

describe('what the administrator may not', () => {
  test('is refused in clear words', async () => {
    const { apps, wechat } = await startWithAdmin()
    const { appid, secret } = newWechatApp(wechat)
    await apps.add({ appid, secret })
    const calls: [status: number, code: string, reply: ReturnType<typeof apps.add>][] = [
      [409, 'app_exists', apps.add({ appid, secret })],
      [409, 'app_exists', apps.add({ appid: APPID, secret })],
      [409, 'app_static', apps.remove(APPID)],
      [409, 'app_static', apps.rotate(APPID, { secret })],
      [400, 'appid_unknown', apps.remove('wx-nobody')],
      [400, 'appid_unknown', apps.rotate('wx-nobody', { secret })],
    ]
    for (const [status, code, reply] of calls) {
      const { body, status: answered } = await reply
      expect({ answered, code: body.code, retry: body.retry }).toEqual({
        answered: status,
        code,
        retry: 'never',
      })
    }
    const component = { appid: newApp().appid, kind: 'wechat_component', component_appid: 'wx-component' }
    expect((await apps.add(component)).status).toBe(201)
    expect((await apps.rotate(component.appid, { secret })).body.code).toBe('request_invalid')
  })

  const PLANTED = 'PLANTED0secret0of0an0app00000001'
  const appid = 'wxaaaaaaaaaaaaaaaa'
  test.each<[what: string, entry: unknown]>([
    ['nothing', undefined],
    ['null', null],
    ['a list', [{ appid, secret: PLANTED }]],
    ['no secret', { appid }],
    ['no appid', { secret: PLANTED }],
    ['a short secret', { appid, secret: 'PLANTED' }],
    ['a secret with a space', { appid, secret: `${PLANTED} ` }],
    ['an appid with a colon', { appid: 'wx:1234567', secret: PLANTED }],
    ['an appid that is a number', { appid: 12_345_678, secret: PLANTED }],
    ['three secrets', { appid, secrets: [PLANTED, `${PLANTED}2`, `${PLANTED}3`] }],
    ['no secrets', { appid, secrets: [] }],
    ['a secret twice', { appid, secrets: [PLANTED, PLANTED] }],
    ['secret and secrets', { appid, secret: PLANTED, secrets: [PLANTED] }],
    ['an unknown kind', { appid, secret: PLANTED, kind: 'PLANTED' }],
    ['a kind of the prototype', { appid, secret: PLANTED, kind: 'constructor' }],
    ['a kind without what it needs', { appid, secret: PLANTED, kind: 'wecom' }],
    ['a field of another kind', { appid, secret: PLANTED, corpid: 'PLANTED' }],
    ['an unknown field', { appid, secret: PLANTED, PLANTED: 1 }],
    ['a limit of nothing', { appid, secret: PLANTED, limits: { exchange_per_minute: 0 } }],
    ['a limit that is text', { appid, secret: PLANTED, limits: { exchange_per_minute: '60' } }],
    ['an unknown limit', { appid, secret: PLANTED, limits: { PLANTED: 1 } }],
    ['a flag that is text', { appid, secret: PLANTED, login_enabled: 'PLANTED' }],
  ])('is %s for an app, here and in WECHAT_APPS_FILE; nothing of it is shown', async (_what, entry) => {
    const harness = await startWithAdmin({ env: { LOG_LEVEL: 'silent' } })
    const reply = await harness.apps.call('POST', '/apps', entry)
    expect(reply.status).toBe(400)
    expect(reply.body).toMatchObject({ code: 'request_invalid', retry: 'never' })
    expect(reply.text).not.toContain('PLANTED')
    expect(await harness.redis.keys(harness.keys.app('*'))).toEqual([])

    const faults = faultsOf({ WECHAT_APPS_FILE: writeTemporary(JSON.stringify([entry ?? null])) })
    expect(faults).toEqual([expect.stringMatching(/^WECHAT_APPS_FILE entry 1/)])
    expect(faults.join()).not.toContain('PLANTED')
  })

  test('is a rotation of anything else than one sound secret', async () => {
    const { apps } = await startWithAdmin()
    for (const rotation of [
      {},
      { secret: 'short' },
      { secret: 1 },
      { secret: PLANTED, end_previous: 'yes' },
      null,
    ]) {
      const reply = await apps.rotate(appid, rotation)
      expect(reply.body.code).toBe('request_invalid')
      expect(reply.text).not.toContain('PLANTED')
    }
    expect((await apps.rotate('a'.repeat(65), { secret: PLANTED })).status).toBe(400)
  })

  test('is anything at all, without the admin token', async () => {
    const { admin, apps } = await startWithAdmin()
    const calls = [
      ['GET', '/apps'],
      ['POST', '/apps'],
      ['PUT', `/apps/${APPID}/secret`],
      ['DELETE', `/apps/${APPID}`],
    ] as const
    for (const [method, path] of calls) expect((await admin.send(method, path)).status, path).toBe(401)
    expect(await apps.list()).toHaveLength(1)
  })
})

describe('what belongs to one app', () => {
  test('a limit of its own: the others keep the common one', async () => {
    const harness = await startWithAdmin({ env: { LIMIT_EXCHANGE_PER_APP: '3' } })
    const [narrow, wide] = [newWechatApp(harness.wechat), newWechatApp(harness.wechat)]
    await harness.apps.add({ ...narrow, limits: { exchange_per_minute: 2 } })
    await harness.apps.add({ ...wide, limits: { exchange_per_minute: 5 } })
    const allowed = async (appid: string) => {
      const statuses = []
      for (let i = 0; i < 6; i += 1) statuses.push((await logIn(harness, appid)).status)
      return statuses.filter((status) => status === 200).length
    }
    expect([await allowed(narrow.appid), await allowed(APPID), await allowed(wide.appid)]).toEqual([2, 3, 5])
  })

  test('a switch: its logins are refused, the others go on', async () => {
    const harness = await startWithAdmin()
    const { appid, secret } = newWechatApp(harness.wechat)
    await harness.apps.add({ appid, secret, login_enabled: false })
    const reply = await logIn(harness, appid)
    expect(reply.status).toBe(403)
    expect(reply.body).toMatchObject({ code: 'app_disabled', retry: 'never' })
    expect(harness.wechat.history()).toEqual([])
    expect((await logIn(harness, APPID)).status).toBe(200)
  })

  test('metrics, which go with it', async () => {
    const harness = await startWithAdmin()
    const { appid, secret } = newWechatApp(harness.wechat)
    await harness.apps.add({ appid, secret })
    await logIn(harness, appid)
    await harness.login({ appid, code: 'a-code-nobody-has-issued' })
    expect(await harness.metric('app_logins_total', { appid, result: 'ok' })).toBe(1)
    expect(await harness.metric('app_logins_total', { appid, result: 'refused' })).toBe(1)
    expect(await harness.metric('app_logins_total', { appid: APPID })).toBe(0)
    await harness.login({ appid: 'wx-somebody-made-up', code: 'a-code-nobody-has-issued' })
    await harness.apps.remove(appid)
    const { text } = await harness.admin.get('/metrics')
    expect(text).not.toContain(appid)
    expect(text).not.toContain('wx-somebody-made-up')
  })

  test('a label of its own, for 200 apps: the rest share one, and a process has less than 2,000 series', async () => {
    const entries = Array.from({ length: 300 }, newApp)
    const harness = await startHarness({
      env: { WECHAT_APPS_FILE: writeTemporary(JSON.stringify(entries)), LOG_LEVEL: 'silent' },
    })
    const code = 'a-code-nobody-has-issued'
    for (const { appid } of entries) harness.wechat.putApp({ appid, secret: newApp().secret })
    await Promise.all(
      entries.flatMap(({ appid }) => [0, 1, 2].map((n) => harness.login({ appid, code: `${code}${n}` }))),
    )
    const { text } = await harness.admin.get('/metrics')
    const series = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
    expect(new Set([...text.matchAll(/appid="([^"]+)"/g)].map(([, appid]) => appid)).size).toBe(200)
    expect(series.length).toBeLessThan(2_000)
  })
})

describe('WECHAT_APPS_FILE', () => {
  test('takes what the administrator can give: two secrets, a limit, a switch', async () => {
    const wechat = await startSimulator(SIMULATED)
    onTestFinished(() => wechat.close())
    const [rotating, closed] = [newWechatApp(wechat), newWechatApp(wechat)]
    const entries = [
      {
        appid: rotating.appid,
        secrets: [newApp().secret, rotating.secret],
        limits: { exchange_per_minute: 1 },
      },
      { ...closed, login_enabled: false },
    ]
    const harness = await startHarness({
      wechat,
      env: { WECHAT_APPS_FILE: writeTemporary(JSON.stringify(entries)), SEAL_KEYS: newKey('s1') },
    })
    expect((await logIn(harness, rotating.appid)).status).toBe(200)
    expect((await logIn(harness, rotating.appid)).status).toBe(429)
    expect((await logIn(harness, closed.appid)).status).toBe(403)
  })
})
