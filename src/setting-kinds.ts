/**
 * How environment variables are read: the kinds of settings, what they demand of a text, and what the operator is
 * told when it is not met.
 */
import { isIP } from 'node:net'

/** Thrown by a parser; the message is shown to the operator and so never holds the value. */
export class SettingFault extends Error {}

export interface Setting<T> {
  readonly doc: string
  /** As shown in the documentation; undefined where there is none. */
  readonly shownDefault: string | undefined
  readonly secret: boolean
  /** `undefined`: the variable is absent or empty. */
  parse(text: string | undefined): T
}

interface Common {
  doc: string
}

/** A whole number within bounds. */
export function integer(spec: Common & { default: number; min: number; max: number }): Setting<number> {
  return {
    doc: spec.doc,
    shownDefault: String(spec.default),
    secret: false,
    parse(text) {
      if (text === undefined) return spec.default
      const value = Number(text)
      if (!/^\d+$/.test(text) || value < spec.min || value > spec.max) {
        throw new SettingFault(`must be a whole number from ${spec.min} to ${spec.max}`)
      }
      return value
    },
  }
}

/** A part of the whole: a decimal from 0 to 1. */
export function share(spec: Common & { default: number }): Setting<number> {
  return {
    doc: spec.doc,
    shownDefault: String(spec.default),
    secret: false,
    parse(text) {
      if (text === undefined) return spec.default
      if (!/^(0(\.\d{1,6})?|1(\.0{1,6})?)$/.test(text))
        throw new SettingFault('must be a decimal from 0 to 1')
      return Number(text)
    },
  }
}

/** true or false. */
export function flag(spec: Common & { default: boolean }): Setting<boolean> {
  return {
    doc: spec.doc,
    shownDefault: String(spec.default),
    secret: false,
    parse(text) {
      if (text === undefined) return spec.default
      if (text !== 'true' && text !== 'false') throw new SettingFault('must be true or false')
      return text === 'true'
    },
  }
}

interface TextSpec extends Common {
  pattern?: RegExp
  /** What a pattern cannot say. What is let through here must not fail later, where the error would quote it. */
  accepts?: (text: string) => boolean
  /** What both demand, in words: "must be …". */
  demand?: string
  secret?: boolean
}

function check(text: string, spec: TextSpec): string {
  const sound = (spec.pattern?.test(text) ?? true) && (spec.accepts?.(text) ?? true)
  if (!sound) throw new SettingFault(spec.demand ?? 'is malformed')
  return text
}

/** A text that has a default. */
export function text(spec: TextSpec & { default: string }): Setting<string> {
  return {
    doc: spec.doc,
    shownDefault: spec.default,
    secret: spec.secret ?? false,
    parse: (given) => (given === undefined ? spec.default : check(given, spec)),
  }
}

/** A text that may be absent. */
export function optionalText(spec: TextSpec): Setting<string | undefined> {
  return {
    doc: spec.doc,
    shownDefault: undefined,
    secret: spec.secret ?? false,
    parse: (given) => (given === undefined ? undefined : check(given, spec)),
  }
}

/** A comma list; each item is checked. */
export function list(spec: TextSpec & { default: string }): Setting<string[]> {
  return {
    doc: spec.doc,
    shownDefault: spec.default,
    secret: false,
    parse: (given) =>
      (given ?? spec.default)
        .split(',')
        .map((item) => item.trim())
        .filter((item) => item !== '')
        .map((item) => check(item, spec)),
  }
}

/** host:port, as stores are named. */
export const hostPort = {
  pattern: /^[A-Za-z0-9.:_-]+:\d{1,5}$/,
  accepts: (text: string) => isPort(Number(text.slice(text.lastIndexOf(':') + 1))),
  demand: 'must be a comma list of host:port',
}

function isPort(port: number): boolean {
  return port >= 1 && port <= 65_535
}

/** scheme://host, as APIs are named. */
export const origin = {
  pattern: /^https?:\/\/[A-Za-z0-9.:[\]_-]+$/,
  accepts: isUrl,
  demand: 'must be a comma list of origins such as https://api.weixin.qq.com',
}

/** Whether the libraries that get it can take it apart, its user and password included. */
export function isUrl(text: string): boolean {
  try {
    const { username, password } = new URL(text)
    decodeURIComponent(username + password)
    return true
  } catch {
    return false // the reason quotes the text, and the text may hold a password
  }
}

/** Whether it can be decoded. */
export function isPercentEncoded(text: string): boolean {
  try {
    decodeURIComponent(text)
    return true
  } catch {
    return false // the reason quotes the text
  }
}

/** An address, or a CIDR range of more than nobody and less than everybody. */
export function isAddressRange(text: string): boolean {
  const [address = '', bits] = text.split('/')
  const version = isIP(address)
  if (version === 0) return false
  return bits === undefined || (Number(bits) >= 1 && Number(bits) <= (version === 4 ? 32 : 128))
}
