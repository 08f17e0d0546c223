/** What is looked at while the stack of main.ts runs; each adds rows to the report. */
import { setTimeout as pause } from 'node:timers/promises'
import { createClient } from '../harness/client.ts'
import { until } from '../harness/until.ts'
import { issueCodes, startLoad } from './load.ts'
import type { Report } from './report.ts'
import { docker } from './stack.ts'
import type { Container, Stack } from './stack.ts'

const GATEWAY_IMAGE_MB_MAX = 220
/** One start says little on a machine that does other things too. */
const STARTS = 5
const GATEWAY_READY_SECONDS_MAX = 1.5
const GATEWAY_IDLE_MB_MAX = 120
const GATEWAY_LOADED_MB_MAX = 180
const IDLE_SECONDS = 20
const OURS = ['gateway', 'worker', 'simulator']

const ofService = (containers: readonly Container[], service: string) =>
  containers.filter((container) => container.service === service)

export async function checkImages(report: Report): Promise<void> {
  for (const name of OURS) {
    const bytes = Number(await docker(['image', 'inspect', '-f', '{{.Size}}', `wechat-login-${name}`]))
    if (name === 'gateway') report.atMost(`image of the ${name}`, bytes / 1e6, GATEWAY_IMAGE_MB_MAX, 'MB')
    else report.tell(`image of the ${name}`, `${Math.round(bytes / 1e6)} MB`)
  }
}

/**
 * From the start of its container to its word of being ready, alone with its Redis. It comes last, for it stops the rest:
 * beside nine containers on two cores, each with a health check that starts Node, it would say how busy the machine is.
 */
export async function checkGatewayStart(report: Report, stack: Stack): Promise<void> {
  const containers = await stack.containers()
  const [gateway] = ofService(containers, 'gateway')
  if (gateway === undefined) throw new Error('there is no gateway')
  const { name } = gateway
  const others = containers.filter(
    (one) => one.name !== name && one.service !== 'redis' && one.state === 'running',
  )
  await docker(['stop', '--time', '5', ...others.map((one) => one.name)])
  const seconds: number[] = []
  for (let round = 0; round < STARTS; round += 1) {
    await docker(['restart', name])
    const startedMs = Date.parse((await docker(['inspect', '-f', '{{.State.StartedAt}}', name])).trim())
    const readyMs = await until('the gateway to be ready', async () => {
      const lines = (await docker(['logs', '--since', new Date(startedMs).toISOString(), name])).split('\n')
      const ready = lines.findLast((line) => line.includes('"msg":"gateway ready"'))
      return ready !== undefined && Date.parse((JSON.parse(ready) as { time: string }).time)
    })
    seconds.push((readyMs - startedMs) / 1000)
  }
  const sorted = seconds.toSorted((one, other) => one - other)
  report.atMost(
    'a gateway is ready after the start of its container, median',
    sorted[Math.floor(STARTS / 2)] ?? Infinity,
    GATEWAY_READY_SECONDS_MAX,
    's',
  )
  report.tell('such starts', sorted.map((each) => `${each.toFixed(2)} s`).join(', '))
}

/** Resident memory of the process itself, after a while in which nobody asks for anything. */
export async function checkIdleMemory(report: Report, stack: Stack): Promise<void> {
  await pause(IDLE_SECONDS * 1000)
  const [gateway] = ofService(await stack.containers(), 'gateway')
  report.atMost(
    'memory of an idle gateway (RSS)',
    await residentMegabytes(gateway),
    GATEWAY_IDLE_MB_MAX,
    'MB',
  )
}

async function residentMegabytes(container: Container | undefined): Promise<number> {
  const status = await insideNode(
    container,
    `const pid = fs.readdirSync('/proc').filter(Number).find((one) => {
       try { return fs.readFileSync('/proc/' + one + '/cmdline', 'utf8').split('\\0')[0].endsWith('node') && one != process.pid } catch { return false }
     })
     process.stdout.write(fs.readFileSync('/proc/' + pid + '/status', 'utf8'))`,
  )
  const kilobytes = Number(/VmRSS:\s+(\d+)/.exec(status)?.[1])
  return (kilobytes * 1024) / 1e6
}

export async function checkLogin(report: Report, stack: Stack): Promise<void> {
  const client = createClient(stack.urls.public)
  const [code = ''] = await issueCodes(stack.urls.control, 1)
  const { status, body } = await client.login({ code })
  report.holds('a login through the load balancer', status === 200 ? [] : [`${status} ${body.code}`])
  const beganMs = performance.now()
  const session = await until('the user to be provisioned', async () => {
    const reply = await client.get('/session', body.token)
    return typeof reply.body.user_id === 'string' && reply.body
  })
  report.holds('its user is provisioned', session.provisioned ? [] : ['provisioned is not true'])
  report.tell('provisioned after', `${Math.round(performance.now() - beganMs)} ms`)
  const shut = await Promise.all(
    ['/metrics', '/auth', '/readyz', '/queues'].map((path) => client.get(path, body.token)),
  )
  report.holds(
    'nothing but what clients ask is reached from outside',
    shut.filter((reply) => reply.status !== 404).map((reply) => reply.text.slice(0, 80)),
  )
  await client.close()
}

