/** Least squares: whether something grows. */

export interface LineFit {
  /** Per unit of x. */
  slope: number
  /** How far the slope may be off by chance: one standard error, of independent points. */
  slopeError: number
  at(x: number): number
}

/** The line that comes nearest to the points. NaN with fewer than three, or when all have one x. */
export function fitLine(points: readonly (readonly [x: number, y: number])[]): LineFit {
  const count = points.length
  const meanX = points.reduce((sum, [x]) => sum + x, 0) / count
  const meanY = points.reduce((sum, [, y]) => sum + y, 0) / count
  let sumXX = 0
  let sumXY = 0
  for (const [x, y] of points) {
    sumXX += (x - meanX) ** 2
    sumXY += (x - meanX) * (y - meanY)
  }
  const slope = count < 3 || sumXX === 0 ? Number.NaN : sumXY / sumXX
  const at = (x: number) => meanY + slope * (x - meanX)
  const residuals = points.reduce((sum, [x, y]) => sum + (y - at(x)) ** 2, 0)
  return { slope, slopeError: Math.sqrt(residuals / (count - 2) / sumXX), at }
}
