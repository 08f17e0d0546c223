/** A profile as an SVG flame graph: the wider, the more time or memory; above each function what it called. */
import type { Frame } from './v8-profile.ts'

const WIDTH = 1_200
const ROW = 17
const HEAD = 30
/** Narrower frames are left out. */
const NARROWEST = 0.7
const CHAR_WIDTH = 6.3
const PADDING = 4

export function flameGraph(root: Frame, title: string): string {
  const scale = WIDTH / root.total
  const boxes: string[] = []
  let rows = 0

  const draw = (frame: Frame, x: number, row: number): void => {
    const width = frame.total * scale
    if (width < NARROWEST) return
    rows = Math.max(rows, row + 1)
    const share = ((100 * frame.total) / root.total).toFixed(1)
    const label = `${frame.name} · ${frame.owner}`
    const chars = Math.floor((width - PADDING) / CHAR_WIDTH)
    const text =
      chars < 3
        ? ''
        : `<text x="${(x + 2).toFixed(1)}" y="${row * ROW + 12}">${escape(label.slice(0, chars))}</text>`
    boxes.push(
      `<g><title>${escape(label)} ${share} %</title><rect x="${x.toFixed(1)}" y="${row * ROW}" width="${width.toFixed(1)}" height="${ROW - 1}" fill="${colourOf(frame.owner)}"/>${text}</g>`,
    )
    let left = x
    for (const child of frame.children) {
      draw(child, left, row + 1)
      left += child.total * scale
    }
  }
  draw(root, 0, 0)

  const height = HEAD + rows * ROW
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="monospace" font-size="10.5">
<rect width="${WIDTH}" height="${height}" fill="#fff"/>
<text x="4" y="18" font-size="13">${escape(title)}</text>
<g transform="translate(0 ${HEAD})">
${boxes.join('\n')}
</g>
</svg>
`
}

/** Ours, packages, Node, and V8 itself are told apart; the same owner always looks the same. */
function colourOf(owner: string): string {
  const hue = Array.from(owner).reduce((sum, char) => (sum * 31 + char.charCodeAt(0)) % 40, 7)
  if (owner.startsWith('src/')) return `hsl(${90 + hue} 55% 70%)`
  if (owner.startsWith('node:')) return `hsl(${200 + hue} 45% 80%)`
  if (owner.startsWith('(')) return 'hsl(0 0% 82%)'
  return `hsl(${10 + hue} 80% 74%)`
}

function escape(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
}
