/**
 * Blocks the event loop of a process for real, and of nobody else: loaded into it by --import, it does so each
 * time when a signal comes. The product knows nothing of it.
 */
import type { ChildProcess } from 'node:child_process'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

/** Node gives it no meaning, and neither does close-with-grace. */
const SIGNAL = 'SIGWINCH'
const BLOCK_VARIABLE = 'TEST_BLOCK_MS'

const blockMs = Number(process.env[BLOCK_VARIABLE] ?? 0)
if (blockMs > 0) process.on(SIGNAL, () => occupy(blockMs))

/** Spins for so long. */
export function occupy(ms: number): void {
  const endsAtMs = performance.now() + ms
  while (performance.now() < endsAtMs);
}

/** What a process needs in its environment for its loop to be blocked for `ms` at each block(). */
export function blockable(ms: number): Record<string, string> {
  return { NODE_OPTIONS: `--import=${fileURLToPath(import.meta.url)}`, [BLOCK_VARIABLE]: String(ms) }
}

/** Begins one block. */
function block(child: ChildProcess): void {
  child.kill(SIGNAL)
}

/** One block after another, so many a second, until stop() is called. */
export function blockAgainAndAgain(child: ChildProcess, everyMs: number): { stop(): void } {
  const timer = setInterval(() => block(child), everyMs)
  block(child)
  return { stop: () => clearInterval(timer) }
}

/** Long enough for a signal to arrive and a block to have begun, on a machine that does other things too. */
export async function blockBegun(child: ChildProcess): Promise<void> {
  block(child)
  await pause(100)
}
