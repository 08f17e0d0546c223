/**
 * The dashboards that Grafana reads are those that are written in deploy/grafana; what they ask for exists, and they
 * agree with the alerts. That each query finds data is shown on a running system: npm run dashboards:live.
 */
import { spawnSync } from 'node:child_process'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { alertsOf } from '../deploy/grafana/dashboard.ts'
import { DASHBOARDS } from '../deploy/grafana/dashboards.ts'
import { grafanaDashboard } from '../deploy/grafana/grafana-json.ts'
import { writeTemporary } from './harness/configuration.ts'
import { codeOf, tableRows } from './harness/documents.ts'
import { readSource, sourceFiles } from './harness/sources.ts'
import { annotationQueries, panelQueries, shippedDashboards } from './observability/dashboards.ts'
import { absentPrometheus } from './observability/prometheus.ts'
import { faultsOf } from './observability/promql-names.ts'

interface RuleFile {
  groups: { rules: { alert?: string; record?: string; expr: string }[] }[]
}
const rules = sourceFiles('deploy/prometheus/*.rules.yml').flatMap((file) =>
  (parse(readSource(file)) as RuleFile).groups.flatMap((group) => group.rules),
)
const alerts = new Map(
  rules.flatMap(({ alert, expr }) => (alert === undefined ? [] : [[alert, expr] as const])),
)
const panels = Object.values(DASHBOARDS).flatMap((dashboard) => dashboard.rows.flatMap((row) => row.panels))

/** Metrics and their labels, as docs/metrics.md has them, which a test holds equal to the code. */
const labelsOf = new Map<string, ReadonlySet<string>>(
  tableRows(readSource('docs/metrics.md')).flatMap(([name, program, , labels = '']) => {
    const metric = codeOf(name)
    if (metric === undefined || !/^(gateway|worker)/.test(program ?? '')) return []
    return [[metric, new Set([...labels.matchAll(/`(\w+)`/g)].map(([, label = '']) => label))] as const]
  }),
)
for (const { record } of rules) if (record !== undefined) labelsOf.set(record, new Set())

describe('what Grafana reads', () => {
  test.each(Object.entries(DASHBOARDS))('of %s is what is written', (name, dashboard) => {
    const shipped = JSON.parse(readSource(`deploy/grafana/dashboards/${name}.json`)) as unknown
    expect(shipped, 'npm run dashboards').toEqual(JSON.parse(JSON.stringify(grafanaDashboard(dashboard))))
  })

  test('has no further dashboard, and addresses and numbers that are each one’s own', () => {
    const shipped = shippedDashboards()
    expect(shipped).toHaveLength(Object.keys(DASHBOARDS).length)
    expect(new Set(shipped.map(({ uid }) => uid)).size).toBe(shipped.length)
    for (const { panels } of shipped) {
      expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length)
      const titles = panels.filter(({ type }) => type !== 'row').map(({ title }) => title)
      expect(new Set(titles).size).toBe(titles.length)
    }
  })

  test('lies in the grid, each panel in a place of its own', () => {
    for (const { panels } of shippedDashboards()) {
      const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
        Array.from({ length: w * h }, (_, at) => `${x + (at % w)},${y + Math.floor(at / w)}`),
      )
      expect(new Set(cells).size).toBe(cells.length)
      expect(panels.filter(({ gridPos: { x, w } }) => x + w > 24)).toEqual([])
    }
  })

  test('says of every panel what is normal', () => {
    const silent = panels.filter(({ description }) => description.length < 20)
    expect(silent).toEqual([])
  })
})

describe('queries', () => {
  const queries = [...panelQueries(), ...annotationQueries()]

  test.skipIf(absentPrometheus())('are PromQL', () => {
    const file = writeTemporary(
      JSON.stringify({
        groups: [
          { name: 'all', rules: queries.map(({ filled }, at) => ({ record: `q:${at}`, expr: filled })) },
        ],
      }),
    )
    const { status, stderr } = spawnSync('promtool', ['check', 'rules', file], { encoding: 'utf8' })
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  })

  test('name metrics and labels that exist', () => {
    expect(
      queries.flatMap(({ where, filled }) => faultsOf(filled, labelsOf).map((fault) => `${where}: ${fault}`)),
    ).toEqual([])
  })

  test('that name others are found out', () => {
    expect(faults('sum by (outcome) (rate(login_total{outcome!="ok", instance=~".*"}[5m]))')).toEqual([])
    expect(faults('login_totals')).toEqual(['no metric login_totals'])
    expect(faults('rate(login_total{result="ok"}[5m])')).toEqual(['login_total has no label result'])
    expect(faults('sum by (route) (rate(login_total[5m]))')).toEqual(['no label route'])
    expect(faults('rate(login_total_bucket[5m])')).toEqual(['no metric login_total_bucket'])
    expect(faults('histogram_quantile(0.9, sum by (le) (rate(login_duration_seconds_bucket[5m])))')).toEqual(
      [],
    )
    expect(faults('a_metric offset 5m and on (instance) up == 1 or vector(0)')).toEqual([
      'no metric a_metric',
    ])
  })
})

describe('the alerts', () => {
  test('are each explained by a panel, and panels name no other', () => {
    const named = new Set(panels.flatMap(alertsOf))
    expect([...named].toSorted()).toEqual([...alerts.keys()].toSorted())
  })

  test('have the thresholds that are drawn', () => {
    const others = panels.flatMap(({ title, thresholds = [] }) =>
      thresholds
        .filter(
          ({ alert, from }) => alert !== undefined && !numbersIn(alerts.get(alert) ?? '').includes(from),
        )
        .map(({ alert, from }) => `${title}: ${from} is not a number of ${alert}`),
    )
    expect(others).toEqual([])
  })

  test('have a runbook where the panels lead', () => {
    const headings = [...readSource('docs/runbooks.md').matchAll(/^#+ (\w+)$/gm)].map(([, name]) => name)
    expect([...alerts.keys()].filter((name) => !headings.includes(name))).toEqual([])
  })
})

const faults = (expr: string) => faultsOf(expr, labelsOf)

function numbersIn(expr: string): number[] {
  return [...expr.matchAll(/(?<![\w.])\d+(?:\.\d+)?(?![\w.])/g)].map(([number]) => Number(number))
}
