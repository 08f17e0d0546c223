/** Whether and where traces go, as the environment says it: for the gateway and the worker. */
import type { Reading } from '../reading.ts'
import { Secret } from '../secret.ts'
import type { SettingName } from '../settings.ts'
import type { TracingConfig } from './tracing.ts'

/** Read by both processes. */
export const TRACING_SETTINGS = [
  'OTEL_EXPORTER_OTLP_ENDPOINT',
  'OTEL_EXPORTER_OTLP_HEADERS',
  'OTEL_TRACES_SAMPLER_ARG',
] as const satisfies readonly SettingName[]

/** undefined: tracing is off. */
export function tracingConfig(
  { values }: Reading<(typeof TRACING_SETTINGS)[number]>,
  { trustsParent }: Pick<TracingConfig, 'trustsParent'>,
): TracingConfig | undefined {
  const { OTEL_EXPORTER_OTLP_ENDPOINT: endpoint, OTEL_EXPORTER_OTLP_HEADERS: headers } = values
  if (endpoint === undefined) return undefined
  return {
    endpoint,
    headers: headers === undefined ? undefined : new Secret(headers),
    share: values.OTEL_TRACES_SAMPLER_ARG,
    trustsParent,
  }
}
