/** What has to be ended, last first. */
export interface Closing {
  defer(close: () => unknown): void
  close(): Promise<void>
}

export function createClosing(): Closing {
  const steps: (() => unknown)[] = []
  return {
    defer: (step) => void steps.push(step),
    async close() {
      for (const step of steps.splice(0).toReversed()) await step()
    },
  }
}
