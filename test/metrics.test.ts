/** The metrics: what docs/metrics.md says of them, that they are bounded, and what a login leaves in them. */
import { describe, expect, test } from 'vitest'
import { counter, createMetrics, exposition, histogram } from '../src/metrics/kinds.ts'
import { createGatewayMetrics } from '../src/metrics/gateway.ts'
import { allMetrics } from './harness/all-metrics.ts'
import type { Catalogue } from './harness/all-metrics.ts'
import { codeOf, tableRows } from './harness/documents.ts'
import { startHarness } from './harness/gateway.ts'
import { readSource } from './harness/sources.ts'

const SERIES_MAX = 2_000

function seriesMax(catalogue: Catalogue): number {
  return [...catalogue.values()].reduce((sum, metric) => sum + metric.seriesMax, 0)
}

describe('docs/metrics.md', () => {
  const { gateway, worker } = allMetrics()
  const names = [...new Set([...gateway.keys(), ...worker.keys()])]
  const rows = tableRows(readSource('docs/metrics.md'))

  /** As it should stand there. */
  function row(name: string): string[] {
    const [here, there] = [gateway.get(name), worker.get(name)]
    const metric = here ?? there
    if (metric === undefined) throw new Error(name)
    const { type, labelNames, buckets, help } = metric
    const of = [here && 'gateway', there && 'worker'].filter((program) => program !== undefined)
    const series = [...new Set([here, there].flatMap((entry) => (entry ? [entry.seriesMax] : [])))]
    return [
      `\`${name}\``,
      of.join(', '),
      type + (buckets === undefined ? '' : ` (${buckets[0]} … ${buckets.at(-1)})`),
      labelNames.map((label) => `\`${label}\``).join(', ') || '–',
      series.join(', '),
      help,
    ]
  }

  test('lists exactly the metrics there are', () => {
    const expected = names.map(row).map((cells) => `| ${cells.join(' | ')} |`)
    const found = rows
      .filter(([name, program]) => codeOf(name) !== undefined && /^(gateway|worker)/.test(program ?? ''))
      .map((cells) => `| ${cells.join(' | ')} |`)
    expect(found.toSorted(), `docs/metrics.md should have:\n${expected.join('\n')}\n`).toEqual(
      expected.toSorted(),
    )
  })

  test('says how many series a process has at most', () => {
    const text = readSource('docs/metrics.md')
    expect(text).toContain(`a gateway ${seriesMax(gateway)}, a worker ${seriesMax(worker)}`)
  })
})

describe('the number of series', () => {
  test.each(['gateway', 'worker'] as const)('of a %s is bounded', (program) => {
    expect(seriesMax(allMetrics()[program])).toBeLessThan(SERIES_MAX)
  })

  test('holds whatever the labels turn out to be: what is too many is counted as other', async () => {
    const metrics = createMetrics()
    const spec = { help: '…', labelNames: ['a', 'b'], childrenMax: 3 }
    const counts = counter(metrics, { name: 'counts_total', ...spec })
    const times = histogram(metrics, { name: 'times', buckets: [1], ...spec })
    for (let n = 0; n < 10; n += 1) {
      counts.inc({ a: n, b: 'x' })
      times.observe(n, { a: n, b: 'x' })
    }
    const text = await exposition(metrics).text()
    const series = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
    expect(series).toContain('counts_total{a="2",b="x"} 1')
    expect(series).toContain('counts_total{a="other",b="other"} 7')
    expect(series).toContain('times_count{a="other",b="other"} 7')
    const bound = [...metrics.catalogue.values()].reduce((sum, metric) => sum + metric.seriesMax, 0)
    expect(series).toHaveLength(bound)
  })
})

describe('a login', () => {
  test('leaves the time of its stages, of its exchange, and of its commands of Redis', async () => {
    const harness = await startHarness()
    const { body } = await harness.login({ code: harness.wechat.issueCode().code })
    await harness.get('/session', body.token)
    const { text } = await harness.admin.get('/metrics')
    const counts = (name: string) =>
      Object.fromEntries(
        [...text.matchAll(new RegExp(`^${name}_count\\{\\w+="([^"]+)"\\} (\\d+)$`, 'gm'))].map(
          ([, label, count]) => [label, Number(count)],
        ),
      )
    expect(counts('login_stage_duration_seconds')).toEqual({
      limit: 1,
      claim: 1,
      exchange: 1,
      session: 1,
      provisioning: 1,
    })
    expect(counts('redis_command_duration_seconds')).toMatchObject({
      'claim-code': 1,
      'open-session': 1,
      'settle-code': 1,
      hmget: 1,
    })
    expect(text).toMatch(/^login_duration_seconds_count 1$/m)
    expect(text).toMatch(/^session_validation_duration_seconds_count 1$/m)
  })
})

describe('exemplars', () => {
  const TRACE_ID = '0af7651916cd43dd8448eb211c80319c'

  test('are there when a trace id is given, in the one text that has them', async () => {
    const metrics = createGatewayMetrics({ traceId: () => TRACE_ID })
    metrics.loginTook(0.07)
    metrics.exchanged({ host: 'wechat', outcome: 'ok' }, 0.3)
    const { contentType, text } = metrics.exposition
    expect(contentType).toContain('application/openmetrics-text')
    const lines = (await text()).split('\n')
    const exemplars = lines.filter((line) => line.includes(`# {trace_id="${TRACE_ID}"}`))
    expect(exemplars.map((line) => line.split(' ').slice(0, 2).join(' '))).toEqual([
      'login_duration_seconds_bucket{le="0.1"} 1',
      'wechat_exchange_duration_seconds_bucket{le="0.4",host="wechat",outcome="ok"} 1',
    ])
    expect(lines.slice(-2)).toEqual(['# EOF', ''])
    expect(lines.filter((line) => /_total_total|^# TYPE \S+_total counter/.test(line))).toEqual([])
  })

  test('are not, and the text is the one that everything reads, when none is', async () => {
    const metrics = createGatewayMetrics()
    metrics.loginTook(0.07)
    expect(metrics.exposition.contentType).toContain('text/plain')
    expect(await metrics.exposition.text()).not.toContain('trace_id')
  })
})
