/** Which metrics and labels a query names. Of PromQL no more than that: whether it is one, promtool says. */

/** Prometheus' own. */
const FOREIGN = new Set(['up', 'ALERTS', 'scrape_samples_scraped'])
/** prom-client's defaults; docs/metrics.md has them as one row. */
const DEFAULTS = /^(process|nodejs)_/
/** Put to every series by Prometheus, or found in ALERTS. */
const GIVEN_LABELS = ['instance', 'job', 'le', 'alertname', 'alertstate']
const WORDS = new Set([
  'by',
  'without',
  'on',
  'ignoring',
  'group_left',
  'group_right',
  'and',
  'or',
  'unless',
  'bool',
  'offset',
])
const GROUPING = /\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)/g
const SELECTOR = /([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}/g

/** What is wrong with the names in a query. @param labelsOf the metrics there are, with their labels */
export function faultsOf(expr: string, labelsOf: ReadonlyMap<string, ReadonlySet<string>>): string[] {
  const plain = expr.replaceAll(/"(?:[^"\\]|\\.)*"/g, '""')
  const faults: string[] = []
  const known = new Set(GIVEN_LABELS)
  // label_replace() makes the label that it names.
  for (const [, label = ''] of expr.matchAll(/vector\(0\), "(\w+)"/g)) known.add(label)

  const bare = plain.replaceAll(GROUPING, ' ')
  const names = bare
    .replaceAll(/\{[^}]*\}/g, ' ')
    .replaceAll(/\[[^\]]*\]/g, ' ')
    .matchAll(/(?<![\w.])([a-zA-Z_:][\w:]*)(?![\w:]|\s*\()/g)
  for (const [, name = ''] of names) {
    if (WORDS.has(name) || FOREIGN.has(name) || DEFAULTS.test(name)) continue
    const labels = labelsFor(name, labelsOf)
    if (labels === undefined) faults.push(`no metric ${name}`)
    else for (const label of labels) known.add(label)
  }
  for (const [, name = '', matchers = ''] of bare.matchAll(SELECTOR)) {
    const labels = labelsFor(name, labelsOf)
    if (labels === undefined) continue
    for (const [, label = ''] of matchers.matchAll(/(\w+)\s*[=!]/g)) {
      if (!labels.has(label) && !GIVEN_LABELS.includes(label)) faults.push(`${name} has no label ${label}`)
    }
  }
  for (const [, list = ''] of plain.matchAll(GROUPING)) {
    for (const label of list.split(',').map((each) => each.trim())) {
      if (label !== '' && !known.has(label)) faults.push(`no label ${label}`)
    }
  }
  return faults
}

/** Of a histogram three metrics come, and only of a histogram: it is the only kind whose name ends with the unit. */
function labelsFor(
  name: string,
  labelsOf: ReadonlyMap<string, ReadonlySet<string>>,
): ReadonlySet<string> | undefined {
  const base = name.replace(/_(bucket|sum|count)$/, '')
  return labelsOf.get(name) ?? (base.endsWith('_total') ? undefined : labelsOf.get(base))
}
