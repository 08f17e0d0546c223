/** The soak's own instruments: a growth that is there must be found, and the picture must show it. */
import { expect, test } from 'vitest'
import { createRecording } from './soak/recording.ts'
import { fitLine } from './soak/line-fit.ts'
import { drawPlot } from './soak/plot.ts'
import type { Sample } from './soak/sampler.ts'

test('a line is fitted by least squares, and says how sure it is', () => {
  const exact = fitLine([0, 1, 2, 3].map((x) => [x, 5 + 2 * x]))
  expect(exact.slope).toBeCloseTo(2)
  expect(exact.slopeError).toBeCloseTo(0)
  expect(exact.at(10)).toBeCloseTo(25)
  const rough = fitLine([
    [0, 1],
    [1, 0],
    [2, 3],
    [3, 2],
  ]) // by hand: slope 0.6, residuals 3.2
  expect(rough.slope).toBeCloseTo(0.6)
  expect(rough.slopeError).toBeCloseTo(Math.sqrt(3.2 / 2 / 5))
  expect(
    fitLine([
      [1, 1],
      [2, 2],
    ]).slope,
  ).toBeNaN()
})

const sample = (minute: number, descriptors: number): Sample => ({
  processes: {
    'gateway 1': {
      rssBytes: 100_000_000 + 1_000_000 * minute,
      heapBytes: 0,
      collected: undefined,
      descriptors,
      timers: 0,
      handles: 0,
      cpuSeconds: 0,
    },
  },
  store: { keys: minute > 5 ? { user: 7, late: 1 } : { user: 7 }, usedBytes: 0, clients: 1 },
})

test('what is recorded is judged after the warm-up, and peaks do not hide a floor that rises', () => {
  const recording = createRecording({ warmUpMinutes: 4 })
  const interval = {
    loginMs: [3],
    validateMs: [],
    ok: { login: 1, validate: 0, logout: 0, other: 0 },
    refused: {},
  }
  for (let at = 0; at <= 60; at += 1) {
    const minute = at / 4
    const peak = at % 4 === 3 ? 500 - 30 * minute : 0 // ever lower, above a floor that gains one each minute
    recording.add(minute, sample(minute, 20 + Math.floor(minute) + peak), interval)
  }
  expect(recording.fit('rss MB, gateway 1').slope).toBeCloseTo(1)
  const [from, to] = recording.fitEnds('descriptors, gateway 1', true)
  expect([from?.[0], to?.[0]]).toEqual([4, 15])
  expect((to?.[1] ?? 0) - (from?.[1] ?? 0)).toBeCloseTo(11)
  expect(
    recording
      .points('keys, late')
      .slice(0, 21)
      .every(([, count]) => count === 0),
  ).toBe(true)
  expect(recording.columns()['all keys']?.at(-1)).toBe(8)
})

test('the picture has a line for each series, breaks where nothing was measured, and no foreign markup', () => {
  const svg = drawPlot(
    [
      {
        title: 'A & <B>',
        unit: 'ms',
        series: [
          {
            name: 'a',
            points: [
              [0, 1],
              [1, Number.NaN],
              [2, 100],
            ],
          },
        ],
        logarithmic: true,
      },
      {
        title: 'C',
        unit: 'MB',
        series: [
          {
            name: 'c',
            points: [
              [0, 5],
              [2, 5],
            ],
            fit: [
              [0, 5],
              [2, 5],
            ],
          },
        ],
      },
    ],
    { title: 'T', notes: ['n'], xLabel: 'minutes', shadedUntil: 1 },
  )
  expect(svg).toContain('A &amp; &lt;B&gt;')
  expect(svg.match(/<path /g)).toHaveLength(3)
  expect(svg.match(/M[\d.]+ [\d.]+M[\d.]+ [\d.]+"/g)).toHaveLength(1)
  expect(svg).not.toMatch(/NaN|Infinity|undefined/)
})
