/** A process under measurement, kept to one core; what it writes is thrown away, as a log collector would take it. */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'

const ROOT = new URL('../../', import.meta.url).pathname
const START_MS_MAX = 30_000
const POLL_MS = 20
/** Of what it has written, this much is shown when it does not start. */
const OUTPUT_CHARS_KEPT = 4_000

/**
 * Who runs where: what is measured has a core to itself; the load, WeChat and Redis share another, and what is
 * measured beside Redis is charged by its own clock, not by what is left of the core.
 */
const CORES = { measured: '0', others: '1' } as const
export type Core = keyof typeof CORES

/** Whether processes can be kept to cores here; without it they wander, and figures are noisier. */
export const canPin = availableParallelism() > 1 && existsSync('/usr/bin/taskset')

const running = new Set<ChildProcess>()
const folder = mkdtempSync(join(tmpdir(), 'gateway-bench-'))
process.on('exit', () => {
  for (const { pid = 0 } of running) for (const one of treeOf(pid).toReversed()) process.kill(one, 'SIGKILL')
  rmSync(folder, { recursive: true, force: true })
})

let scratchFiles = 0

/** A path of its own, which goes away with this process: for sockets and configuration files. */
export function scratchFile(name: string): string {
  scratchFiles += 1
  return join(folder, `${scratchFiles}-${name}`)
}

export interface Launch {
  name: string
  /** The command and its arguments; a `.ts` or `.mjs` file of the repository is run by this Node. */
  command: readonly string[]
  core: Core
  env?: Readonly<Record<string, string>>
  /** Arguments of Node itself. */
  nodeArgs?: readonly string[]
  cwd?: string
  /** Answers 200 as soon as it is ready; undefined: nothing is waited for. */
  readyUrl?: string | undefined
}

export interface Running {
  readonly pid: number
  /** Ends it and what it has started. */
  end(): Promise<void>
}

/** Resolves when it is ready. */
export async function launch({
  name,
  command,
  core,
  env,
  nodeArgs = [],
  cwd,
  readyUrl,
}: Launch): Promise<Running> {
  const [program = '', ...args] = command
  const isOurs = /\.(ts|mjs)$/.test(program)
  const whole = isOurs ? [process.execPath, ...nodeArgs, join(ROOT, program), ...args] : [program, ...args]
  const [file = '', ...rest] = canPin ? ['/usr/bin/taskset', '-c', CORES[core], ...whole] : whole
  const child = spawn(file, rest, {
    cwd: cwd ?? folder,
    env: { PATH: `${process.env['PATH'] ?? ''}:/usr/sbin`, ...libraryPath(), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  running.add(child)
  child.once('exit', () => running.delete(child))
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('latin1').on('data', (text: string) => {
      if (output.length < OUTPUT_CHARS_KEPT) output += text
    })
  }
  const hasEnded = () => child.exitCode !== null || child.signalCode !== null
  const awaitReady = async (url: string) => {
    const deadline = performance.now() + START_MS_MAX
    while (!(await answersOk(url))) {
      if (hasEnded() || performance.now() > deadline) throw new Error(`${name} did not start:\n${output}`)
      await pause(POLL_MS)
    }
  }
  if (readyUrl !== undefined) await awaitReady(readyUrl)
  return {
    pid: child.pid ?? 0,
    async end() {
      if (hasEnded()) return
      const ended = new Promise((resolve) => child.once('exit', resolve))
      for (const pid of treeOf(child.pid ?? 0).toReversed()) process.kill(pid, 'SIGKILL')
      await ended
    },
  }
}

async function answersOk(url: string): Promise<boolean> {
  try {
    const answer = await fetch(url)
    await answer.body?.cancel()
    return answer.ok
  } catch {
    return false
  }
}

/** A process and those that it has started, the parents first. */
export function treeOf(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
  return [pid, ...children.split(' ').filter(Boolean).map(Number).flatMap(treeOf)]
}

/** Keeps a process that was started elsewhere to a core. */
export function pin(pid: number, core: Core): void {
  if (canPin) spawn('/usr/bin/taskset', ['-acp', CORES[core], String(pid)], { stdio: 'ignore' })
}

/** Where prepare-node.mjs has found a library that Node lacks. */
function libraryPath(): Record<string, string> {
  const path = process.env['LD_LIBRARY_PATH']
  return path === undefined ? {} : { LD_LIBRARY_PATH: path }
}
