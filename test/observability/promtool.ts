/** promtool, and the shipped rules and their tests as it reads them. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse } from 'yaml'

const PROMETHEUS_FOLDER = new URL('../../deploy/prometheus/', import.meta.url).pathname

export interface AlertRule {
  alert: string
  expr: string
  for?: string
  labels: Record<string, string>
  annotations: Record<string, string>
}

export interface RecordingRule {
  record: string
  expr: string
}

export interface RuleTest {
  name: string
  promql_expr_test: { eval_time: string; expr: string; exp_samples?: unknown[] }[]
}

interface TestFile {
  evaluation_interval: string
  tests: RuleTest[]
}

function read(file: string): unknown {
  return parse(readFileSync(PROMETHEUS_FOLDER + file, 'utf8'))
}

export const alerts = rulesOf<AlertRule>('alerts.rules.yml')
export const recordings = rulesOf<RecordingRule>('recording.rules.yml')
export const testFiles = ['tests/alerts.test.yml', 'tests/budgets.test.yml']
const tests = testFiles.map((file) => read(file) as TestFile)

function rulesOf<Rule extends AlertRule | RecordingRule>(file: string): Rule[] {
  const { groups } = read(file) as { groups: { rules: Rule[] }[] }
  return groups.flatMap(({ rules }) => rules)
}

/** The tests that look at an alert. */
export function testsOf(alert: string): RuleTest[] {
  return tests.flatMap((file) => file.tests).filter((test) => looksAt(test, alert))
}

function looksAt(test: RuleTest, alert: string): boolean {
  return test.promql_expr_test.some(({ expr }) => expr.includes(`alertname="${alert}"`))
}

/** Why there is none on this machine; undefined: there is. */
export function absentPromtool(): string | undefined {
  return spawnSync('promtool', ['--version']).status === 0
    ? undefined
    : 'there is no promtool on this machine (apt-get install prometheus)'
}

interface Verdict {
  passed: boolean
  output: string
}

/** Standard output and error are one file: of two pipes the order would be lost, and with it which file a verdict is of. */
export async function runPromtool(...args: string[]): Promise<Verdict> {
  const folder = mkdtempSync(join(tmpdir(), 'gateway-promtool-'))
  const file = join(folder, 'output')
  const output = openSync(file, 'w')
  try {
    const child = spawn('promtool', args, { cwd: PROMETHEUS_FOLDER, stdio: ['ignore', output, output] })
    const [code] = (await once(child, 'close')) as [number | null]
    return { passed: code === 0, output: readFileSync(file, 'utf8') }
  } finally {
    closeSync(output)
    rmSync(folder, { recursive: true, force: true })
  }
}

interface Trial {
  alert: string
  /** In place of the shipped ones. */
  rules: readonly (AlertRule | RecordingRule)[]
}

/** Runs the tests of an alert against other rules, many at once: whether each passed. */
export async function tryRules(trials: readonly Trial[]): Promise<boolean[]> {
  const folder = mkdtempSync(join(tmpdir(), 'gateway-promtool-'))
  try {
    const files = trials.map(({ alert, rules }, at) => {
      const ruleFile = `${at}.rules.yml`
      // YAML includes JSON.
      writeFileSync(join(folder, ruleFile), JSON.stringify({ groups: [{ name: 'rules', rules }] }))
      const file = tests.find(({ tests: all }) => all.some((test) => looksAt(test, alert)))
      if (file === undefined) throw new Error(`${alert} has no test`)
      const own = file.tests.filter((test) => looksAt(test, alert))
      const testFile = join(folder, `${at}.test.yml`)
      writeFileSync(
        testFile,
        JSON.stringify({
          rule_files: [ruleFile],
          evaluation_interval: file.evaluation_interval,
          tests: own,
        }),
      )
      return testFile
    })
    const { output } = await runPromtool('test', 'rules', ...files)
    const verdicts = new Map(
      [...output.matchAll(/^Unit Testing: +(\S+)\s+(SUCCESS|FAILED)/gm)].map(([, file, verdict]) => [
        file,
        verdict === 'SUCCESS',
      ]),
    )
    return files.map((file) => {
      const passed = verdicts.get(file)
      if (passed === undefined) throw new Error(`promtool did not run ${file}: ${output.slice(0, 500)}`)
      return passed
    })
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
