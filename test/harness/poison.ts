/**
 * Makes a worker fail at the jobs of certain users. Loaded into its process from outside (`poisoned()`), because
 * the worker holds nothing for tests. POISON is a list of `crash:<openid>`, `block:<openid>`, `hang:<openid>`:
 *
 *   crash  the process ends on the spot, as when the kernel is out of memory
 *   block  the event loop stands still for 30 s
 *   hang   the database never answers; `hang:*` for every user whose openid begins with `o`, as WeChat's do
 */
import { Client } from 'pg'

const BLOCK_MS = 30_000

/** Environment of a worker that loads this module; its child processes do so too. */
export function poisoned(poison: readonly string[]): Record<string, string> {
  return { NODE_OPTIONS: `--import=${import.meta.url}`, POISON: poison.join(',') }
}

const rules = (process.env['POISON'] ?? '').split(',').filter(Boolean)
const { prototype } = Client
const query = Reflect.get(prototype, 'query') as (...args: unknown[]) => unknown

if (rules.length > 0) {
  Object.assign(prototype, {
    query(this: unknown, ...args: unknown[]) {
      const values = args.find(Array.isArray)?.flat() as unknown[] | undefined // a batch has them in arrays
      for (const rule of values === undefined ? [] : rules) {
        const [kind, openid] = rule.split(':')
        if (!values?.some((value) => value === openid || (openid === '*' && isOpenid(value)))) continue
        if (kind === 'crash') process.kill(process.pid, 'SIGKILL')
        if (kind === 'crash' || kind === 'block') standStill()
        return new Promise(() => {})
      }
      return query.apply(this, args)
    },
  })
}

function isOpenid(value: unknown): boolean {
  return typeof value === 'string' && value.startsWith('o')
}

function standStill(): void {
  const endsAtMs = performance.now() + BLOCK_MS
  while (performance.now() < endsAtMs);
}
