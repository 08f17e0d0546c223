/**
 * The rules for Prometheus: that promtool takes them, that each alert says what whoever is woken needs, and that its
 * tests notice when its expression is broken.
 */
import { describe, expect, test } from 'vitest'
import { ERRORS } from '../../src/errors.ts'
import { allMetrics } from '../harness/all-metrics.ts'
import { readSource } from '../harness/sources.ts'
import { mutantsOf, withWhatItReads } from './mutants.ts'
import { absentPromtool, alerts, recordings, runPromtool, testFiles, testsOf, tryRules } from './promtool.ts'

const absent = absentPromtool()
if (absent !== undefined) console.log(`what promtool checks is skipped: ${absent}`)

/** What Prometheus and prom-client add to ours. */
const OTHERS = [
  'ALERTS',
  'up',
  'scrape_samples_scraped',
  'nodejs_eventloop_lag_p99_seconds',
  'process_max_fds',
  'process_open_fds',
  'process_start_time_seconds',
]
const names = new Set([...allMetrics().names, ...OTHERS, ...recordings.map(({ record }) => record)])
const rules = [...alerts, ...recordings]

describe.skipIf(absent)('promtool', () => {
  test.each([
    ['check', 'config', 'prometheus.yml'],
    ['check', 'rules', 'recording.rules.yml', 'alerts.rules.yml'],
    ...testFiles.map((file) => ['test', 'rules', file]),
  ])('%s %s %s', { timeout: 120_000 }, async (...args) => {
    expect(await runPromtool(...args)).toMatchObject({ passed: true })
  })
})

describe.each(alerts)('$alert', (alert) => {
  test('says how urgent it is, why then, and what to do, here and in its runbook', () => {
    const { labels, annotations } = alert
    expect(['page', 'ticket']).toContain(labels['severity'])
    for (const name of ['summary', 'threshold', 'first_step']) expect(annotations[name]).toMatch(/^\S.{9,}$/s)
    expect(annotations['runbook']).toBe(`docs/runbooks.md#${alert.alert.toLowerCase()}`)
    const [, section = ''] = readSource('docs/runbooks.md').split(`### ${alert.alert}\n`)
    const [text = ''] = section.split(/^##/m)
    expect(text).toContain(`\`${labels['severity']}\``)
    for (const part of ['Why then', 'Confirm', 'First', 'Then', 'Over when'])
      expect(text).toMatch(new RegExp(`^- \\*\\*${part}\\*\\*: \\S`, 'm'))
  })

  test('has a test that sees it fire, and one that sees it silent', () => {
    const looks = testsOf(alert.alert).flatMap((each) => each.promql_expr_test)
    expect(looks.some(({ exp_samples: samples }) => samples !== undefined)).toBe(true)
    expect(looks.some(({ exp_samples: samples }) => samples === undefined)).toBe(true)
  })
})

test('the rules name no metric that there is not', () => {
  const unknown = rules.flatMap(({ expr }) =>
    [...expr.replaceAll(/"[^"]*"/g, '""').matchAll(/([a-zA-Z_:][\w:]*)(?=[{[])/g)]
      .map(([name]) => name)
      .filter((name) => !names.has(name)),
  )
  expect(unknown).toEqual([])
})

test('the runbooks tell of no alert that there is not', () => {
  const told = [...readSource('docs/runbooks.md').matchAll(/^### (\w+)$/gm)].map(([, name]) => name)
  expect(told).toEqual(alerts.map(({ alert }) => alert))
})

// A share of requests that failed is one of 5xx: what the catalogue calls so is what the budget means.
test("what is our fault, or WeChat's, is answered 5xx, and what a client can put right is not", () => {
  const failures = Object.entries(ERRORS).filter(([, { status }]) => status >= 500)
  const codes = failures.map(([code]) => code)
  expect(codes).toEqual(
    expect.arrayContaining(['internal', 'overloaded', 'store_unavailable', 'wechat_timeout']),
  )
  expect(codes).not.toContain('code_invalid')
  expect(codes).not.toContain('rate_limited')
})

describe.skipIf(absent)('the tests notice', () => {
  const all = alerts.flatMap((rule) => mutantsOf(rule, names))

  test('nothing, where nothing but the rest of the rules is missing', { timeout: 60_000 }, async () => {
    const trials = alerts.map((rule) => ({
      alert: rule.alert,
      rules: withWhatItReads(rule, { alerts, recordings }),
    }))
    const passed = await tryRules(trials)
    expect(trials.filter((_, at) => !passed[at]).map(({ alert }) => alert)).toEqual([])
  })

  // All of them are for `npm run alerts:mutants`; here the two that the smallest slip makes.
  const kinds = process.env['ALERT_MUTANTS'] === 'all' ? /./ : /^(metric|comparison) at/
  const mutants = all.filter(({ what }) => kinds.test(what))
  test(`each of ${mutants.length} ways to break an expression`, { timeout: 280_000 }, async () => {
    for (const { alert } of alerts) {
      const own = mutants.filter(({ rule }) => rule.alert === alert).map(({ what }) => what)
      expect(
        own.some((what) => what.startsWith('metric')),
        alert,
      ).toBe(true)
      expect(
        own.some((what) => what.startsWith('comparison')),
        alert,
      ).toBe(true)
    }
    const trials = mutants.map(({ rule }) => ({
      alert: rule.alert,
      rules: withWhatItReads(rule, { alerts, recordings }),
    }))
    const half = Math.ceil(trials.length / 2)
    const passed = (await Promise.all([tryRules(trials.slice(0, half)), tryRules(trials.slice(half))])).flat()
    const unnoticed = mutants.filter((_, at) => passed[at]).map(({ what, rule }) => `${rule.alert}: ${what}`)
    expect(unnoticed).toEqual([])
  })
})
