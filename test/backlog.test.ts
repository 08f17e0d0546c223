/** Too many jobs wait: new users are sent away before their code is used, and everybody else goes on. */
import { expect, onTestFinished, test } from 'vitest'
import { Queue } from 'bullmq'
import { createAcknowledge, PROVISION_QUEUE } from '../src/provisioning.ts'
import { startHarness } from './harness/gateway.ts'
import { queuedJobs } from './harness/provisioning.ts'
import { until } from './harness/until.ts'

test('above PROVISION_BACKLOG_MAX first logins get 503 with their code unused, and log in once there is room', async () => {
  const harness = await startHarness({ env: { PROVISION_BACKLOG_MAX: '3', LOG_LEVEL: 'silent' } })
  const { login, wechat, metric, redis, keys } = harness
  const [first, known] = [await login({ code: wechat.issueCode().code }), wechat.issueCode()]
  const before = await login({ code: known.code })
  expect((await login({ code: wechat.issueCode().code })).status).toBe(200)

  const refused = await until('the backlog to be noticed', async () => {
    const { code } = wechat.issueCode()
    const reply = await login({ code })
    return reply.status === 503 && { code, reply }
  })
  expect(refused.reply.body).toMatchObject({
    code: 'provisioning_backlog_full',
    retry: 'same_code',
  })
  expect(refused.reply.headers['retry-after']).toBeDefined()
  expect(wechat.history().map(({ code }) => code)).not.toContain(refused.code)
  expect(await metric('login_total', { outcome: 'provisioning_backlog_full' })).toBe(1)

  // Sessions go on. So does a user who was here before; when the worker knows them, their job can wait.
  expect((await harness.get('/session', first.body.token)).status).toBe(200)
  const jobs = await queuedJobs(harness)
  await createAcknowledge(redis, keys)({ sub: before.body.sub, userId: 'user-1' })
  const unionid = 'o6_bmasdasdsad6_2sgVt7hMZOPfL' // of which the worker has to hear
  const bearer = { authorization: `Bearer ${before.body.token}` }
  const again = await login({ code: wechat.issueCode({ openid: known.openid, unionid }).code }, bearer)
  expect(again.status).toBe(200)
  expect(await queuedJobs(harness)).toBe(jobs)
  expect(await metric('provisioning_enqueued_total', { outcome: 'skipped' })).toBe(1)

  const queue = new Queue(PROVISION_QUEUE, {
    connection: redis,
    prefix: keys.queue(PROVISION_QUEUE),
    skipMetasUpdate: true,
  })
  onTestFinished(() => queue.close())
  const waiting = await queue.getWaiting()
  for (const job of waiting.slice(1)) await job.remove()
  await until('the same code to log in', async () => (await login({ code: refused.code })).status === 200)
  // The job that was left out is made up for by the next login.
  const later = await login({ code: wechat.issueCode({ openid: known.openid, unionid }).code }, bearer)
  expect(later.status).toBe(200)
  expect(await metric('provisioning_enqueued_total', { outcome: 'skipped' })).toBe(1)
})

test.each([
  ['without a unionid', null],
  ['with the longest unionid that WeChat shows', 'o6_bmasdasdsad6_2sgVt7hMZOPfL'],
])('a waiting job %s takes less than 1 KB of Redis, with all that belongs to it', async (_name, unionid) => {
  const { login, wechat, redis, keys } = await startHarness()
  await login({ code: wechat.issueCode({ unionid }).code })
  const prefix = `${keys.queue(PROVISION_QUEUE)}:${PROVISION_QUEUE}:`
  const [id = ''] = await redis.lrange(`${prefix}wait`, 0, -1)
  const own = [`${prefix}${id}`, ...(await redis.keys(`${prefix}de:*`))]
  const bytes = await Promise.all(own.map((key) => redis.memory('USAGE', key, 'SAMPLES', 0)))
  expect(bytes).toHaveLength(2)
  // The prefix that tests have makes up for what Redis has for every key (npm run benchmark:provisioning-backlog).
  expect(bytes.reduce<number>((sum, each) => sum + (each ?? 0), 0)).toBeLessThan(1_024)
})
