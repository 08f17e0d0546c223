/** Results as a picture: CPU a request, of the process and of Redis, scene by scene. */
import type { Results } from './results.ts'

const WIDTH = 760
const LEFT = 190
const ROW = 20
const TITLE = 34
const MARGIN = 70

const DRAWN = ['returning', 'first', 'auth'] as const
const TITLES: Record<(typeof DRAWN)[number], string> = {
  returning: 'Login of a returning user',
  first: 'Login of a new user, with its job',
  auth: 'Who is this? (/auth)',
}

export function plot(results: Results): string {
  const parts: string[] = []
  let y = 30
  for (const scene of DRAWN) {
    const rows = Object.entries(results[scene]?.subjects ?? {}).map(([label, { cpuUs, redisCpuUs }]) => ({
      label,
      cpuUs: cpuUs?.median ?? 0,
      redisUs: redisCpuUs?.median ?? 0,
    }))
    if (rows.length === 0) continue
    const longest = Math.max(...rows.map(({ cpuUs, redisUs }) => cpuUs + redisUs))
    const scale = (WIDTH - LEFT - MARGIN) / longest
    parts.push(`<text x="8" y="${y + 16}" font-size="14" font-weight="bold">${TITLES[scene]}</text>`)
    y += TITLE - 8
    for (const { label, cpuUs, redisUs } of rows.toSorted(
      (a, b) => a.cpuUs + a.redisUs - b.cpuUs - b.redisUs,
    )) {
      const [own, redis] = [cpuUs * scale, redisUs * scale]
      const colour = label.startsWith('gateway') ? '#2f7d32' : '#90a4ae'
      const total = Math.round(cpuUs + redisUs)
      parts.push(
        `<text x="${LEFT - 8}" y="${y + 14}" text-anchor="end">${label}</text>` +
          `<rect x="${LEFT}" y="${y + 3}" width="${own.toFixed(1)}" height="${ROW - 6}" fill="${colour}"/>` +
          `<rect x="${(LEFT + own).toFixed(1)}" y="${y + 3}" width="${redis.toFixed(1)}" height="${ROW - 6}" fill="#c62828"/>` +
          `<text x="${(LEFT + own + redis + 5).toFixed(1)}" y="${y + 14}">${total}</text>`,
      )
      y += ROW
    }
    y += 12
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y + 4}" font-family="sans-serif" font-size="12">
<rect width="${WIDTH}" height="${y + 4}" fill="#fff"/>
<text x="8" y="18">µs of CPU a request, less is better; red: what Redis takes of it</text>
${parts.join('\n')}
</svg>
`
}
