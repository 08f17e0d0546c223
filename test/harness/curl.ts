/**
 * Runs a curl line as a person would paste it into bash. On a machine without curl, which the gateway does not
 * need, a stand-in takes its place that knows what our printed lines use.
 */
import { execFile, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { NODE_ENVIRONMENT } from './node-environment.ts'

const STAND_IN = `
const [, , ...args] = process.argv
const options = { method: undefined, headers: {}, body: undefined, url: '' }
while (args.length > 0) {
  const arg = args.shift()
  if (arg === '-s') continue
  else if (arg === '-X') options.method = args.shift()
  else if (arg === '-d') options.body = args.shift()
  else if (arg === '-H') {
    const [name, ...value] = args.shift().split(':')
    options.headers[name.trim()] = value.join(':').trim()
  } else if (arg.startsWith('-')) throw new Error('this stand-in for curl does not know ' + arg)
  else options.url = arg
}
const { url, method = options.body === undefined ? 'GET' : 'POST', headers, body } = options
console.log(await (await fetch(url, { method, headers, body })).text())
`

/** What the line writes to stdout. */
export async function pasteIntoBash(line: string): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'gateway-curl-'))
  try {
    const env = { ...NODE_ENVIRONMENT }
    if (spawnSync('curl', ['--version']).error !== undefined) {
      writeFileSync(join(folder, 'curl.mjs'), STAND_IN)
      writeFileSync(
        join(folder, 'curl'),
        `#!/bin/sh\nexec "${process.execPath}" "${folder}/curl.mjs" "$@"\n`,
        { mode: 0o755 },
      )
      env['PATH'] = `${folder}:${env['PATH']}`
    }
    const { stdout } = await promisify(execFile)('bash', ['-c', line], { env })
    return stdout
  } finally {
    rmSync(folder, { recursive: true })
  }
}
