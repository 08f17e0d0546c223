/** Runs `task` for every item, in order, with so many under way at a time. */
export async function inLanes<T>(
  items: readonly T[],
  lanes: number,
  task: (item: T, at: number) => Promise<void>,
): Promise<void> {
  let next = 0
  const lane = async () => {
    for (let at = next++; at < items.length; at = next++) await task(items[at] as T, at)
  }
  await Promise.all(Array.from({ length: lanes }, lane))
}
