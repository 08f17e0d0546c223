/**
 * The kinds of metrics as both processes make them. With process.ts the only file that imports prom-client
 * (which now lives on as @prometheus-io/client): its registry writes what Prometheus reads.
 *
 * Counters and histograms keep their own counts. prom-client finds a child by a text made of its labels, at every
 * count; here it is found by a look into a map for each label, and a request counts some twenty times
 * (npm run benchmark:metrics).
 *
 * Every metric says how many children it may have, and holds to it: a further one is counted as `other`. So the number
 * of series of a process is bounded, whatever its labels turn out to be.
 */
import { Gauge, Registry } from 'prom-client'
import type { Metric, OpenMetricsContentType } from 'prom-client'

export type Labels = Readonly<Record<string, string | number>>

export interface MetricsText {
  contentType: string
  text(): Promise<string>
}

export interface Metrics {
  readonly registry: Registry
  /** What there is, by name. */
  readonly catalogue: Map<string, CatalogueEntry>
}

export interface CatalogueEntry {
  type: MetricType
  help: string
  labelNames: readonly string[]
  /** Of a histogram. */
  buckets?: readonly number[] | undefined
  /** How many there can be. */
  seriesMax: number
}

type MetricType = 'counter' | 'gauge' | 'histogram'
type OpenMetricsRegistry = Registry<OpenMetricsContentType>

export interface MetricSpec {
  name: string
  help: string
  labelNames?: readonly string[]
  /** Children at most. Default 16. */
  childrenMax?: number
  /** Children that are there from the start: a series that begins with its first count shows no rise. */
  zero?: readonly Labels[]
}

export interface CounterMetric {
  inc(labels?: Labels, by?: number): void
  remove(labels: Labels): void
}

export interface HistogramMetric {
  /** @param traceId of a trace that shows such a value: an exemplar */
  observe(value: number, labels?: Labels, traceId?: string): void
}

const CHILDREN_MAX = 16
const OTHER = 'other'
const NO_LABELS: Labels = {}

/** @param withExemplars only OpenMetrics, the newer of the two texts, has them: all of the answer is in that one then */
export function createMetrics({ withExemplars = false } = {}): Metrics {
  const registry: Registry = new Registry()
  // To the types a registry of the other text is another one, which makes no difference here.
  if (withExemplars)
    (registry as unknown as OpenMetricsRegistry).setContentType(Registry.OPENMETRICS_CONTENT_TYPE)
  return { registry, catalogue: new Map() }
}

/** A registry as Prometheus reads it. */
export function exposition({ registry }: Metrics): MetricsText {
  return { contentType: registry.contentType, text: () => registry.metrics() }
}

/** A value that goes up and down. */
export function gauge(metrics: Metrics, spec: MetricSpec): Gauge {
  const { name, help, labelNames = [] } = spec
  note(metrics, spec, 'gauge')
  return new Gauge({ name, help, labelNames, registers: [metrics.registry] })
}

type Answer = number | readonly (readonly [labels: Labels, value: number])[] | undefined

/** A value that is asked for when scraped. An answer that fails, or is none, leaves it out: absent rather than wrong. */
export function askedGauge(metrics: Metrics, spec: MetricSpec, ask: () => Answer | Promise<Answer>): void {
  register(metrics, spec, 'gauge', async () => {
    const answer = await Promise.resolve()
      .then(ask)
      .catch(() => undefined)
    if (answer === undefined) return []
    if (typeof answer === 'number') return [{ labels: NO_LABELS, value: answer }]
    return answer.slice(0, spec.childrenMax ?? CHILDREN_MAX).map(([labels, value]) => ({ labels, value }))
  })
}

/** A number that only grows. */
export function counter(metrics: Metrics, spec: MetricSpec): CounterMetric {
  const children = createChildren(spec, () => ({ count: 0 }))
  register(metrics, spec, 'counter', () =>
    children.all().map(({ labels, child }) => ({ labels, value: child.count })),
  )
  return {
    inc(labels = NO_LABELS, by = 1) {
      children.of(labels).count += by
    },
    remove: (labels) => children.remove(labels),
  }
}

/** A number that only grows and is counted elsewhere. Asked for when scraped. */
export function askedCounter(metrics: Metrics, spec: MetricSpec, ask: () => number): void {
  register(metrics, spec, 'counter', () => [{ labels: NO_LABELS, value: ask() }])
}

interface Exemplar {
  labelSet: Labels
  value: number
  /** Unix seconds. */
  timestamp: number
}

