/** HAProxy and nginx before the gateways of a stand, from the files in deploy/load-balancers/ that operators get. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from '../../deploy/local/ports.ts'
import { absence, loadBalancerStart } from '../harness/load-balancers.ts'
import type { LoadBalancerName } from '../harness/load-balancers.ts'
import { until } from '../harness/until.ts'
import { startProgram } from './program.ts'
import type { Program } from './program.ts'
import type { Bench } from './row.ts'
import type { Stand } from './stand.ts'

export interface LoadBalancer extends Program {
  readonly url: string
}

/** For `absent` of a row: says plainly which program is missing. */
export const absentOf =
  (...names: LoadBalancerName[]) =>
  (): string | undefined =>
    names.map((name) => absence(name)).find((missing) => missing !== undefined)

/** Resolves when clients get through to a gateway. It ends with the row. */
export async function startLoadBalancer(
  bench: Bench,
  name: LoadBalancerName,
  stand: Pick<Stand, 'gateway'>,
): Promise<LoadBalancer> {
  const folder = mkdtempSync(join(tmpdir(), `gateway-${name}-`))
  const port = await freePort()
  const { args, env } = loadBalancerStart(name, {
    folder,
    listen: `127.0.0.1:${port}`,
    gateways: [stand.gateway(0).url, stand.gateway(1).url, stand.gateway(2).url],
  })
  // Its worker would survive a master that is killed with the bench.
  const own = name === 'nginx' ? ['-g', 'master_process off;'] : []
  const program = await startProgram({ name, command: [name, ...args, ...own], env })
  bench.defer(async () => {
    await program.end('SIGTERM')
    rmSync(folder, { recursive: true, force: true })
  })
  const url = `http://127.0.0.1:${port}`
  await until(`${name} to know a gateway`, async () => {
    if (!program.isRunning()) throw new Error(`${name} has ended:\n${program.output()}`)
    const answer = await fetch(`${url}/session`).catch(() => undefined)
    return answer?.status === 401
  })
  return Object.defineProperties(Object.create(program) as LoadBalancer, { url: { value: url } })
}
