/**
 * Why a job was not done, which decides what becomes of it (provision-worker.ts):
 *
 *   never          dead at once: it would fail the same way for ever
 *   fault          run again a few times, then dead: it fails where others do not
 *   later          run again, and no attempt is spent: something around it is not in order
 *   database_away  like `later`, and it is looked into whether the whole database is away
 */
export type JobFailureKind = 'never' | 'fault' | 'later' | 'database_away'

/** The message is kept in Redis and logged, so it holds no value of the job. */
export class JobFailed extends Error {
  readonly kind: JobFailureKind

  constructor(kind: JobFailureKind, message: string) {
    super(message)
    this.name = 'JobFailed'
    this.kind = kind
    this.stack = `${this.name}: ${message}` // BullMQ keeps it for every attempt
  }
}
