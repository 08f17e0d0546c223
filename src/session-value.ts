/**
 * How a session stands in the user's hash, and when it ends.
 *
 *   <issued, unix s><LETTER of the device><last use, s after that; nothing: not used since>
 *
 * the numbers in base 36: a user and their session then fit what Redis allots, also when it is in use. The version
 * before wrote <issued>.<last use>.<letter> with hexadecimal numbers and small letters, which is read as well.
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
  ios: 'I',
  android: 'A',
  harmony: 'H',
  devtools: 'D',
  mac: 'M',
  windows: 'W',
  other: 'O',
}
const DEVICES = new Map(Object.entries(DEVICE_LETTERS).map(([device, letter]) => [letter, device]))

/** The letter for a device of http/client.ts. */
export function deviceLetter(device: string): string {
  return DEVICE_LETTERS[device] ?? 'O'
}

/** Reads a session's value; `expiresInSeconds` is 0 or less when it has ended. */
export function parseSession(value: string, { idleSeconds, maxSeconds }: SessionLife, nowSeconds: number) {
  const { issuedAtSeconds, usedAfterSeconds, letter } = parts(value)
  const lastUsedAtSeconds = issuedAtSeconds + usedAfterSeconds
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

function parts(value: string) {
  const [, issued = '', letter = '', used = ''] = /^([0-9a-z]+)([A-Z])([0-9a-z]*)$/.exec(value) ?? []
  if (letter !== '')
    return {
      issuedAtSeconds: Number.parseInt(issued, 36),
      usedAfterSeconds: used === '' ? 0 : Number.parseInt(used, 36),
      letter,
    }
  const [issuedHex = '', usedHex = '', device = ''] = value.split('.')
  return {
    issuedAtSeconds: Number.parseInt(issuedHex, 16),
    usedAfterSeconds: Number.parseInt(usedHex, 16),
    letter: device.toUpperCase(),
  }
}
