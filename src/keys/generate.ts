/** A new key for a ring, and how to bring it into use without logging anybody out. */
import { randomBytes } from 'node:crypto'
import { KEY_BYTES, weaknessOf } from '../key-ring.ts'

/** A key as it stands in a ring. Its kid says when it was made: 2611b is the second of November 2026. */
export function generateKey(takenKids: ReadonlySet<string>, date: Date): string {
  let bytes = randomBytes(KEY_BYTES)
  while (weaknessOf(bytes) !== undefined) bytes = randomBytes(KEY_BYTES) // once in 10^13; it would be refused
  return `${newKid(takenKids, date)}:${bytes.toString('base64')}`
}

/** The kids of a ring as it is written, also of one that is faulty. */
export function kidsOf(ring: string | undefined): string[] {
  return (ring ?? '').split(',').flatMap((entry) => /^\s*([A-Za-z0-9]{1,8}):/.exec(entry)?.[1] ?? [])
}

const LETTERS = 'abcdefghijklmnopqrstuvwxyz'.split('')

/** The month and the first free letter; two letters from the 27th key of a month on. */
function newKid(taken: ReadonlySet<string>, date: Date): string {
  const month = date.toISOString().slice(2, 7).replace('-', '')
  const endings = ['', ...LETTERS].flatMap((first) => LETTERS.map((second) => first + second))
  const free = endings.map((ending) => month + ending).find((kid) => !taken.has(kid))
  if (free === undefined) throw new RangeError('all kids of this month are taken')
  return free
}

/** What to do with the new key. Each step is for all gateways before the next begins. */
export const ROLL_OUT = `The line above is a new key for SEAL_KEYS or for TOKEN_KEYS, not for both. To roll it out without logging
anybody out, do each step on every gateway before you begin the next:

  1. Put it behind the present one:      old:…,new:…    every gateway can open what it will make
  2. Put it in front:                    new:…,old:…    it makes all that is new
  3. SEAL_KEYS:  npm run keys -- reseal                 what the old key sealed is sealed anew
     TOKEN_KEYS: wait until the old sessions have ended
     npm run keys -- check                              says when the old key is not needed any more
  4. Take the old one away:              new:…
`
