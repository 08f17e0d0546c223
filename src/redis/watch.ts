/**
 * Watches what comes back over a fail-fast connection: why commands fail, and whether Redis has gone silent.
 *
 * A Redis that hangs takes commands and answers none, so each costs its timeout; a login is several. Hence: when
 * a command has timed out and nothing at all was heard since it was sent, Redis is silent, and further commands
 * are refused at once. A PING goes out instead, again and again, until one is answered. That makes one timeout
 * of a request, and microseconds of those that follow, and no user's command has to be the probe.
 *
 * In a Cluster each node is watched by itself, for the others go on.
 */
import type { Writable } from 'node:stream'
import type { Command, Redis } from 'ioredis'

/** Why a command failed, as a metric label. */
export type RedisFailure =
  | 'timeout' // no answer in time; the command may run all the same
  | 'silent' // not sent, for nothing is heard
  | 'disconnected' // not sent, or the connection broke before the answer
  | 'full' // maxmemory is reached
  | 'denied' // password or rights are missing
  | 'not_master' // a replica, or a master that has lost its replicas
  | 'not_ready' // loading, in the middle of a failover or a resharding, or a slot that nobody serves
  | 'disk' // cannot write to its disk, and so takes no writes
  | 'other'

/** By the first word of Redis' error, or the whole text of one that ioredis makes. */
const FAILURES: readonly (readonly [pattern: RegExp, failure: RedisFailure])[] = [
  [/^Command timed out$/, 'timeout'],
  [/^Redis is silent$/, 'silent'],
  [
    /^(Connection is closed|Stream isn't writeable|Cluster isn't ready|Reached the max retries)/,
    'disconnected',
  ],
  [/\bOOM\b/, 'full'],
  [/^(NOAUTH|WRONGPASS|NOPERM)\b/, 'denied'],
  [/\b(READONLY|NOREPLICAS)\b/, 'not_master'],
  [/\b(LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|UNBLOCKED|MOVED|ASK|BUSY)\b/, 'not_ready'],
  [/\bMISCONF\b/, 'disk'],
]

/** What kind of failure an error of ioredis or of Redis is. */
export function failureOf(error: unknown): RedisFailure {
  const text = error instanceof Error ? error.message : ''
  return FAILURES.find(([pattern]) => pattern.test(text))?.[1] ?? 'other'
}

let anyway = false

/**
 * Sends also to a Redis that is silent: for what takes back a command that may still run. Commands of one
 * connection run in order, so it runs right behind that command, however late. The command must be sent before
 * `send` first waits.
 */
export function sendAnyway<T>(send: () => Promise<T>): Promise<T> {
  anyway = true
  try {
    return send()
  } finally {
    anyway = false
  }
}

export interface AnswersObserver {
  /** A command failed. */
  onFailure(failure: RedisFailure): void
  /** A command was answered, be it with an error. Its name, or that of our script: a label. */
  onAnswer(command: string, seconds: number): void
}

/**
 * Wraps `sendCommand`, through which everything goes. The times come from here and not from ioredis' diagnostics
 * channel: that costs some 5 µs a command, and hands out its arguments (npm run benchmark:metrics).
 */
export function watchAnswers(redis: Redis, { onFailure, onAnswer }: AnswersObserver): void {
  const send = redis.sendCommand
  let heardAtMs = 0
  let silent = false

  redis.sendCommand = (command: Command, stream) => {
    if (silent && !anyway) {
      onFailure('silent')
      command.reject(new Error('Redis is silent'))
      return command.promise
    }
    holdWrites(redis)
    const sentAtMs = performance.now()
    const answer = send.call(redis, command, stream) as Promise<unknown>
    answer.then(
      () => hear(command, sentAtMs),
      (error: unknown) => hearError(error, command, sentAtMs),
    )
    const end = follow?.(command, redis)
    if (end) answer.then(() => end(), end)
    return answer
  }
  // Whoever gets through the next handshake has heard something.
  redis.on('close', () => {
    silent = false
  })

  function hear(command: Command, sentAtMs: number): void {
    heardAtMs = performance.now()
    onAnswer(nameOf(command), (heardAtMs - sentAtMs) / 1_000)
  }

  function hearError(error: unknown, command: Command, sentAtMs: number): void {
    const failure = failureOf(error)
    if (failure === 'timeout') {
      if (heardAtMs < sentAtMs && redis.status === 'ready' && !silent) void askUntilHeard()
    } else if (failure !== 'disconnected') hear(command, sentAtMs) // a refusal is an answer
    if (!isUnknownScript(error)) onFailure(failure)
  }

  async function askUntilHeard(): Promise<void> {
    silent = true
    while (silent) {
      try {
        await sendAnyway(() => redis.ping())
        silent = false
      } catch (error) {
        const failure = failureOf(error)
        if (failure === 'disconnected') return // what follows is a new connection
        silent = failure === 'timeout' // each took its timeout; a socket that stays silent is closed
      }
    }
  }
}

/** Told of a command that is being sent. What it returns is told of its end. */
export type Follow = (command: Command, redis: Redis) => ((error?: unknown) => void) | undefined

let follow: Follow | undefined

/** Has the commands of this process followed, on all connections; undefined: no longer. */
export function followCommands(follower: Follow | undefined): void {
  follow = follower
}

const held = new WeakSet<Writable>()

/**
 * Commands of one turn of the event loop leave in one write: a write to a socket is a fifth of what a command costs
 * this process, and Redis reads them at once as well. Order is kept, and nothing waits longer than its turn.
 */
function holdWrites({ stream }: { stream?: Writable }): void {
  if (stream === undefined || held.has(stream)) return
  held.add(stream)
  stream.cork()
  setImmediate(() => {
    held.delete(stream)
    stream.uncork()
  })
}

/** As watchAnswers(), for a connection that waits for Redis however long it takes. */
export function timeAnswers(redis: Redis, onAnswer: AnswersObserver['onAnswer']): void {
  const send = redis.sendCommand
  redis.sendCommand = (command: Command, stream) => {
    if (redis.status !== 'ready') return send.call(redis, command, stream) // it comes again when it is sent
    const sentAtMs = performance.now()
    const answer = send.call(redis, command, stream) as Promise<unknown>
    const tell = () => onAnswer(nameOf(command), (performance.now() - sentAtMs) / 1_000)
    answer.then(tell, tell)
    const end = follow?.(command, redis)
    if (end) answer.then(() => end(), end)
    return answer
  }
}

/** Not a failure: the script is sent whole then. */
function isUnknownScript(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('NOSCRIPT')
}

/** Our scripts, by their hashes. */
const scriptNames = new Map<string, string>()

/** Has a script go by its name, not as one `evalsha` among all. */
export function nameScript(sha1: string, name: string): void {
  scriptNames.set(sha1, name)
}

/** Of a script of ours, by its hash; undefined when it is a library's. */
export function scriptNameOf(sha1: unknown): string | undefined {
  return typeof sha1 === 'string' ? scriptNames.get(sha1) : undefined
}

function nameOf({ name, args }: Command): string {
  return name === 'evalsha' ? (scriptNameOf(args[0]) ?? name) : name
}
