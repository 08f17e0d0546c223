/**
 * The health check of the images: is the listener at the port that a variable names ready? For Docker, Compose and
 * whoever else asks a container; Kubernetes asks the listener itself.
 */
const [variable = 'PORT'] = process.argv.slice(2)
const TIMEOUT_MS = 2_500

const answer = await ask(`http://127.0.0.1:${process.env[variable]}/readyz`)
if (answer !== 200) {
  console.log(`not ready: ${answer}`)
  process.exitCode = 1
}

async function ask(url: string): Promise<number | string> {
  try {
    return (await fetch(url, { signal: AbortSignal.timeout(TIMEOUT_MS) })).status
  } catch (error) {
    return error instanceof Error ? error.message : 'no answer'
  }
}