/** How often, by how much. */
export function histogram(
  metrics: Metrics,
  spec: MetricSpec & { buckets: readonly number[] },
): HistogramMetric {
  const { name, buckets } = spec
  const children = createChildren(spec, () => ({
    counts: new Float64Array(buckets.length + 1),
    sum: 0,
    exemplars: [] as (Exemplar | undefined)[],
  }))
  register(metrics, spec, 'histogram', () =>
    children.all().flatMap(({ labels, child }) => rows(labels, child)),
  )

  function rows(labels: Labels, { counts, sum, exemplars }: ReturnType<typeof children.of>): Row[] {
    let count = 0
    const ofBuckets = [...counts].map((own, at): Row => {
      count += own
      const le = buckets[at] ?? '+Inf'
      return {
        labels: { le, ...labels },
        value: count,
        metricName: `${name}_bucket`,
        exemplar: exemplars[at],
      }
    })
    return [
      ...ofBuckets,
      { labels, value: sum, metricName: `${name}_sum` },
      { labels, value: count, metricName: `${name}_count` },
    ]
  }

  return {
    observe(value, labels = NO_LABELS, traceId) {
      const child = children.of(labels)
      let at = 0
      while (at < buckets.length && value > (buckets[at] ?? 0)) at += 1
      child.counts[at] = (child.counts[at] ?? 0) + 1
      child.sum += value
      if (traceId !== undefined) {
        child.exemplars[at] = { labelSet: { trace_id: traceId }, value, timestamp: Date.now() / 1_000 }
      }
    },
  }
}

type Branch<Child> = Map<string | number, Branch<Child> | Leaf<Child>>
interface Leaf<Child> {
  labels: Labels
  child: Child
}

/** The children of a metric, by the values of their labels: a tree of maps with a level for each label. */
function createChildren<Child>(spec: MetricSpec, create: () => Child) {
  const {
    labelNames = [],
    childrenMax = CHILDREN_MAX,
    zero = labelNames.length === 0 ? [NO_LABELS] : [],
  } = spec
  const lastName = labelNames.at(-1)
  const leaves = new Set<Leaf<Child>>()
  const root: Branch<Child> = new Map()
  for (const labels of zero) of(labels)

  function of(labels: Labels): Child {
    let node: Branch<Child> | Leaf<Child> | undefined = root
    if (lastName === undefined) node = root.get('')
    else for (const name of labelNames) node = (node as Branch<Child> | undefined)?.get(labels[name] ?? '')
    return node === undefined ? grow(labels) : (node as Leaf<Child>).child
  }

  function grow(labels: Labels): Child {
    if (leaves.size >= childrenMax && labelNames.some((name) => labels[name] !== OTHER))
      return of(Object.fromEntries(labelNames.map((name) => [name, OTHER])))
    const leaf = { labels, child: create() }
    leaves.add(leaf)
    branchOf(labels).set(lastName === undefined ? '' : (labels[lastName] ?? ''), leaf)
    return leaf.child
  }

  /** Where a child's leaf hangs. */
  function branchOf(labels: Labels): Branch<Child> {
    let branch = root
    for (const name of labelNames.slice(0, -1)) {
      const value = labels[name] ?? ''
      const next = (branch.get(value) as Branch<Child> | undefined) ?? new Map()
      branch.set(value, next)
      branch = next
    }
    return branch
  }

  return {
    of,
    all: () => [...leaves],
    remove(labels: Labels): void {
      const branch = branchOf(labels)
      const value = labels[lastName ?? ''] ?? ''
      const leaf = branch.get(value) as Leaf<Child> | undefined
      if (leaf === undefined) return
      leaves.delete(leaf)
      branch.delete(value)
    },
  }
}

interface Row {
  labels: Labels
  value: number
  /** Where it is not the metric's own. */
  metricName?: string
  exemplar?: Exemplar | undefined
}

/** Gives a registry a metric that says its values when it is asked. */
function register(
  metrics: Metrics,
  spec: MetricSpec & { buckets?: readonly number[] },
  type: MetricType,
  read: () => Row[] | Promise<Row[]>,
): void {
  note(metrics, spec, type)
  const { help } = spec
  const metric = {
    name: spec.name,
    help,
    type,
    // In OpenMetrics the registry takes the _total off the name of a counter, and puts it to each row.
    get: async () => ({ name: metric.name, help, type, aggregator: 'sum', values: await read() }),
  }
  metrics.registry.registerMetric(metric as unknown as Metric)
}

function note(
  { catalogue }: Metrics,
  spec: MetricSpec & { buckets?: readonly number[] },
  type: MetricType,
): void {
  const { name, help, labelNames = [], childrenMax = CHILDREN_MAX, buckets } = spec
  // One child may be added for `other`. A histogram has a series for each bucket, +Inf, its sum and its count.
  const children = labelNames.length === 0 ? 1 : childrenMax + (type === 'gauge' ? 0 : 1)
  const seriesMax = children * (buckets === undefined ? 1 : buckets.length + 3)
  catalogue.set(name, { type, help, labelNames, buckets, seriesMax })
}
