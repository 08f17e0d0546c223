/** The sources as text, and who imports whom: for the tests that keep the directions of the design. */
import { globSync, readFileSync } from 'node:fs'
import { posix } from 'node:path'

const ROOT = new URL('../../', import.meta.url).pathname

export interface Import {
  /** The importing file, from the repository's root. */
  from: string
  /** A file from the repository's root, or the name of a package, or node:something. */
  to: string
  /** Gone when the program runs. */
  typeOnly: boolean
}

/** Paths from the repository's root, in order. */
export function sourceFiles(...patterns: string[]): string[] {
  // The peers of the bench have packages of their own.
  return globSync(patterns, { cwd: ROOT, exclude: ['**/node_modules/**'] }).toSorted()
}

export function readSource(path: string): string {
  return readFileSync(ROOT + path, 'utf8')
}

const STATEMENT = /^(?:import|export) (type )?(?:[\w*{][^'";]*? from )?'([^']+)'/gm
const DYNAMIC = /\bimport\(\s*'([^']+)'/g

/** What a file imports, statically or not, and what it exports from elsewhere. */
export function importsOf(from: string): Import[] {
  const source = readSource(from)
  const imports: Import[] = []
  for (const [, type, specifier = ''] of source.matchAll(STATEMENT)) {
    imports.push({ from, to: resolve(from, specifier), typeOnly: type !== undefined })
  }
  for (const [, specifier = ''] of source.matchAll(DYNAMIC)) {
    imports.push({ from, to: resolve(from, specifier), typeOnly: false })
  }
  return imports
}

function resolve(from: string, specifier: string): string {
  if (specifier.startsWith('.')) return posix.join(posix.dirname(from), specifier)
  if (specifier.startsWith('node:')) return specifier
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/')
}

/** All files that run when `entry` does. */
export function reachedFrom(entry: string): Set<string> {
  const reached = new Set([entry])
  for (const file of reached) {
    for (const { to, typeOnly } of importsOf(file)) {
      if (!typeOnly && to.endsWith('.ts')) reached.add(to) // a Set goes on over what is added to it
    }
  }
  return reached
}

/** A cycle of imports among the files, if there is one. */
export function findCycle(files: readonly string[]): string[] | undefined {
  const done = new Set<string>()
  const path: string[] = []

  const visit = (file: string): string[] | undefined => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file]
    if (done.has(file)) return undefined
    path.push(file)
    for (const { to } of importsOf(file)) {
      const cycle = files.includes(to) ? visit(to) : undefined
      if (cycle) return cycle
    }
    path.pop()
    done.add(file)
    return undefined
  }

  for (const file of files) {
    const cycle = visit(file)
    if (cycle) return cycle
  }
  return undefined
}

/** Code without its comments. Rough: it does not know a comment from a text that looks like one. */
export function withoutComments(source: string): string {
  return source.replaceAll(/\/\*[\s\S]*?\*\//g, '').replaceAll(/(^|\s)\/\/.*$/gm, '$1')
}

/** The words of all identifiers: spendLogin is spend and login. */
export function wordsOf(code: string): Set<string> {
  const words = code.match(/[A-Z]?[a-z]+|[A-Z]+(?![a-z])/g) ?? []
  return new Set(words.map((word) => word.toLowerCase()))
}
