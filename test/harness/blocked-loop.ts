/**
 * Blocks the event loop of a process for real, and of nobody else: loaded into it by --import, it does so each
 * time when a signal comes. The product knows nothing of it.
 */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { until } from './until.ts'

/** Node gives it no meaning, and neither does close-with-grace. */
const SIGNAL = 'SIGWINCH'
const BLOCK_VARIABLE = 'TEST_BLOCK_MS'

const blockMs = Number(process.env[BLOCK_VARIABLE] ?? 0)
if (blockMs > 0) {
  let blocks = 0
  process.on(SIGNAL, () => {
    writeFileSync(markOf(process.pid), `${performance.timeOrigin} ${(blocks += 1)}`)
    occupy(blockMs)
  })
  process.on('exit', () => rmSync(markOf(process.pid), { force: true }))
}

/** Where a process says that a block has begun: another text each time. */
function markOf(pid: number): string {
  return join(tmpdir(), `block-${pid}`)
}

/** Spins for so long. */
export function occupy(ms: number): void {
  const endsAtMs = performance.now() + ms
  while (performance.now() < endsAtMs);
}

/** What a process needs in its environment for its loop to be blocked for `ms` at each block(). */
export function blockable(ms: number): Record<string, string> {
  return { NODE_OPTIONS: `--import=${fileURLToPath(import.meta.url)}`, [BLOCK_VARIABLE]: String(ms) }
}

/** A process that was started with it. */
interface Blockable {
  readonly pid?: number | undefined
}

function block({ pid }: Blockable): void {
  if (pid !== undefined) process.kill(pid, SIGNAL)
}

/** One block after another, at this distance, until stop() is called. */
export function blockAgainAndAgain(blocked: Blockable, everyMs: number): { stop(): void } {
  const timer = setInterval(() => block(blocked), everyMs)
  block(blocked)
  return { stop: () => clearInterval(timer) }
}

/** Begins one; comes back when it has begun, however late the process hears of it. */
export async function blockBegun(blocked: Blockable): Promise<void> {
  const path = markOf(blocked.pid ?? 0)
  const mark = () => (existsSync(path) ? readFileSync(path, 'utf8') : '')
  const before = mark()
  block(blocked)
  await until('the block to begin', () => ![before, ''].includes(mark()))
}
