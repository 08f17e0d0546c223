/** Expressions of alerts with one thing broken: what their tests have to notice. */
import type { AlertRule, RecordingRule } from './promtool.ts'

export interface Mutant {
  what: string
  rule: AlertRule
}

const INVERTED: Readonly<Record<string, string>> = { '>': '<=', '==': '!=', '<': '>=' }
/** Far enough from a threshold to be another one, near enough that a test of "much too much" alone does not notice. */
const THRESHOLD_FACTOR = 2

/** All that are made of one alert. @param names of all metrics there are */
export function mutantsOf(rule: AlertRule, names: ReadonlySet<string>): Mutant[] {
  const { expr } = rule
  return [
    ...renamed(expr, names),
    ...replaced(expr, / (>|==|<) /g, 'comparison', ([, sign = '']) => ` ${INVERTED[sign]} `),
    ...replaced(
      expr,
      / > ([\d.]+)/g,
      'threshold',
      ([, number]) => ` > ${Number(number) * THRESHOLD_FACTOR || 1e9}`,
    ),
    ...replaced(
      expr,
      / > ([\d.]+)/g,
      'threshold',
      ([, number]) => ` > ${Number(number) / THRESHOLD_FACTOR || -1}`,
    ),
    ...replaced(expr, /(=~?)"([^"]*)"/g, 'label', ([, sign]) => `${sign}"gone"`),
    ...replaced(expr, /\b(and|unless)\b/g, 'condition', ([, word]) => (word === 'and' ? 'or' : 'and')),
  ].map(({ what, expr: broken }) => ({ what, rule: { ...rule, expr: broken } }))
}

/** Each metric under a name that nothing has. */
function renamed(expr: string, names: ReadonlySet<string>) {
  return replaced(expr, /[a-z][\w:]*|"[^"]*"/g, 'metric', ([word]) =>
    names.has(word) ? `${word}_gone` : undefined,
  )
}

/** For each place that fits, the expression with that place replaced. */
function replaced(
  expr: string,
  pattern: RegExp,
  kind: string,
  replacement: (match: RegExpExecArray) => string | undefined,
): { what: string; expr: string }[] {
  return [...expr.matchAll(pattern)].flatMap((match) => {
    const text = replacement(match)
    if (text === undefined) return []
    const { index } = match
    return {
      what: `${kind} at ${index}: ${match[0].trim()} → ${text.trim()}`,
      expr: expr.slice(0, index) + text + expr.slice(index + match[0].length),
    }
  })
}

/** An alert with nothing of the rest but what it reads: the shares it compares, and the causes that silence it. */
export function withWhatItReads(
  rule: AlertRule,
  all: { alerts: readonly AlertRule[]; recordings: readonly RecordingRule[] },
): (AlertRule | RecordingRule)[] {
  const causes = rule.expr.includes('ALERTS') ? all.alerts.filter(({ labels }) => labels['explains']) : []
  return [...all.recordings.filter(({ record }) => rule.expr.includes(record)), ...causes, rule]
}
