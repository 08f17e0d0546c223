/** What every refusal of the gateway looks like. */
import { expect } from 'vitest'
import { ERRORS } from '../../src/errors.ts'
import type { ErrorCode } from '../../src/errors.ts'

/** Put into hostile input, so that a test can see whether any of it comes back. */
export const MARK = 'Zq9mark'

const FIELDS = new Set(['type', 'title', 'status', 'detail', 'code', 'retry', 'errcode', 'rid'])

/** A problem of the catalogue, 4xx, with nothing of the request in it. `what` names the case. */
export function expectProblem(
  reply: { status: number; headers: Record<string, unknown>; text: string },
  what: string,
): { code: ErrorCode; detail?: string } {
  const { status, headers, text } = reply
  expect(status, `${what}: ${text}`).toBeGreaterThanOrEqual(400)
  expect(status, `${what}: ${text}`).toBeLessThan(500)
  expect(headers['content-type'], what).toBe('application/problem+json; charset=utf-8')
  expect(headers, what).toMatchObject({ 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' })
  const problem = JSON.parse(text) as { code: ErrorCode; detail?: string }
  const spec = ERRORS[problem.code]
  expect(problem, what).toMatchObject({
    type: `urn:wechat-login-gateway:error:${problem.code}`,
    title: spec.title,
    status: spec.status,
    retry: spec.retry,
  })
  expect(status, what).toBe(spec.status)
  expect(
    Object.keys(problem).filter((field) => !FIELDS.has(field)),
    what,
  ).toEqual([])
  expect(headers['retry-after'] !== undefined, what).toBe(status === 429)
  expect(text + JSON.stringify(headers), what).not.toContain(MARK)
  return problem
}
