import { setTimeout as pause } from 'node:timers/promises'

const POLL_MS = 25

/**
 * Waits for a condition: asks until the probe gives something other than undefined or false.
 * Rejects after `timeoutMs`, with what was waited for.
 */
export async function until<T>(
  what: string,
  probe: () => Promise<T | undefined | false> | T | undefined | false,
  timeoutMs = 10_000,
): Promise<T> {
  const endsAtMs = performance.now() + timeoutMs
  for (;;) {
    const found = await probe()
    if (found !== undefined && found !== false) return found
    if (performance.now() > endsAtMs) throw new Error(`waited ${timeoutMs} ms in vain for: ${what}`)
    await pause(POLL_MS)
  }
}
