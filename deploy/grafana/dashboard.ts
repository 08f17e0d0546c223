/**
 * The words in which a dashboard is written: panels that ask one question each, in rows. What Grafana makes of them is
 * in grafana-json.ts; what is asked, in the files beside this one.
 */

export interface Dashboard {
  /** Part of its address in Grafana, so it stays. */
  uid: string
  title: string
  /** The question that it answers. */
  question: string
  variables: readonly Variable[]
  rows: readonly Row[]
}

/** What a viewer chooses at the top. In a query: `instance=~"$instance"`. All are chosen at first. */
export interface Variable {
  name: string
  label: string
  /** A metric with this label, whose values are offered. */
  from: string
}

export interface Row {
  title: string
  panels: readonly Panel[]
}

export interface Panel {
  /** lines: over time. stat: the value of now, large. states: a band over time, by value. */
  kind: 'lines' | 'stat' | 'states'
  title: string
  /** What is normal, and what to do when it is not. */
  description: string
  unit: Unit
  queries: readonly Query[]
  /** Of 24. */
  width: number
  /** From low to high; what is below the first is fine. */
  thresholds?: readonly Threshold[]
  /** Names and colours of the values of states, or of a stat. */
  values?: Readonly<Record<number, Value>>
  /** One upon the other, for parts of a whole. */
  stacked?: boolean
  /** Colours by legend; the others are given in turn. */
  colours?: Readonly<Record<string, Colour>>
  /** Further alerts of deploy/prometheus that this panel explains. The runbooks of all of them are linked. */
  alerts?: readonly string[]
}

export interface Query {
  expr: string
  /** With {{label}} for its value. */
  legend: string
}

export interface Threshold {
  from: number
  colour: Colour
  /** The alert whose threshold this is; test/dashboards.test.ts holds the two together. */
  alert?: string
}

export interface Value {
  text: string
  colour: Colour
}

export type Colour = 'green' | 'yellow' | 'orange' | 'red' | 'blue' | 'purple' | 'grey'

/** Grafana's names of units. */
export type Unit =
  | 'reqps' // requests per second
  | 'ops'
  | 's'
  | 'percentunit' // 1 is 100 %
  | 'short'
  | 'bytes'
  | 'none'

type Options = Omit<Panel, 'kind' | 'title' | 'queries' | 'width'> & { width?: number }

/** Lines over time. */
export function lines(title: string, queries: Panel['queries'], options: Options): Panel {
  return { kind: 'lines', title, queries, width: 8, ...options }
}

/** One number. */
export function stat(title: string, expr: string, options: Options): Panel {
  return { kind: 'stat', title, queries: [{ expr, legend: '' }], width: 4, ...options }
}

/** Bands over time: what is up, which circuit is open. */
export function states(title: string, queries: Panel['queries'], options: Options): Panel {
  return { kind: 'states', title, queries, width: 8, ...options }
}

/** p50, p95 and p99 of a histogram's buckets, for each value of a label or of all together. */
export function quantiles(
  metric: string,
  { where = '', by }: { where?: string; by?: string } = {},
  shown: readonly number[] = [0.5, 0.95, 0.99],
): Query[] {
  const labels = by === undefined ? 'le' : `le, ${by}`
  const prefix = by === undefined ? '' : `{{${by}}} `
  return shown.map((of) => ({
    expr: `histogram_quantile(${of}, sum by (${labels}) (rate(${metric}_bucket{${where}}[$__rate_interval])))`,
    legend: `${prefix}p${of * 100}`,
  }))
}

/** How often a counter counts in a second, by a label. */
export function rates(metric: string, by: string, where = ''): Query[] {
  return [{ expr: `sum by (${by}) (rate(${metric}{${where}}[$__rate_interval]))`, legend: `{{${by}}}` }]
}

/** Which share of what a counter counts is of a kind; 0 when none is, and for each value of a label where one is given. */
export function share(
  metric: string,
  kind: string,
  { where = '', by }: { where?: string; by?: string } = {},
): string {
  const sum = by === undefined ? 'sum' : `sum by (${by}) `
  const rate = (labels: string) => `${sum}(rate(${metric}{${labels}}[$__rate_interval]))`
  const all = rate(where)
  return `(${rate(`${kind}, ${where}`)} or 0 * ${all}) / ${all}`
}

/** The present value of a quantile. */
export function quantile(of: number, metric: string, where: string): string {
  return `histogram_quantile(${of}, sum by (le) (rate(${metric}_bucket{${where}}[$__rate_interval])))`
}

/** The alerts that a panel explains. */
export function alertsOf({ thresholds = [], alerts = [] }: Panel): string[] {
  return [...new Set([...thresholds.flatMap(({ alert }) => alert ?? []), ...alerts])]
}
