/** Bull Board on the admin listener: for those with the token, reading only, masked, and with nothing from elsewhere. */
import { globSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { expect, test } from 'vitest'
import { startHarness } from './harness/gateway.ts'
import { queuedJobs, queueOf } from './harness/provisioning.ts'

/** As a browser sends it. */
function basic(password: string): string {
  return `Basic ${Buffer.from(`anybody:${password}`).toString('base64')}`
}

async function startBoard() {
  const harness = await startHarness()
  const token = harness.env['ADMIN_TOKEN'] ?? ''
  return {
    ...harness,
    harness,
    ask: (path: string, method = 'GET', authorization = basic(token)) =>
      harness.admin.send(method, path, { headers: { authorization } }),
  }
}

const NO_LINK_OUT = /(?:src|href)\s*=\s*["']?(?:https?:)?\/\/|url\(\s*["']?(?:https?:)?\/\/|@import/i

test('it is shown to those with the token, as a password too, and to nobody else', async () => {
  const { ask, admin, env } = await startBoard()
  for (const path of ['/queues', '/queues/', '/queues/api/queues', '/queues/static/favicon.ico']) {
    const stranger = await admin.get(path)
    expect(stranger.status).toBe(401)
    expect(stranger.headers['www-authenticate']).toMatch(/^Basic /)
    expect((await ask(path, 'GET', basic('wrong'))).status).toBe(401)
    expect((await ask(path)).status).toBe(200)
    expect((await ask(path, 'GET', `Bearer ${env['ADMIN_TOKEN']}`)).status).toBe(200)
  }
  // Elsewhere a browser that remembers the password is nobody.
  expect((await ask('/apps')).status).toBe(401)
})

test('its page fetches nothing from elsewhere, and may not', async () => {
  const { ask } = await startBoard()
  const page = await ask('/queues/queue/provision')
  expect(page.headers['content-type']).toMatch(/^text\/html/)
  expect(page.headers['content-security-policy']).toContain("default-src 'self'")
  expect(page.text).toContain('<base href="/queues/" />')
  expect(page.text).not.toContain('<%')
  expect(page.text).not.toMatch(NO_LINK_OUT)
  const references = [...page.text.matchAll(/(?:src|href)="(static\/[^"]+)"/g)].map(([, path]) => path)
  expect(references.length).toBeGreaterThan(4)
  for (const path of references) expect((await ask(`/queues/${path}`)).status).toBe(200)

  const ui = dirname(createRequire(import.meta.url).resolve('@bull-board/ui/package.json'))
  const styles = globSync('dist/static/**/*.css', { cwd: ui }).map((file) =>
    readFileSync(join(ui, file), 'utf8'),
  )
  expect(styles.length).toBeGreaterThan(0)
  for (const style of styles) expect(style).not.toMatch(NO_LINK_OUT)
})

test('it shows the jobs, and of their users no openid', async () => {
  const { ask, login, wechat, harness } = await startBoard()
  const unionid = 'o6_bmasdasdsad6_2sgVt7hMZOPfL'
  const { code, openid } = wechat.issueCode({ unionid })
  const { body } = await login({ code })

  const list = await ask('/queues/api/queues?activeQueue=provision&status=waiting&page=1&jobsPerPage=100000')
  const { queues } = JSON.parse(list.text) as {
    queues: {
      name: string
      readOnlyMode: boolean
      counts: { waiting: number }
      jobs: { id: string; data: object }[]
    }[]
  }
  expect(queues.map(({ name }) => name)).toEqual(['provision', 'erase'])
  expect(queues[0]).toMatchObject({ readOnlyMode: true, counts: { waiting: 1 } })
  const [job] = queues[0]?.jobs ?? []
  expect(job?.data).toMatchObject({ sub: body.sub, openid: `${openid.slice(0, 4)}…` })
  const shown = await ask(`/queues/api/queues/provision/${job?.id}`)
  expect(shown.status).toBe(200)
  for (const { text } of [list, shown]) {
    expect(text).not.toContain(openid)
    expect(text).not.toContain(unionid)
  }
  expect(await queuedJobs(harness)).toBe(1)
})

test('it changes nothing', async () => {
  const { ask, login, wechat, harness, env } = await startBoard()
  const bearer = `Bearer ${env['ADMIN_TOKEN']}`
  await login({ code: wechat.issueCode().code })
  const changes = [
    ['PUT', '/queues/api/queues/pause'],
    ['PUT', '/queues/api/queues/provision/empty'],
    ['PUT', '/queues/api/queues/provision/obliterate'],
    ['POST', '/queues/api/queues/provision/add'],
    ['GET', '/queues/api/queues/provision/empty/now'],
  ] as const
  for (const [method, path] of changes) expect((await ask(path, method, bearer)).status).toBe(404)
  expect(await queueOf(harness).queue.isPaused()).toBe(false)
  expect(await queuedJobs(harness)).toBe(1)
})
