/**
 * The field `m` of a user's hash: what scripts compare and nobody else reads, in as few bytes as it takes. As
 * fields and text of their own the three parts cost a user 25 bytes more, and Redis allots in steps of 32.
 *
 *   5 bytes  when the exchange began that brought the session_key, ms since EPOCH_MS
 *   3 bytes  fingerprint of that session_key (tokens.ts)
 *   4 bytes  provisioning: seconds since the epoch; the top bit says acknowledged, without it queued; 0: neither
 *   the rest the worker's user_id: a UUID as its 16 bytes, any other id as text
 *
 * All numbers are big-endian. The version before kept the parts as `x`, `g` and `i`. Where one of those is there,
 * a process of that version wrote it after `m`, and it counts; whoever writes its part into `m` takes it away.
 */

/** 2020-01-01: 5 bytes of milliseconds last until 2054, 31 bits of seconds until 2088. The scripts know it too. */
const EPOCH_MS = Date.UTC(2020, 0, 1)
const START_BYTES = 5
const FINGERPRINT_BYTES = 3
const EXCHANGE_BYTES = START_BYTES + FINGERPRINT_BYTES
const PROVISIONING_BYTES = 4
const ACKNOWLEDGED_BIT = 0x8000_0000

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const UUID_BYTES = 16
/** Behind an id that is no UUID, until it cannot be taken for one. */
const TEXT_END = '\0'

/** The first part: which exchange brought a session_key. */
export function packExchange(startedAtMs: number, fingerprint: string): Buffer {
  const packed = Buffer.alloc(EXCHANGE_BYTES)
  packed.writeUIntBE(Math.max(0, startedAtMs - EPOCH_MS), 0, START_BYTES)
  packed.write(fingerprint, START_BYTES, 'base64url')
  return packed
}

/** The last part. */
export function packUserId(userId: string): Buffer {
  if (UUID.test(userId)) return Buffer.from(userId.replaceAll('-', ''), 'hex')
  const text = Buffer.from(userId + TEXT_END)
  return text.length === UUID_BYTES ? Buffer.concat([text, Buffer.from(TEXT_END)]) : text
}

/** The inverse of packUserId. */
function unpackUserId(packed: Buffer): string {
  return packed.length === UUID_BYTES
    ? hyphenated(packed.toString('hex'))
    : packed.toString().replaceAll(TEXT_END, '')
}

export interface UserMarks {
  /** undefined until the worker has provisioned the user. */
  userId: string | undefined
  /** Whether the worker has acknowledged the user, and since when that is so. */
  acknowledged: boolean
  sinceSeconds: number
}

/** What a reader wants of the fields `m`, `g` and `i`, each as it stands in the hash. */
export function readMarks(marks?: Buffer | null, g?: Buffer | null, i?: Buffer | null): UserMarks {
  const userIdAt = EXCHANGE_BYTES + PROVISIONING_BYTES
  const packed = marks && marks.length >= userIdAt ? marks : Buffer.alloc(userIdAt)
  const provisioning = packed.readUInt32BE(EXCHANGE_BYTES)
  const userId = packed.length > userIdAt ? unpackUserId(packed.subarray(userIdAt)) : undefined
  return {
    userId: i ? expandUserId(i.toString()) : userId,
    ...(g
      ? {
          acknowledged: g.toString().startsWith('a'),
          sinceSeconds: Number.parseInt(g.toString('latin1', 1), 16),
        }
      : {
          acknowledged: provisioning >= ACKNOWLEDGED_BIT,
          sinceSeconds: EPOCH_MS / 1_000 + (provisioning % ACKNOWLEDGED_BIT),
        }),
  }
}

/** As the version before wrote it: 22 characters of base64url. */
function expandUserId(kept: string): string {
  return /^[A-Za-z0-9_-]{22}$/.test(kept) ? hyphenated(Buffer.from(kept, 'base64url').toString('hex')) : kept
}

function hyphenated(hex: string): string {
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-')
}
