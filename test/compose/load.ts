/** Logins through the load balancer, as fast as so many clients make them one after the other. */
import { setTimeout as pause } from 'node:timers/promises'
import { createClient } from '../harness/client.ts'

const CODES_A_CALL = 500

export interface LoadResult {
  readonly logins: number
  /** Of them, those that were told to come again (`retry`), and did. */
  readonly again: number
  /** What those got in the end that did not get in. */
  readonly failures: readonly string[]
  readonly slowestMs: number
}

/** Codes of as many new users, from the simulator. */
export async function issueCodes(controlUrl: string, count: number): Promise<string[]> {
  const codes: string[] = []
  while (codes.length < count) {
    const response = await fetch(`${controlUrl}/codes`, {
      method: 'POST',
      body: JSON.stringify({ count: CODES_A_CALL }),
    })
    const answer = (await response.json()) as { codes: { code: string }[] }
    codes.push(...answer.codes.map(({ code }) => code))
  }
  return codes
}

/** As the client in the README does it: the same code or a new one, as the answer says, three times more at most. */
const TRIES_MAX = 4

/** Until stop() is called; the codes must last as long. */
export function startLoad(url: string, { clients, codes }: { clients: number; codes: string[] }) {
  const client = createClient(url)
  const failures: string[] = []
  let [logins, again, slowestMs] = [0, 0, 0]
  const stopping = new AbortController()

  async function run(): Promise<void> {
    while (!stopping.signal.aborted) {
      const beganMs = performance.now()
      const failure = await logIn().catch((error: unknown) => String(error))
      if (failure !== undefined) failures.push(failure)
      logins += 1
      slowestMs = Math.max(slowestMs, performance.now() - beganMs)
    }
  }

  /** Gives what went wrong. */
  async function logIn(): Promise<string | undefined> {
    let code = codes.pop()
    for (let attempt = 1; ; attempt += 1) {
      if (code === undefined) return 'there are too few codes'
      const { status, headers, body } = await client.login({
        code,
        nonce: `check-${code}`.padEnd(16, '0').slice(0, 64),
      })
      if (status === 200) return undefined
      if (attempt === TRIES_MAX || body.retry === 'never') return `${status} ${body.code}`
      again += 1
      if (body.retry === 'new_code') code = codes.pop()
      else await pause(1000 * Number(headers['retry-after'] ?? 1))
    }
  }
  const running = Promise.all(Array.from({ length: clients }, run))

  return {
    logins: () => logins,
    async stop(): Promise<LoadResult> {
      stopping.abort()
      await running
      await client.close()
      return { logins, again, failures, slowestMs }
    },
  }
}
