/** The Redis that `npm start` brings up: whose data it has, and which servers it ends. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { identify, isAlive } from '../deploy/local/process-id.ts'
import { startRedis } from '../deploy/local/redis-server.ts'
import { askRedis } from '../deploy/local/redis-wire.ts'

const kept = mkdtempSync(join(tmpdir(), 'local-redis-'))
const persistent = { persistent: true, dataDir: kept, allowDocker: false } as const

afterAll(() => rmSync(kept, { recursive: true, force: true }))

describe('a Redis for development', () => {
  test('is the same after a restart when persistent, and empty when not', async () => {
    const first = await startRedis(persistent)
    await askRedis(first.url, [['SET', 'key', 'kept']], 1_000)
    await first.stop()
    const second = await startRedis(persistent)
    expect(await askRedis(second.url, [['GET', 'key']], 1_000)).toEqual(['kept'])
    await second.stop()
    expect(isAlive(identify(second.pid ?? 0))).toBe(false)
  })

  // Two servers on one folder would spoil it.
  test('ends a server that was left behind with its data, and no other', async () => {
    const left = await startRedis(persistent)
    await askRedis(left.url, [['SET', 'key', 'left']], 1_000)
    const stranger = await startRedis({ persistent: false, allowDocker: false })
    onTestFinished(stranger.stop)

    const next = await startRedis(persistent)
    expect(await left.exited).toBe('exit code 0')
    expect(await askRedis(next.url, [['GET', 'key']], 1_000)).toEqual(['left'])
    expect(await askRedis(stranger.url, [['PING']], 1_000)).toEqual(['PONG'])
    await next.stop()
  })
})
