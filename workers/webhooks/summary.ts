/** What there is of each endpoint: those that are configured, and those of which something is left. */
import type { Deliveries } from './deliveries.ts'

export interface EndpointSummary {
  readonly name: string
  /** In WEBHOOKS_FILE. */
  readonly configured: boolean
  readonly waiting: number
  /** Of the oldest that waits; 0 when none does. */
  readonly oldest_seconds: number
  readonly dead: number
  /** Since when nothing is delivered there. */
  readonly disabled_since?: string
}

/** Rejects with the database's error. */
export async function summarize(
  deliveries: Deliveries,
  endpoints: readonly { readonly name: string }[],
): Promise<EndpointSummary[]> {
  const [counts, disabled] = [await deliveries.counts(), await deliveries.disabled()]
  const configured = new Set(endpoints.map(({ name }) => name))
  const names = new Set([...configured, ...counts.map(({ endpoint }) => endpoint), ...disabled.keys()])
  return [...names].map((name) => {
    const of = (state: string) => counts.find((each) => each.endpoint === name && each.state === state)
    const since = disabled.get(name)
    return {
      name,
      configured: configured.has(name),
      waiting: of('pending')?.count ?? 0,
      oldest_seconds: Math.round(of('pending')?.ageSeconds ?? 0),
      dead: of('dead')?.count ?? 0,
      ...(since !== undefined && { disabled_since: since.toISOString() }),
    }
  })
}
