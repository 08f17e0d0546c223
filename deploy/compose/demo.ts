/**
 * The last word of `docker compose --profile demo up`: waits until a simulated user can log in through the load balancer,
 * and prints the line with which a person does the same.
 */
import { setTimeout as delay } from 'node:timers/promises'

const WAIT_MS = 120_000
const PAUSE_MS = 500
const REQUEST_TIMEOUT_MS = 5_000

const { LOGIN_URL, CODES_URL } = process.env
const endMs = performance.now() + WAIT_MS
while (!(await canLogIn())) await delay(PAUSE_MS)
console.log(`
Up. Log in as a simulated user, through the load balancer:

  curl -s ${LOGIN_URL}/login -H 'content-type: application/json' -d '{"code":"'$(curl -s -X POST ${CODES_URL}/codes | cut -d\\" -f6)'"}'
`)

async function canLogIn(): Promise<boolean> {
  try {
    const { codes } = await post('http://simulator:3081/codes')
    const { token } = await post('http://load-balancer:8080/login', { code: codes?.[0]?.code })
    return token !== undefined
  } catch (error) {
    if (performance.now() > endMs) throw error
    return false // something of it is still starting
  }
}

interface Answer {
  codes?: { code: string }[]
  token?: string
}

async function post(url: string, body?: unknown): Promise<Answer> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body ?? {}),
    signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
  })
  if (!response.ok) throw new Error(`${url} answered ${response.status}`)
  return (await response.json()) as Answer
}
