/**
 * Reads the XML of message pushes, which is a small part of XML: elements, text, CDATA. Whatever else XML knows
 * (declarations, DOCTYPE, entities of one's own, attributes, comments, processing instructions) is refused as soon as
 * it is met, so nothing can be expanded, fetched or hidden. One pass, in time that grows with the length alone.
 *
 * Not a library: all of them know far more of XML than may be let in here, and their faults have been in just that.
 */

/** WeChat's messages are flat; some events carry lists, two levels deeper. */
const DEPTH_MAX = 6
const ELEMENTS_MAX = 1_000
/** Blanks as in `< OpenPID>`, which stand so in WeChat's own examples. */
const TAG = /<(\/?)\s*([A-Za-z_][A-Za-z0-9_.-]{0,63})\s*(\/?)>/y
const CDATA_OPEN = '<![CDATA['
const CDATA_CLOSE = ']]>'
const FOREIGN_REFERENCE = /&(?!(?:lt|gt|amp|quot|apos);)/
const CHARACTERS: Readonly<Record<string, string>> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" }

interface OpenElement {
  name: string
  text: string
  isLeaf: boolean
}

/**
 * The leaves right below the root `<xml>`, in order, each with its text. A name may come twice.
 * undefined: it is something else than such a document.
 */
export function parseXml(source: string): [name: string, text: string][] | undefined {
  const leaves: [string, string][] = []
  const open: OpenElement[] = []
  let elements = 0
  let at = skipBlanks(source, 0)

  while (at < source.length) {
    const parent = open.at(-1)
    if (source.startsWith(CDATA_OPEN, at)) {
      const end = source.indexOf(CDATA_CLOSE, at)
      if (end === -1 || parent === undefined) return undefined
      parent.text += source.slice(at + CDATA_OPEN.length, end)
      at = end + CDATA_CLOSE.length
    } else if (source[at] === '<') {
      TAG.lastIndex = at
      const [tag = '', slash, name = '', isEmpty] = TAG.exec(source) ?? []
      if (tag === '' || (slash !== '' && isEmpty !== '')) return undefined
      at += tag.length
      if (slash === '') {
        elements += 1
        if (elements > ELEMENTS_MAX || open.length === DEPTH_MAX) return undefined
        if (parent === undefined && (elements > 1 || name !== 'xml')) return undefined
        if (parent !== undefined) parent.isLeaf = false
        open.push({ name, text: '', isLeaf: true })
      }
      if (slash === '' && isEmpty === '') continue
      const closed = open.pop()
      if (closed?.name !== name) return undefined
      if (!closed.isLeaf && closed.text.trim() !== '') return undefined // text between elements
      if (open.length === 1 && closed.isLeaf) leaves.push([name, closed.text])
      if (open.length === 0) return skipBlanks(source, at) === source.length ? leaves : undefined
    } else {
      const end = source.indexOf('<', at)
      const text = source.slice(at, end === -1 ? undefined : end)
      if (end === -1 || parent === undefined || FOREIGN_REFERENCE.test(text)) return undefined
      parent.text += text.replaceAll(/&(\w+);/g, (_reference, name: string) => CHARACTERS[name] ?? '')
      at = end
    }
  }
  return undefined
}

function skipBlanks(source: string, from: number): number {
  let at = from
  while (' \t\r\n'.includes(source[at] ?? '-')) at += 1
  return at
}
