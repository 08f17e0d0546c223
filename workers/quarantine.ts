/**
 * A process apart for jobs whose worker went silent.
 *
 * Such a job may have ended or blocked that worker, or only have been beside the one that did: all that run in
 * a worker are taken over together, come back together, and would be lost together the next time. So each is
 * run alone, in a child process: it then harms nobody, and what happens to the child is its own doing. One
 * that does it again is dead, and those that were beside it go on.
 */
import type { ChildProcess } from 'node:child_process'
import type { Log } from '../src/log.ts'
import { JobFailed } from './job-failure.ts'
import type { JobFailureKind } from './job-failure.ts'
import type { DoneJob, IncomingJob, ProvisionUser } from './provision-user.ts'

/** From the child (quarantine-process.ts). To it goes an IncomingJob. */
export type QuarantineMessage =
  | { readonly type: 'ready' }
  | { readonly type: 'alive' }
  | { readonly type: 'done'; readonly done: DoneJob }
  | { readonly type: 'failed'; readonly kind: JobFailureKind; readonly message: string }

/** The child says that it is alive this often. */
export const ALIVE_INTERVAL_MS = 500

/** Counted in checks, not in time, so that a machine that was suspended is not taken for a child that hangs. */
const CHECK_INTERVAL_MS = 1_000
const SILENT_CHECKS_MAX = 10
const JOB_CHECKS_MAX = 30
const START_CHECKS_MAX = 20
/** With the worker that it was taken over from. */
const CRASHES_MAX = 3
/** Jobs that were taken over come in a bunch; after it the child is not needed. */
const IDLE_MS = 10_000

export interface Quarantine {
  /** Runs a job alone, after those that came before it. Rejects with JobFailed. */
  readonly run: ProvisionUser
  /** Ends the child. */
  close(): void
}

/** Builds the quarantine; a child is started when a job needs one. */
export function createQuarantine(startChild: () => ChildProcess, log: Log): Quarantine {
  let child: ChildProcess | undefined
  let last: Promise<unknown> = Promise.resolve()
  let idleTimer: NodeJS.Timeout | undefined

  async function runAlone(job: IncomingJob): Promise<DoneJob> {
    clearTimeout(idleTimer)
    for (let crashes = 1; ; ) {
      child ??= await startReady()
      const answer = await ask(child, job)
      if (answer.type === 'done') return answer.done
      if (answer.type === 'failed') throw new JobFailed(answer.kind, answer.message)
      child = undefined
      if (answer.type === 'overdue') throw new JobFailed('fault', 'it does not end')
      crashes += 1
      log.error({ job: job.id, reason: answer.reason, crashes }, 'job ended the process that it ran in')
      if (crashes >= CRASHES_MAX) {
        throw new JobFailed('never', `it ended or blocked its process ${CRASHES_MAX} times: ${answer.reason}`)
      }
    }
  }

  async function startReady(): Promise<ChildProcess> {
    const starting = startChild()
    starting.on('error', () => {}) // whoever listens for an answer is told
    starting.once('exit', () => {
      if (child === starting) child = undefined
    })
    const answer = await hear(starting, START_CHECKS_MAX, isReady)
    if (answer.type === 'ready') return starting
    starting.kill('SIGKILL')
    throw new JobFailed('later', 'the quarantine process does not start')
  }

  function restLater(): void {
    clearTimeout(idleTimer)
    idleTimer = setTimeout(() => {
      child?.disconnect()
      child = undefined
    }, IDLE_MS)
    idleTimer.unref()
  }

  return {
    run(job) {
      const result = last.then(() => runAlone(job))
      // The next one's turn, however this one ends; its caller hears of it.
      last = result.then(restLater, restLater)
      return result
    },
    close() {
      clearTimeout(idleTimer)
      child?.kill('SIGKILL')
    },
  }
}

/** Instead of an answer: killed because it took too long, or ended by itself or as one that hung. */
type Ended = { readonly type: 'overdue' } | { readonly type: 'crashed'; readonly reason: string }
type Answer = Extract<QuarantineMessage, { type: 'done' | 'failed' }>
type Ready = Extract<QuarantineMessage, { type: 'ready' }>

const isReady = (message: QuarantineMessage): message is Ready => message.type === 'ready'
const isAnswer = (message: QuarantineMessage): message is Answer =>
  message.type === 'done' || message.type === 'failed'

function ask(child: ChildProcess, job: IncomingJob): Promise<Answer | Ended> {
  const answer = hear(child, JOB_CHECKS_MAX, isAnswer)
  child.send({ id: job.id, data: job.data, stalledCounter: job.stalledCounter })
  return answer
}

/** Waits for the message that is wanted. A child that falls silent or takes too long is killed. */
function hear<Wanted extends QuarantineMessage>(
  child: ChildProcess,
  checksMax: number,
  isWanted: (message: QuarantineMessage) => message is Wanted,
): Promise<Wanted | Ended> {
  return new Promise((resolve) => {
    let checks = 0
    let silentChecks = 0
    let ended: Ended | undefined
    const end = (how: Ended) => {
      ended ??= how
      child.kill('SIGKILL') // resolves at its exit: nothing of the job may go on beside the next try
    }
    const timer = setInterval(() => {
      checks += 1
      silentChecks += 1
      if (silentChecks > SILENT_CHECKS_MAX) end({ type: 'crashed', reason: 'blocked' })
      else if (checks > checksMax) end({ type: 'overdue' })
    }, CHECK_INTERVAL_MS)
    const settle = (answer: Wanted | Ended) => {
      clearInterval(timer)
      child.off('message', onMessage).off('exit', onExit).off('error', onError)
      resolve(answer)
    }
    const onMessage = (message: QuarantineMessage) => {
      silentChecks = 0
      if (ended === undefined && isWanted(message)) settle(message)
    }
    const onExit = (code: number | null, signal: NodeJS.Signals | null) =>
      settle(ended ?? { type: 'crashed', reason: `ended with ${signal ?? code}` })
    // It was never started, or cannot be written to.
    const onError = () => {
      child.kill('SIGKILL')
      settle(ended ?? { type: 'crashed', reason: 'gone' })
    }
    child.on('message', onMessage).on('exit', onExit).on('error', onError)
  })
}
