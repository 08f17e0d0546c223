/**
 * The gateway process (gateway-process.ts), behind its first and smallest part: obeying a signal.
 *
 *   --check-config   validates the configuration and exits
 *
 * Loading the rest takes more than half a second. A signal in that time would end the process as killed, and as
 * the first process of a container it would be ignored, for the kernel spares a PID 1 that does not listen.
 */

const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const

const leave = () => process.exit(0)
for (const signal of SIGNALS) process.once(signal, leave)
const { runGateway } = await import('./gateway-process.ts')
const gatewayReady = runGateway()
// Only now, when it listens itself: with its last listener a signal that is on its way would be lost.
for (const signal of SIGNALS) process.off(signal, leave)
await gatewayReady
