/**
 * A message that WeChat pushes, read from XML or JSON, whichever the app's administrator has chosen: of all its
 * fields those that the gateway looks at. Pure.
 *
 * Names and values are trimmed, for WeChat's own examples have blanks in both (`" OpenID"`, `< OpenPID>`).
 */
import { parseXml } from './push-xml.ts'

const FIELDS = ['Encrypt', 'MsgType', 'Event', 'OpenID', 'AppID', 'CreateTime', 'RevokeInfo'] as const

export type PushFields = Partial<Record<(typeof FIELDS)[number], string>>

/** What has a label of its own; the rest are `other_event`, `other_message`. */
const EVENTS = [
  'user_authorization_revoke',
  'user_authorization_cancellation',
  'user_info_modified',
  'user_enter_tempsession',
  'subscribe_msg_popup_event',
  'subscribe_msg_change_event',
  'subscribe_msg_sent_event',
  'wxa_media_check',
  'wxa_punish_event',
] as const
const MESSAGES = ['text', 'image', 'miniprogrampage'] as const

export type PushType = (typeof EVENTS)[number] | (typeof MESSAGES)[number] | 'other_event' | 'other_message'

/** undefined: neither WeChat's XML nor a JSON object, or a field that counts is there twice. */
export function parsePush(body: Uint8Array): PushFields | undefined {
  const entries = entriesOf(body)?.map(([name, value]) => [name.trim(), value.trim()] as const)
  if (entries === undefined) return undefined
  const fields: PushFields = {}
  for (const name of FIELDS) {
    const [first, second] = entries.filter(([given]) => given === name)
    if (second !== undefined) return undefined
    if (first !== undefined) fields[name] = first[1]
  }
  return fields
}

/** What kind of message it is. WeChat's documents are not at one on the case of the words. */
export function pushTypeOf({ MsgType = '', Event = '' }: PushFields): PushType {
  if (MsgType.toLowerCase() === 'event')
    return EVENTS.find((name) => name === Event.toLowerCase()) ?? 'other_event'
  return MESSAGES.find((name) => name === MsgType.toLowerCase()) ?? 'other_message'
}

function entriesOf(body: Uint8Array): [string, string][] | undefined {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(body)
  } catch {
    return undefined // not UTF-8
  }
  return /^\s*</.test(text) ? parseXml(text) : parseJson(text)
}

/** Texts and numbers of the object itself; what is nested is of no concern here. */
function parseJson(text: string): [string, string][] | undefined {
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    return undefined // the parser's message would quote it
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) return undefined
  return Object.entries(parsed).flatMap(([name, value]: [string, unknown]) =>
    typeof value === 'string' || typeof value === 'number' ? [[name, String(value)]] : [],
  )
}
