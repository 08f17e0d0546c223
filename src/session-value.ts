/**
 * How a session stands in the user's hash, and when it ends.
 *
 *   <issued, unix s>.<last use, s after that>.<letter of the device>        the numbers hexadecimal
 *
 * The end is not written down: it follows from the two lives that are configured, so that a shorter life
 * counts for all sessions at once. The scripts in lua/ reckon in the same way.
 */

/** How long sessions live. */
export interface SessionLife {
  /** Without being used. */
  idleSeconds: number
  /** In all, however much they are used. */
  maxSeconds: number
}

/** Letters that stand for devices. Words that are not listed become `other`. */
const DEVICE_LETTERS: Readonly<Record<string, string>> = {
  ios: 'i',
  android: 'a',
  harmony: 'h',
  devtools: 'd',
  mac: 'm',
  windows: 'w',
  other: 'o',
}
const DEVICES = new Map(Object.entries(DEVICE_LETTERS).map(([device, letter]) => [letter, device]))

/** The letter for a device of http/client.ts. */
export function deviceLetter(device: string): string {
  return DEVICE_LETTERS[device] ?? 'o'
}

/** Reads a session's value; `expiresInSeconds` is 0 or less when it has ended. */
export function parseSession(value: string, { idleSeconds, maxSeconds }: SessionLife, nowSeconds: number) {
  const [issued = '', used = '', letter = ''] = value.split('.')
  const issuedAtSeconds = Number.parseInt(issued, 16)
  const lastUsedAtSeconds = issuedAtSeconds + Number.parseInt(used, 16)
  const endsAtSeconds = Math.min(lastUsedAtSeconds + idleSeconds, issuedAtSeconds + maxSeconds)
  return {
    issuedAtSeconds,
    /** As last noted, which is up to a tenth of the idle life ago (renewal.ts). */
    lastUsedAtSeconds,
    endsAtSeconds,
    expiresInSeconds: Math.ceil(endsAtSeconds - nowSeconds),
    device: DEVICES.get(letter) ?? 'other',
  }
}
