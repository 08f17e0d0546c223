/** A trace as a drawing in letters, for docs/tracing.md. */
import { readFileSync, writeFileSync } from 'node:fs'
import type { CollectedSpan } from './collector.ts'

const BAR_CHARACTERS = 44
const NAME_CHARACTERS = 42
const DRAWING = /(<!-- npm run draw:trace -->\n)[\s\S]*?(<!-- end -->)/

/** Puts it into a document, in the place of the one that is there (npm run draw:trace). */
export function drawInto(file: string, spans: readonly CollectedSpan[]): void {
  const drawing = `\n\`\`\`text\n${draw(spans)}\n\`\`\`\n\n`
  const text = readFileSync(file, 'utf8')
  writeFileSync(
    file,
    text.replace(DRAWING, (_all, begin: string, end: string) => begin + drawing + end),
  )
}

/** One line a span, indented below its parent, with a bar for when it ran. */
function draw(spans: readonly CollectedSpan[]): string {
  const root = spans.find(({ parentSpanId }) => parentSpanId === undefined)
  if (root === undefined) throw new Error('a trace has a root')
  const { startNs } = root
  const endNs = spans.reduce((latest, span) => (span.endNs > latest ? span.endNs : latest), root.endNs)
  const column = (ns: bigint) => Math.round((Number(ns - startNs) / Number(endNs - startNs)) * BAR_CHARACTERS)

  const lines = (span: CollectedSpan, depth: number): string[] => {
    const from = Math.min(column(span.startNs), BAR_CHARACTERS - 1)
    const bar = '█'.repeat(Math.max(1, column(span.endNs) - from))
    const name = `${'  '.repeat(depth)}${span.name}`.padEnd(NAME_CHARACTERS)
    const ms = (Number(span.endNs - span.startNs) / 1e6).toFixed(1).padStart(5)
    const below = spans
      .filter(({ parentSpanId }) => parentSpanId === span.spanId)
      .toSorted((one, other) => (one.startNs < other.startNs ? -1 : 1))
    return [`${name}${ms} ms ${' '.repeat(from)}${bar}`, ...below.flatMap((child) => lines(child, depth + 1))]
  }
  return lines(root, 0).join('\n')
}
