/** The bench's end of the load generator. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import type { Batch, BatchResult } from './generator.ts'
import { pin } from './processes.ts'

export interface Load {
  /** @throws when an answer was not as it should be, unless that is `tolerated` */
  run(batch: Batch, options?: { tolerated?: boolean }): Promise<BatchResult>
  close(): void
}

export function startLoad(): Load {
  const child = fork(new URL('generator.ts', import.meta.url), { serialization: 'advanced' })
  pin(child.pid ?? 0, 'others')
  return {
    async run(batch, { tolerated = false } = {}) {
      const answer = once(child, 'message')
      child.send(batch)
      const [result] = (await answer) as [BatchResult & { fault?: string }]
      if (result.fault !== undefined) throw new Error(result.fault)
      if (result.wrong > 0 && !tolerated)
        throw new Error(
          `${result.wrong} of ${batch.values.length} answers were wrong, one of them: ${result.wrongSample}`,
        )
      return result
    },
    close: () => void child.kill('SIGKILL'),
  }
}
