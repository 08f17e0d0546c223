/** Tracing begins: what it needs is loaded here, when it is on, and not otherwise. */
import { createThrottle } from '../log.ts'
import type { Log } from '../log.ts'
import type { SpanFate, Tracing, TracingConfig } from './tracing.ts'

/** Loads OpenTelemetry; once a process. @param name of the service */
export async function startTracing(config: TracingConfig, name: string): Promise<Tracing> {
  const [{ createTracing }, { traceRedis }] = await Promise.all([
    import('./opentelemetry.ts'),
    import('./redis-spans.ts'),
  ])
  const tracing = createTracing(config, name)
  const stop = traceRedis()
  return {
    ...tracing,
    close() {
      stop()
      return tracing.close()
    },
  }
}

const REPORT_INTERVAL_MS = 10_000

/** Counts what becomes of spans, and says it in the log now and then when they are lost. */
export function reportSpans(
  tracing: Tracing,
  { spans, log }: { spans: { inc(labels: { fate: SpanFate }, by: number): void }; log: Log },
): void {
  const throttle = createThrottle(REPORT_INTERVAL_MS)
  tracing.onSpans((fate, count) => {
    spans.inc({ fate }, count)
    if (fate !== 'exported')
      throttle(fate, () => log.warn({ fate, spans: count }, 'spans of traces are lost'))
  })
}
