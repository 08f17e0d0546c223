/** The worker process (worker-process.ts), obeying signals while the rest of it is loaded. */
import { leaveOnSignal } from '../src/early-signals.ts'

const othersListen = leaveOnSignal()
const { runWorker } = await import('./worker-process.ts')
const ready = runWorker()
othersListen()
await ready
