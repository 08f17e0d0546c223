/** The setting of the simulator's own tests: a simulator and a client for each test, and a clock held by hand. */
import { afterEach } from 'vitest'
import type { Client } from './client.ts'
import { createClient } from './client.ts'
import type { Simulator, SimulatorOptions } from './server.ts'
import { startSimulator } from './server.ts'

/** 2024-05-16 07:50:56 in China; a real request id of that second begins with 66454a60. */
export const START_MS = 0x66454a60 * 1000

const open: { close(): Promise<unknown> }[] = []

afterEach(async () => {
  await Promise.all(open.splice(0).map((part) => part.close()))
})

/** Starts a simulator that ends with the test. Its clock stands at START_MS until `pass` moves it. */
export async function setUp(
  options: SimulatorOptions = {},
): Promise<{ wechat: Simulator; client: Client; pass: (seconds: number) => void }> {
  let nowMs = START_MS
  const wechat = await startSimulator({ now: () => nowMs, ...options })
  const client = createClient(wechat, options.tls ? { ca: options.tls.cert } : {})
  open.push(client, wechat)
  return {
    wechat,
    client,
    pass(seconds) {
      nowMs += seconds * 1000
    },
  }
}
