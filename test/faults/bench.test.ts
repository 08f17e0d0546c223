/** The bench itself: a row that measures badly, or nothing, must not pass; and its network must be as bad as it says. */
import { createServer, connect } from 'node:net'
import type { AddressInfo } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { createLedger, quantile } from './ledger.ts'
import type { Attempt } from './ledger.ts'
import { seriesIn, sumOf } from './metrics-text.ts'
import { worstFigures } from './results.ts'
import { describeFigure, runRow } from './row.ts'
import type { Bench, Row } from './row.ts'
import { ROWS } from './rows.ts'
import { startTcpProxy } from './tcp-proxy.ts'

const quiet = () => {}
const row = (run: (bench: Bench) => void | Promise<void>): Row => ({
  id: 'X1',
  title: 'a test',
  pass: 'never mind',
  run: async (bench) => run(bench),
})

test('a row fails by a figure out of bounds, by a check, by an error, and when it has measured nothing', async () => {
  const good = await runRow(
    row((bench) => bench.figure('a', 1, { max: 1 })),
    quiet,
  )
  expect(good).toMatchObject({ ok: true, faults: [] })
  const bad: ((bench: Bench) => void)[] = [
    (bench) => bench.figure('above', 2, { max: 1 }),
    (bench) => bench.figure('below', 0, { min: 1 }),
    (bench) => bench.figure('other', 2, { is: 3 }),
    (bench) => bench.figure('nothing was there to be measured', Number.NaN, { max: 1 }),
    (bench) => {
      bench.figure('a', 1, { max: 1 })
      bench.check('this holds', false)
    },
    (bench) => {
      bench.figure('a', 1, { max: 1 })
      throw new Error('broken')
    },
    () => {},
  ]
  for (const run of bad) expect((await runRow(row(run), quiet)).ok).toBe(false)
})

test('what a row has started is closed, last first, also when the row breaks; what does not close is a fault', async () => {
  const closed: number[] = []
  const result = await runRow(
    row((bench) => {
      bench.figure('a', 1, {})
      bench.defer(() => closed.push(1))
      bench.defer(() => {
        throw new Error('stuck')
      })
      bench.defer(() => closed.push(3))
    }),
    quiet,
  )
  expect(closed).toEqual([3, 1])
  expect(result.ok).toBe(false)
  expect(result.faults).toEqual(['while closing: stuck'])
})

test('the worst of several runs is the one out of bounds, else the farthest', () => {
  const figures = [1, 5, 3].map((value) => ({ name: 'ms', value, max: 9, ok: true }))
  expect(worstFigures(figures)).toMatchObject([{ name: 'ms', worst: 5, ok: true }])
  expect(worstFigures([...figures, { name: 'ms', value: 2, is: 0, ok: false }])).toMatchObject([
    { worst: 2, ok: false },
  ])
  expect(worstFigures([8, 6, 7].map((value) => ({ name: 'n', value, min: 5, ok: true })))).toMatchObject([
    { worst: 6 },
  ])
})

test('what never came is said so', () => {
  const figure = { name: 'told after', value: Infinity, unit: 'ms', max: 10, ok: false }
  expect(describeFigure(figure)).toBe('told after never (≤ 10)')
})

test('rows have names of the catalogue, each once, and say what passes', () => {
  const ids = ROWS.map(({ id }) => id)
  expect(new Set(ids).size).toBe(ids.length)
  expect(ids.filter((id) => !/^[DRUBWNTML]\d+(-[a-z-]+)?$/.test(id))).toEqual([])
  expect(ROWS.filter(({ title, pass }) => title === '' || pass === '')).toEqual([])
})

const attempt = (own: Partial<Attempt>): Attempt => ({
  kind: 'login',
  atMs: 0,
  ms: 1,
  status: 200,
  isProblem: false,
  target: 'a',
  ...own,
})

test('the ledger keeps the sessions that were not ended, and finds the length of a trouble', () => {
  const ledger = createLedger()
  ledger.note(attempt({ token: 't1' }))
  ledger.note(attempt({ token: 't2' }))
  ledger.note(attempt({ kind: 'logout', token: 't1', status: 204 }))
  expect([...ledger.sessions.keys()]).toEqual(['t2'])
  ledger.note(attempt({ atMs: 1_500, status: 503 }))
  ledger.note(attempt({ atMs: 2_000, status: 0, fault: 'ECONNRESET' }))
  ledger.note(attempt({ atMs: 2_500, status: 409 }))
  expect(ledger.lastFailureAfterMs(1_000)).toBe(1_000)
  expect(ledger.lastFailureAfterMs(2_400)).toBe(0)
})

test('quantiles and metrics are read right', () => {
  const values = Array.from({ length: 100 }, (_, at) => at + 1)
  expect([quantile(values, 0.5), quantile(values, 0.99), quantile(values, 1)]).toEqual([50, 99, 100])
  expect(quantile([], 0.5)).toBeNaN()
  const text = '# HELP a b\na{x="1",y="2"} 3\na{x="1",y="3"} 4\nab 9\n'
  expect(sumOf(text, 'a', { x: '1' })).toBe(7)
  expect(sumOf(text, 'a', { y: '3' })).toBe(4)
  expect(sumOf(text, 'missing')).toBe(0)
  expect(seriesIn(text)).toBe(3)
})

test('the bad network delays, swallows, cuts and refuses', async () => {
  const echo = createServer((socket) => socket.pipe(socket).on('error', quiet)).listen(0, '127.0.0.1')
  onTestFinished(() => void echo.close())
  await new Promise((resolve) => echo.once('listening', resolve))
  const closers: (() => unknown)[] = []
  const bench = { defer: (close: () => unknown) => void closers.push(close) } as Bench
  const proxy = await startTcpProxy(bench, (echo.address() as AddressInfo).port)
  onTestFinished(async () => {
    for (const close of closers) await close()
  })

  /** What came back, and after how long; what became of the connection instead. */
  const ask = (text: string, timeoutMs = 5_000) =>
    new Promise<{ got: string; ms: number }>((resolve) => {
      const startedMs = performance.now()
      let got = ''
      const finish = (end: string) => {
        clearTimeout(timer)
        socket.destroy()
        resolve({ got: got + end, ms: performance.now() - startedMs })
      }
      const timer = setTimeout(() => finish('(silence)'), timeoutMs)
      const socket = connect(proxy.port, '127.0.0.1', () => void socket.write(text))
      socket.setEncoding('utf8').on('data', (piece: string) => {
        got += piece
        if (got.length >= text.length) finish('')
      })
      socket.once('error', ({ message }) => finish(`(${message.replace(/^.*(ECONNRESET).*$/, '$1')})`))
    })

  expect((await ask('fair')).got).toBe('fair')
  proxy.set({ latencyMs: 60, sliceBytes: 2 })
  const delayed = await ask('slowly')
  expect(delayed.got).toBe('slowly')
  expect(delayed.ms).toBeGreaterThan(118) // there and back
  proxy.clear()
  proxy.set({ resetAfterBytes: 3 })
  expect((await ask('too long')).got).toContain('(ECONNRESET)')
  proxy.clear()
  proxy.set({ blackHole: true })
  expect((await ask('gone', 300)).got).toBe('(silence)')
  proxy.clear()
  proxy.set({ refusing: true })
  expect((await ask('no')).got).toContain('(ECONNRESET)')
  proxy.clear()
  expect((await ask('fair again')).got).toBe('fair again')
})
