/** The kinds of metrics as both processes make them: how each is named, described and put into a registry. */
import { Counter, Gauge, Histogram } from 'prom-client'
import type { Registry } from 'prom-client'

export interface MetricsText {
  contentType: string
  text(): Promise<string>
}

/** A registry as Prometheus reads it. */
export function exposition(registry: Registry): MetricsText {
  return { contentType: registry.contentType, text: () => registry.metrics() }
}

/** A value that goes up and down. */
export function gauge(
  registry: Registry,
  name: string,
  help: string,
  labelNames: readonly string[] = [],
): Gauge {
  return new Gauge({ name, help, labelNames, registers: [registry] })
}

/** A number that only grows. */
export function counter(
  registry: Registry,
  name: string,
  help: string,
  labelNames: readonly string[] = [],
): Counter {
  return new Counter({ name, help, labelNames, registers: [registry] })
}

/** How often, by how much. */
export function histogram(
  registry: Registry,
  spec: { name: string; help: string; buckets: number[]; labelNames?: readonly string[] },
): Histogram {
  return new Histogram({ labelNames: [], ...spec, registers: [registry] })
}
