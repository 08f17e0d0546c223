/**
 * The gateway process (gateway-process.ts), obeying signals while the rest of it is loaded.
 *
 *   --check-config   validates the configuration and exits
 */
import { leaveOnSignal } from './early-signals.ts'

const othersListen = leaveOnSignal()
const { runGateway } = await import('./gateway-process.ts')
const ready = runGateway()
othersListen()
await ready
