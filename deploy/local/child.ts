/**
 * Loaded with --import before the entry point of a process that the local run starts: when the run is
 * gone, even by SIGKILL, the channel to it closes, and the process ends instead of staying behind.
 */

/** A goodbye to Redis and the database takes less; after this it is no longer waited for. */
const GOODBYE_MS = 4_000

process.on('disconnect', () => {
  setTimeout(() => process.exit(1), GOODBYE_MS).unref()
  process.kill(process.pid, 'SIGTERM')
})
// The channel alone must not keep a process alive that has nothing more to do.
process.channel?.unref()