/** Rights of all containers; of ours also what is in them. */
export async function checkConfinement(report: Report, stack: Stack): Promise<void> {
  const offences: string[] = []
  for (const { name, service } of await stack.containers()) {
    const [found] = JSON.parse(await docker(['inspect', name])) as [
      {
        Config: { Env: string[] }
        HostConfig: {
          ReadonlyRootfs: boolean
          CapDrop: string[]
          SecurityOpt: string[]
          Memory: number
          PidsLimit: number
        }
      },
    ]
    const { HostConfig, Config } = found
    if (!HostConfig.ReadonlyRootfs) offences.push(`${service}: root is writable`)
    if (!HostConfig.CapDrop.includes('ALL')) offences.push(`${service}: keeps capabilities`)
    if (!HostConfig.SecurityOpt.some((option) => option.startsWith('no-new-privileges')))
      offences.push(`${service}: may gain privileges`)
    if (HostConfig.Memory === 0 || HostConfig.PidsLimit === 0) offences.push(`${service}: is not bounded`)
    if (Config.Env.some((entry) => /(SECRET|PASSWORD|TOKEN|KEYS|_URL)=(?!http)/.test(entry)))
      offences.push(`${service}: a secret in its environment`)
  }
  report.holds(
    'every container: read-only root, no capabilities, no new privileges, bounded, no secret in the environment',
    offences,
  )

  const inOurs: string[] = []
  for (const container of (await stack.containers()).filter(({ service }) => OURS.includes(service))) {
    const found = await insideNode(
      container,
      `const tries = ['/app/x', '/tmp/x', '/etc/passwd'].filter((f) => { try { fs.writeFileSync(f, ''); return true } catch { return false } })
       console.log(JSON.stringify({ uid: process.getuid(), tries, shells: ['/bin/sh', '/usr/bin/sh', '/bin/busybox'].filter(fs.existsSync) }))`,
    )
    const { uid, tries, shells } = JSON.parse(found) as { uid: number; tries: string[]; shells: string[] }
    if (uid === 0) inOurs.push(`${container.service} runs as root`)
    for (const path of [...tries, ...shells]) inOurs.push(`${container.service}: ${path}`)
  }
  report.holds('our containers: not root, no shell, no file can be written', inOurs)
}

/** One gateway is killed, the other told to go, while clients log in. */
export async function checkKill(report: Report, stack: Stack): Promise<void> {
  const codes = await issueCodes(stack.urls.control, 60_000)
  const [first, second] = ofService(await stack.containers(), 'gateway')
  if (first === undefined || second === undefined) throw new Error('there are no two gateways')
  const load = startLoad(stack.urls.public, { clients: 16, codes })
  const further = (count: number) => {
    const goal = load.logins() + count
    return until(`${count} further logins`, () => load.logins() >= goal, 60_000)
  }
  await further(500)
  process.kill(Number(await docker(['inspect', '-f', '{{.State.Pid}}', first.name])), 'SIGKILL')
  await further(500)
  await until('the engine to have started it again', () => isHealthy(first), 60_000)
  await further(500)
  await docker(['stop', '--time', '30', second.name])
  await further(500)
  const loadedMegabytes = await residentMegabytes(first)
  const { logins, again, failures, slowestMs } = await load.stop()
  report.holds('a gateway killed under load, then another stopped: no failed login', [...new Set(failures)])
  report.tell(
    'logins meanwhile',
    `${logins}, of which ${again} were told to come again; the slowest took ${Math.round(slowestMs)} ms`,
  )
  report.atMost('memory of a gateway under load (RSS)', loadedMegabytes, GATEWAY_LOADED_MB_MAX, 'MB')
  await docker(['start', second.name])
  await until('it to be well again', () => isHealthy(second), 60_000)
}

async function isHealthy({ name }: Container): Promise<boolean> {
  return (await docker(['inspect', '-f', '{{.State.Health.Status}}', name])).trim() === 'healthy'
}

/** Prometheus has both gateways and the worker, and their counters. */
export async function checkMetrics(report: Report, stack: Stack): Promise<void> {
  const query = async (promql: string) => {
    const answer = await fetch(`${stack.urls.prometheus}/api/v1/query?query=${encodeURIComponent(promql)}`)
    const { data } = (await answer.json()) as { data: { result: { value: [number, string] }[] } }
    return Number(data.result[0]?.value[1] ?? 0)
  }
  const expected = { gateway: 2, worker: 1, haproxy: 1 }
  for (const [job, count] of Object.entries(expected)) {
    const name = `Prometheus scrapes ${job}`
    const seen = await until(
      name,
      async () => (await query(`sum(up{job="${job}"})`)) === count,
      60_000,
    ).catch(() => false)
    report.holds(name, seen ? [] : [`not ${count} of it`])
  }
  const logins = await until(
    'logins to be counted',
    () => query('sum(login_total{outcome="ok"})'),
    60_000,
  ).catch(() => 0)
  report.holds('Prometheus has counted logins', logins > 0 ? [] : ['none'])
}

/** A third gateway is found by the load balancer and by Prometheus. */
export async function checkScaling(report: Report, stack: Stack): Promise<void> {
  await stack.compose(['up', '-d', '--no-deps', '--no-recreate', '--scale', 'gateway=3', 'gateway'])
  const servers = async () => {
    const answer = await fetch(
      `${stack.urls.prometheus}/api/v1/query?query=${encodeURIComponent('haproxy_backend_active_servers{proxy="gateways"}')}`,
    )
    const { data } = (await answer.json()) as { data: { result: { value: [number, string] }[] } }
    return Number(data.result[0]?.value[1] ?? 0)
  }
  const seen = await until(
    'the load balancer to use three',
    async () => (await servers()) === 3,
    60_000,
  ).catch(() => false)
  report.holds(
    '--scale gateway=3: the load balancer uses the third',
    seen ? [] : [`it uses ${await servers()}`],
  )
}

/** Runs JavaScript in a container, by the Node that is there. */
function insideNode(container: Container | undefined, script: string): Promise<string> {
  if (container === undefined) throw new Error('there is no such container')
  return docker(['exec', container.name, 'node', '-e', `const fs = require('node:fs');${script}`])
}
