/** The probes of deploy/k8s, asked of the programs that they are for, started as their manifests say. */
import type { IProbe } from 'kubernetes-models/v1'
import { beforeAll, describe, expect, inject, test } from 'vitest'
import { freePort } from '../deploy/local/ports.ts'
import { createClient } from './harness/client.ts'
import type { Reply } from './harness/client.ts'
import { newPrefix } from './harness/environment.ts'
import { build, containerOf, find, kustomizeAbsence } from './harness/kubernetes.ts'
import type { Manifest } from './harness/kubernetes.ts'
import { programEnvironment } from './harness/manifest-environment.ts'
import { launchGateway, launchWorker, startGatewayProcess } from './harness/processes.ts'
import { until } from './harness/until.ts'

const GATEWAY = 'wechat-login-gateway'
const WORKER = 'wechat-login-worker'

if (kustomizeAbsence !== undefined) console.log(`Not tested: ${kustomizeAbsence}`)

describe.skipIf(kustomizeAbsence)('the kubelet', () => {
  let manifests: Manifest[]
  beforeAll(() => {
    manifests = build('overlays/production')
  })

  test('restarts nobody because a store is away, and says so to whom it concerns', async () => {
    const nobody = `127.0.0.1:${await freePort()}`
    const away = {
      REDIS_URL_FILE: '',
      REDIS_URL: `redis://${nobody}`,
      DATABASE_URL_FILE: '',
      DATABASE_URL: `postgres://${nobody}/d`,
    }
    for (const [deployment, launch] of [
      [GATEWAY, launchGateway],
      [WORKER, launchWorker],
    ] as const) {
      const { own, ask } = await probing()
      const program = launch({ ...programEnvironment(manifests, deployment), ...away, ...own })
      const { startup, liveness, readiness } = probesOf(manifests, deployment)
      await until('it to be taken for started', async () => (await ask(startup)) === 200)
      await until('it to say that it is not ready', async () => (await ask(readiness)) === 503)
      expect(await ask(liveness)).toBe(200)
      expect(await program.end('SIGTERM')).toBe(0)
    }
  })

  test('sends clients to a gateway that has all it needs, and KEDA finds the age of the queue there', async () => {
    const { own, ask, get } = await probing()
    const redis = { REDIS_URL_FILE: '', REDIS_URL: inject('redisUrl'), KEY_PREFIX: newPrefix() }
    await startGatewayProcess({ ...programEnvironment(manifests, GATEWAY), ...redis, ...own })
    const { startup, liveness, readiness } = probesOf(manifests, GATEWAY)
    await until('it to be taken in', async () => (await ask(readiness)) === 200)
    expect([await ask(startup), await ask(liveness)]).toEqual([200, 200])

    // What Prometheus scrapes has what KEDA asks it for.
    const [endpoint] = find(manifests, 'ServiceMonitor', GATEWAY).spec.endpoints
    const { triggers } = find(manifests, 'ScaledObject', WORKER).spec
    const query = triggers.find(({ type }) => type === 'prometheus')?.metadata['query'] ?? ''
    const [, age = 'no metric'] = /^max\((\w+)\)$/.exec(query) ?? []
    const { text = '' } = (await get(endpoint?.port, endpoint?.path)) ?? {}
    expect(text).toContain(`\n${age} 0\n`)
  })
})

function probesOf(manifests: readonly Manifest[], deployment: string) {
  const { startupProbe, livenessProbe, readinessProbe } = containerOf(
    find(manifests, 'Deployment', deployment),
  )
  return { startup: startupProbe ?? {}, liveness: livenessProbe ?? {}, readiness: readinessProbe ?? {} }
}

/** What a program is told of its ports here, and the kubelet's question on them. */
async function probing() {
  const [open, admin] = [await freePort(), await freePort()]
  const ports: Record<string, number> = { http: open, admin, metrics: admin }
  const own = {
    HOST: '127.0.0.1',
    ADMIN_HOST: '127.0.0.1',
    WORKER_HOST: '127.0.0.1',
    PORT: String(open),
    ADMIN_PORT: String(admin),
    WORKER_PORT: String(admin),
    DRAIN_DELAY_MS: '0',
  }
  /** undefined when nobody listens. */
  async function get(port: unknown, path = ''): Promise<Reply | undefined> {
    const client = createClient(`http://127.0.0.1:${ports[String(port)]}`)
    const reply = await client.get(path).catch(() => undefined)
    await client.close()
    return reply
  }
  const ask = async ({ httpGet }: IProbe) => (await get(httpGet?.port, httpGet?.path))?.status
  return { own, ask, get }
}
