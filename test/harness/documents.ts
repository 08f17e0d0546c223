/** What the documents say, read back: tables of Markdown, and the variables of .env.example. */

/** The rows of all tables, cell by cell, without heading and rule. */
export function tableRows(markdown: string): string[][] {
  return markdown
    .split('\n')
    .filter((line, at, lines) => line.startsWith('|') && isInTable(lines, at))
    .map((line) =>
      line
        .replace(/^\||\|\s*$/g, '')
        .split(/(?<!\\)\|/)
        .map((cell) => cell.trim()),
    )
}

/** Below the rule that follows the heading. */
function isInTable(lines: readonly string[], at: number): boolean {
  for (let line = at - 1; lines[line]?.startsWith('|'); line -= 1) {
    if (/^\|[\s|:-]+$/.test(lines[line] ?? '')) return true
  }
  return false
}

/** The text of a cell that is nothing but `code`; undefined for any other cell. */
export function codeOf(cell: string | undefined): string | undefined {
  return /^`([^`]+)`$/.exec(cell ?? '')?.[1]
}

/** Where a document links to within the repository; an empty file is itself, an empty heading none. */
export function linksOf(markdown: string): { file: string; heading: string }[] {
  return [...markdown.matchAll(/\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)/g)].map(
    ([, file = '', heading = '']) => ({ file, heading }),
  )
}

/** Its headings as a link names them. */
export function anchorsOf(markdown: string): string[] {
  return [...markdown.matchAll(/^#+ (.*)$/gm)].map(([, title = '']) =>
    title
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, '')
      .replaceAll(' ', '-'),
  )
}

export interface EnvEntry {
  name: string
  value: string
  /** Behind a #: shown, not set. */
  commented: boolean
  /** The comment right above, as one line. */
  doc: string
}

/** The variables of an .env file, those that are commented out as well. */
export function envEntries(text: string): EnvEntry[] {
  const entries: EnvEntry[] = []
  let doc: string[] = []
  for (const line of text.split('\n')) {
    const [, mark, name, value] = /^(#?)([A-Z][A-Z0-9_]*)=(.*)$/.exec(line) ?? []
    if (name !== undefined && value !== undefined) {
      entries.push({ name, value, commented: mark === '#', doc: doc.join(' ') })
    }
    doc = name === undefined && line.startsWith('# ') ? [...doc, line.slice(2)] : []
  }
  return entries
}
