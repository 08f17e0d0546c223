/**
 * A program of this repository, or another one, as a process that a row may kill, stop and start again. What it
 * writes is kept; that it ends without having been told is remembered. Nothing survives the bench.
 */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Where the programs under test are: this repository, or a copy with something taken out (mutations.ts). */
export const PROGRAM_ROOT = process.env['FAULTS_ROOT'] ?? new URL('../../', import.meta.url).pathname

const { PATH = '', LD_LIBRARY_PATH } = process.env
/** A process on this host with the memory of its container: as the image sets malloc, and Node its heap where there are 512 MB. */
export const CONTAINER_MEMORY = {
  MALLOC_ARENA_MAX: '2',
  NODE_OPTIONS: '--max-old-space-size=256 --max-semi-space-size=4',
}

/** What every process needs of our environment; nothing else gets in by accident. */
const BASE_ENVIRONMENT: Readonly<Record<string, string>> = {
  PATH: `${PATH}:/usr/sbin:/usr/local/sbin`,
  ...(LD_LIBRARY_PATH === undefined ? {} : { LD_LIBRARY_PATH }),
}

/** A second on a machine at rest; many rows side by side are something else. */
const START_MS_MAX = 90_000
/** Of what a process writes, this much is kept; rows are short, a soak is not. */
const OUTPUT_CHARS_MAX = 64_000_000

const running = new Set<ChildProcess>()
const folders: string[] = []
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

export interface ProgramSpec {
  /** For messages: gateway 1. */
  name: string
  /** The command and its arguments; a `.ts` file of the repository is run by this Node. */
  command: readonly string[]
  env?: Readonly<Record<string, string>>
  /** Part of a line by which it says that it is ready; undefined: it is ready when it is there. */
  readyText?: string | undefined
  uid?: number | undefined
  gid?: number | undefined
}

export interface Program {
  readonly name: string
  readonly pid: number
  /** All it has written, stdout and stderr, over all its starts. */
  output(): string
  isRunning(): boolean
  /** Sends a signal, and waits for nothing. */
  signal(signal: NodeJS.Signals): void
  /** Sends the signal and waits for the end. Resolves with the exit code; null when the signal ended it. */
  end(signal: NodeJS.Signals): Promise<number | null>
  /** Starts it again, with the same command and environment, or with changes. It must have ended. */
  start(changes?: { env?: Readonly<Record<string, string>>; awaitReady?: boolean }): Promise<void>
  /** Resolves when the text has been written since its last start. */
  wrote(text: string, timeoutMs?: number): Promise<void>
  /** How it ended without having been told: one text an end. */
  unexpectedEnds(): readonly string[]
  /** Resident memory. */
  rssBytes(): number
  /** Open file descriptors. */
  descriptors(): number
}

/** Starts it, and resolves when it is ready. The caller ends it. */
export async function startProgram(spec: ProgramSpec): Promise<Program> {
  const folder = mkdtempSync(join(tmpdir(), 'gateway-faults-'))
  folders.push(folder)
  const [command = '', ...args] = spec.command
  const isOurs = command.endsWith('.ts')
  const unexpectedEnds: string[] = []
  let output = ''
  let startedAt = 0
  let child: ChildProcess | undefined
  let told = false
  let listeners: (() => void)[] = []

  function launch(env: Readonly<Record<string, string>>): ChildProcess {
    told = false
    startedAt = output.length
    const started = spawn(
      isOurs ? process.execPath : command,
      isOurs ? [join(PROGRAM_ROOT, command), ...args] : args,
      {
        cwd: folder,
        env: { ...BASE_ENVIRONMENT, ...env },
        stdio: ['ignore', 'pipe', 'pipe'],
        ...(spec.uid === undefined ? {} : { uid: spec.uid }),
        ...(spec.gid === undefined ? {} : { gid: spec.gid }),
      },
    )
    running.add(started)
    for (const stream of [started.stdout, started.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        if (output.length < OUTPUT_CHARS_MAX) output += text
        for (const listener of listeners) listener()
      })
    }
    started.once('error', (error) => {
      output += `\n${error.message}\n`
    })
    started.once('exit', (code, signal) => {
      running.delete(started)
      if (!told) unexpectedEnds.push(`${spec.name} ended with ${signal ?? code}: ${output.slice(-2_000)}`)
      for (const listener of listeners) listener()
    })
    return started
  }

  const isRunning = () => child !== undefined && child.exitCode === null && child.signalCode === null

  function wrote(text: string, timeoutMs = START_MS_MAX): Promise<void> {
    return new Promise((resolve, reject) => {
      const finish = (error?: Error) => {
        clearTimeout(timer)
        listeners = listeners.filter((listener) => listener !== look)
        if (error) reject(error)
        else resolve()
      }
      const timer = setTimeout(
        () =>
          finish(
            new Error(
              `${spec.name} has not written "${text}" in time:\n${output.slice(startedAt).slice(-4_000)}`,
            ),
          ),
        timeoutMs,
      )
      const look = () => {
        if (output.includes(text, startedAt)) finish()
        else if (!isRunning())
          finish(
            new Error(
              `${spec.name} ended before it wrote "${text}":\n${output.slice(startedAt).slice(-4_000)}`,
            ),
          )
      }
      listeners.push(look)
      look()
    })
  }

  const program: Program = {
    name: spec.name,
    get pid() {
      return child?.pid ?? 0
    },
    output: () => output,
    isRunning,
    signal(signal) {
      if (signal !== 'SIGSTOP' && signal !== 'SIGCONT') told = true
      child?.kill(signal)
    },
    async end(signal) {
      const ending = child
      if (ending === undefined) return null
      told = true
      if (isRunning()) {
        const ended = once(ending, 'exit')
        ending.kill(signal)
        if (signal !== 'SIGKILL') ending.kill('SIGCONT') // a stopped one hears nothing else
        await ended
      }
      return ending.exitCode
    },
    async start({ env = {}, awaitReady = true } = {}) {
      if (isRunning()) throw new Error(`${spec.name} is running`)
      child = launch({ ...spec.env, ...env })
      if (awaitReady && spec.readyText !== undefined) await wrote(spec.readyText)
    },
    wrote,
    unexpectedEnds: () => unexpectedEnds,
    rssBytes: () =>
      1024 * Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${program.pid}/status`, 'utf8'))?.[1]),
    descriptors: () => readdirSync(`/proc/${program.pid}/fd`).length,
  }
  await program.start()
  return program
}
