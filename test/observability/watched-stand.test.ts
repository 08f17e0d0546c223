/** The stand that Prometheus watches: what is caused on its processes is what Prometheus tells. */
import { expect, test } from 'vitest'
import { stopSharedPostgres } from '../faults/postgres.ts'
import { runRow } from '../faults/row.ts'
import { writeTemporary } from '../harness/configuration.ts'
import { absentPrometheus } from './prometheus.ts'
import { startWatchedStand } from './watched-stand.ts'

const RULES = `
groups:
  - name: of this test
    rules:
      - alert: Away
        expr: up == 0
        for: 15m
        annotations: {summary: '{{ $labels.instance }} is away'}
`

const CONFIG = (rules: string) => `
global: {scrape_interval: 15s}
rule_files: [${rules}]
scrape_configs:
  - job_name: gateway
    static_configs: [{targets: ['gateway.example:9090']}]
    metric_relabel_configs: [{source_labels: [__name__], regex: 'nodejs_.*', action: drop}]
  - job_name: worker
    dns_sd_configs: [{names: [worker.example]}]
  - job_name: elsewhere
    static_configs: [{targets: ['elsewhere.example:80']}]
`

test.skipIf(absentPrometheus())(
  'a gateway that is killed is told of within seconds, and so is its return',
  { timeout: 60_000 },
  async () => {
    const result = await runRow(
      {
        id: 'watched',
        title: 'a gateway is killed',
        pass: 'Prometheus says so',
        async run(bench) {
          const rules = writeTemporary(RULES)
          const { stand, prometheus } = await startWatchedStand(bench, {
            stand: { gateways: 2, workers: 1 },
            prometheus: {
              configFile: writeTemporary(CONFIG(rules)),
              rewriteRules: (text) => text.replace('for: 15m', 'for: 1s'),
            },
          })
          // The configuration holds, but for the targets.
          expect(new Set((await prometheus.query('up')).map(({ labels }) => labels['instance']))).toEqual(
            new Set(['gateway-1', 'gateway-2', 'worker-1']),
          )
          expect(await prometheus.query('nodejs_heap_size_used_bytes{job="gateway"}')).toEqual([])
          expect(await prometheus.query('nodejs_heap_size_used_bytes{job="worker"}')).toHaveLength(1)
          expect(await prometheus.rules()).toEqual([
            { name: 'Away', type: 'alerting', health: 'ok', lastError: '' },
          ])
          expect(await prometheus.firing()).toEqual([])

          await stand.gateway(1).end('SIGKILL')
          bench.figure('fires after', await prometheus.untilFiring('Away'), { unit: 'ms', max: 20_000 })
          const [alert] = await prometheus.alerts()
          expect(alert?.annotations).toEqual({ summary: 'gateway-2 is away' })
          await stand.gateway(1).start()
          bench.figure('quiet after', await prometheus.untilQuiet('Away'), { unit: 'ms', max: 20_000 })

          await prometheus.untilData('increase(process_cpu_seconds_total{instance="gateway-1"}[5s]) > 0')
          const [series] = await prometheus.range('min(up)', {
            fromMs: Date.now() - 5_000,
            toMs: Date.now(),
            stepMs: 1_000,
          })
          expect(series?.points.length).toBeGreaterThan(2)
          await expect(prometheus.query('rate(')).rejects.toThrow('parse error')
        },
      },
      () => {},
    )
    await stopSharedPostgres()
    expect(result).toMatchObject({ ok: true, faults: [] })
  },
)
