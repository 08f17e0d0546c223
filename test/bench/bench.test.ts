/** The bench's own instruments: what they say must be so before it is believed of a contender. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { readAllocations, readProfile, selfByOwner } from './v8-profile.ts'
import { flameGraph } from './flame-graph.ts'
import { findGrowth } from './guard.ts'
import { startLoad } from './load.ts'
import { median } from './median.ts'
import { asking } from './requests.ts'
import type { Results } from './results.ts'
import { spreadOf } from './turns.ts'

const STALL_MS = 400

/** Answers at once, but stands still for a while when it is told to by the path. */
async function startServer() {
  let stalledUntil = 0
  const server = createServer((request, response) => {
    if (request.url === '/stall') stalledUntil = performance.now() + STALL_MS
    const answer = () => {
      response.statusCode = request.url === '/wrong' ? 500 : 200
      response.end('{"ok":true}')
    }
    setTimeout(answer, Math.max(0, stalledUntil - performance.now()))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new TypeError('a TCP server has a port')
  return address.port
}

async function startTestLoad() {
  const port = await startServer()
  const load = startLoad()
  onTestFinished(() => load.close())
  const request = asking(
    { host: '127.0.0.1', port },
    { method: 'GET', path: '/\u0000', status: 200, contains: '"ok":true' },
  )
  const run = (values: string[], options: { connections: number; ratePerSecond?: number }) =>
    load.run({ ...request, values, ...options, timeoutMs: 10_000 }, { tolerated: true })
  return { run }
}

test('a stall is in the latencies of all requests that were due meanwhile', async () => {
  const { run } = await startTestLoad()
  // One of a hundred stalls. With two connections only two requests meet the stall itself; 40 ms apart are many more.
  const values = Array.from({ length: 100 }, (_, at) => (at === 20 ? 'stall' : 'x'))
  const paced = await run(values, { connections: 2, ratePerSecond: 100 })
  expect(paced.requests).toBe(100)
  expect(paced.latencyMs.max).toBeGreaterThanOrEqual(STALL_MS - 1)
  // 40 of them were due in the stall, and waited for half of it on average.
  expect(paced.latencyMs.p95).toBeGreaterThan(STALL_MS / 2)

  const asFastAsAnswered = await run(values, { connections: 2 })
  expect(asFastAsAnswered.latencyMs.p95).toBeLessThan(STALL_MS / 2)
})

test('a wrong answer is counted, and an answer that never comes', async () => {
  const { run } = await startTestLoad()
  const result = await run(['x', 'wrong', 'x'], { connections: 1 })
  expect(result).toMatchObject({ requests: 3, wrong: 1 })
  expect(result.wrongSample).toContain('HTTP/1.1 500')
})

function profileNode(id: number, functionName: string, url: string, children: number[] = []) {
  return { id, callFrame: { functionName, url, lineNumber: 1 }, children }
}

test('a profile is summed up by whose the time is, without idle time', () => {
  const folder = mkdtempSync(join(tmpdir(), 'bench-test-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const root = new URL('../../', import.meta.url).href
  writeFileSync(
    join(folder, 'p'),
    JSON.stringify({
      nodes: [
        profileNode(1, '(root)', '', [2, 3, 4]),
        profileNode(2, '(idle)', ''),
        profileNode(3, 'login', `${root}src/login.ts`, [5]),
        profileNode(4, 'login', `${root}src/login.ts`),
        profileNode(5, 'send', `${root}node_modules/@scope/name/index.js`),
      ],
      samples: [2, 3, 5, 4],
      timeDeltas: [900, 10, 30, 5],
    }),
  )
  const frame = readProfile(join(folder, 'p'))
  expect(frame.total).toBe(45)
  expect(selfByOwner(frame)).toEqual([
    ['@scope/name', 30],
    ['src/login.ts', 15],
    ['(root)', 0],
  ])
  expect(flameGraph(frame, 'a < b')).toContain('a &lt; b')
})

test('a profile of allocations is read into the same tree', () => {
  const folder = mkdtempSync(join(tmpdir(), 'bench-test-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const root = new URL('../../', import.meta.url).href
  const head = allocationNode('(root)', '', 0, [
    allocationNode('login', `${root}src/login.ts`, 10, [allocationNode('hash', 'node:internal/crypto', 30)]),
  ])
  writeFileSync(join(folder, 'p'), JSON.stringify({ head }))
  const frame = readAllocations(join(folder, 'p'))
  expect(frame.total).toBe(40)
  expect(selfByOwner(frame)).toEqual([
    ['node:internal/crypto', 30],
    ['src/login.ts', 10],
    ['(root)', 0],
  ])
})

function allocationNode(functionName: string, url: string, selfSize: number, children: object[] = []) {
  return { callFrame: { functionName, url, lineNumber: 0 }, selfSize, children }
}

function figuresOf(value: number) {
  return { cpuUs: spreadOf([value]), allocatedKb: spreadOf([value]) }
}

function resultsWith(gateway: number): Results {
  const subjects = {
    gateway: figuresOf(gateway),
    'gateway-cache': figuresOf(50),
    'upstream-only': figuresOf(100),
    bare: figuresOf(40),
  }
  const scene = { question: '', measuredAt: '', commit: '', machine: '', rounds: 1, subjects }
  return { returning: scene, first: scene, auth: scene }
}

test('the guard objects to a doubling, and to what was not measured, and to nothing else', () => {
  expect(findGrowth(resultsWith(250), resultsWith(200))).toEqual([])
  expect(findGrowth(resultsWith(400), resultsWith(200))).toHaveLength(6)
  expect(findGrowth({}, resultsWith(200))).toHaveLength(7)
})

test('the median of an even number is the mean of the two in the middle', () => {
  expect([median([3, 1, 2]), median([4, 1, 2, 3])]).toEqual([2, 2.5])
})
