/** The simulated WeChat, in the process of the local run; loaded only when no real one is configured. */
import { LOOPBACK } from './ports.ts'
import type { Part } from './supervisor.ts'

export interface SimulatedApp {
  readonly appid: string
  readonly secret: string
}

/** Longer than an answer in flight; connections that stay open are not waited for. */
const STOP_MS = 1_000

/** Listens on the loopback only, for it hands out logins to whoever asks; knows the one app. */
export async function bringSimulator(
  app: SimulatedApp,
  ports: { readonly wechat: number; readonly control: number },
): Promise<Part> {
  const { startSimulator } = await import('../../test/simulator/server.ts')
  const simulator = await startSimulator({
    host: LOOPBACK,
    port: ports.wechat,
    controlPort: ports.control,
    apps: [app],
  })
  return {
    name: 'simulator',
    stop: async () => {
      await Promise.race([simulator.close(), new Promise((resolve) => setTimeout(resolve, STOP_MS))])
    },
    kill: () => {}, // it is in this very process
  }
}
