/** What becomes of a claim whose outcome cannot be written down, or of a code that was given back. */
import { Redis } from 'ioredis'
import { expect, onTestFinished, test } from 'vitest'
import { freePort } from '../deploy/local/ports.ts'
import { startRedis } from '../deploy/local/redis-server.ts'
import { startHarness } from './harness/gateway.ts'
import { until } from './harness/until.ts'

const NONCE = 'the-nonce-of-this-client'

/** With a Redis of its own, which the operator may have refuse what writes. */
async function startWithOwnRedis() {
  const server = await startRedis({ persistent: false, allowDocker: false })
  onTestFinished(() => server.stop())
  const operator = new Redis(server.url)
  onTestFinished(() => operator.disconnect())
  const harness = await startHarness({ env: { REDIS_URL: server.url, KEY_PREFIX: '' } })
  return {
    ...harness,
    /** As a master does that has lost its replicas, just after a failover for instance. */
    refuseWrites: (refuse: boolean) => operator.config('SET', 'min-replicas-to-write', refuse ? 1 : 0),
    async claim() {
      const [key = ''] = await operator.keys('code:*')
      return operator.hgetall(key)
    },
  }
}

test('a refusal that Redis did not take is written a little later: WeChat is not asked again', async () => {
  const { login, wechat, refuseWrites, claim } = await startWithOwnRedis()
  const code = 'a-code-of-nobody'
  const held = wechat.addFault({ kind: 'hold', code })
  const refused = login({ code, nonce: NONCE })
  await wechat.received(code)
  await refuseWrites(true)
  held.release()
  expect((await refused).body).toMatchObject({ code: 'code_invalid' })
  expect(await claim()).toMatchObject({ st: 'P' })

  await refuseWrites(false)
  await until('the refusal to be kept', async () => (await claim())['st'] === 'N')
  expect((await login({ code, nonce: NONCE })).body).toMatchObject({ code: 'code_invalid' })
  expect(wechat.history({ code })).toHaveLength(1)
})

test('a login that Redis did not take: its code is used up, and WeChat is not asked again to learn that', async () => {
  const { login, wechat, refuseWrites, claim } = await startWithOwnRedis()
  const { code } = wechat.issueCode()
  const held = wechat.addFault({ kind: 'hold', code })
  const lost = login({ code, nonce: NONCE })
  await wechat.received(code)
  await refuseWrites(true)
  held.release()
  expect((await lost).body).toMatchObject({ code: 'store_unavailable', retry: 'same_code' })

  await refuseWrites(false)
  await until('the code to be refused', async () => (await claim())['st'] === 'N')
  const again = await login({ code, nonce: NONCE })
  expect(again.body).toMatchObject({ code: 'code_consumed', retry: 'new_code' })
  expect(wechat.history({ code })).toHaveLength(1)
})

test('a code that never came to WeChat stays good, however often it is sent again', async () => {
  const { login } = await startHarness({ env: { WECHAT_API_URLS: `http://127.0.0.1:${await freePort()}` } })
  for (let times = 0; times < 3; times += 1) {
    const reply = await login({ code: 'a-code-that-waits', nonce: NONCE })
    expect(reply.body).toMatchObject({ code: 'wechat_unreachable', retry: 'same_code' })
  }
})
