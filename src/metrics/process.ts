/** What both processes say of themselves: Node.js' own figures, how busy the event loop is, and what runs here. */
import { readFileSync } from 'node:fs'
import { performance } from 'node:perf_hooks'
import { collectDefaultMetrics } from 'prom-client'
import { askedGauge } from './kinds.ts'
import type { Metrics } from './kinds.ts'

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

/** What prom-client's own metrics come to: measured 108 on Node 26, with all kinds of garbage collection. */
const DEFAULT_SERIES_MAX = 130

export function describeProcess(metrics: Metrics, program: 'gateway' | 'worker'): void {
  collectDefaultMetrics({ register: metrics.registry })
  metrics.catalogue.set('nodejs_*, process_*', {
    type: 'gauge',
    help: "Node.js' own: event loop, heap, garbage collection, descriptors, memory, CPU (prom-client's defaults).",
    labelNames: [],
    seriesMax: DEFAULT_SERIES_MAX,
  })
  askedGauge(
    metrics,
    {
      name: 'build_info',
      help: 'Always 1: what runs here, by program (gateway, worker), version and that of Node.js.',
      labelNames: ['program', 'version', 'node'],
      childrenMax: 1,
    },
    () => [[{ program, version, node: process.version }, 1]],
  )
  let before = performance.eventLoopUtilization()
  askedGauge(
    metrics,
    {
      name: 'event_loop_utilization_ratio',
      help: 'Share of the time since the last scrape in which the event loop was at work. At 1 the process can do no more.',
    },
    () => {
      const now = performance.eventLoopUtilization()
      const { utilization } = performance.eventLoopUtilization(now, before)
      before = now
      return utilization
    },
  )
}
