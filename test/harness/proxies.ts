/** The proxies of deploy/proxies/ with the very files that operators get, as far as their programs are here. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { IncomingHttpHeaders } from 'node:http'
import { connect } from 'node:net'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { absence, DAEMON_PATH, writeNginx } from './load-balancers.ts'
import { until } from './until.ts'

const PROXIES = new URL('../../deploy/proxies/', import.meta.url).pathname
export type ProxyName = 'nginx' | 'haproxy' | 'caddy'

interface Addresses {
  listen: string
  gateway: string
  backend: string
}

/** How each is started: in the foreground, with nothing written outside `folder`. */
const COMMANDS: Record<ProxyName, (folder: string, addresses: Addresses) => [args: string[], env: object]> = {
  nginx(folder, { listen, gateway, backend }) {
    const template = readFileSync(`${PROXIES}nginx.conf.template`, 'utf8')
    const config = writeNginx(folder, template, { LISTEN: listen, GATEWAY: gateway, BACKEND: backend })
    return [['-p', folder, '-c', config], {}]
  },
  haproxy: (_folder, { listen, gateway, backend }) => [
    ['-db', '-f', `${PROXIES}haproxy.cfg`],
    { LISTEN: listen, GATEWAY: gateway, BACKEND: backend, LUA_DIR: PROXIES },
  ],
  caddy: (folder, { listen, gateway, backend }) => [
    ['run', '--config', `${PROXIES}Caddyfile`, '--adapter', 'caddyfile'],
    {
      LISTEN: `http://${listen}`,
      GATEWAY: gateway,
      BACKEND: backend,
      CADDY_ADMIN: `unix/${folder}/admin.sock`,
      HOME: folder,
      XDG_DATA_HOME: folder,
      XDG_CONFIG_HOME: folder,
    },
  ],
}

/** Why it cannot be tested here; undefined when it can. */
export function proxyAbsence(name: ProxyName): string | undefined {
  return absence(name, name === 'caddy' ? ['version'] : ['-v'])
}

/** Its address, once it takes connections. It ends with the test. */
export function startProxy(
  name: ProxyName,
  upstreams: { gateway: string; backend: string },
): Promise<string> {
  return startDaemon(name, (folder, listen) =>
    COMMANDS[name](folder, {
      listen,
      gateway: new URL(upstreams.gateway).host,
      backend: new URL(upstreams.backend).host,
    }),
  )
}

/** Starts what listens where it is told to. Its address, once it takes connections. It ends with the test. */
export async function startDaemon(
  name: string,
  prepare: (folder: string, listen: string) => [args: string[], env: object],
): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), `gateway-${name}-`))
  const listen = `127.0.0.1:${await freePort()}`
  const [args, env] = prepare(folder, listen)
  const child = spawn(name, args, { env: { PATH: DAEMON_PATH, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = once(child, 'exit')
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
  }
  onTestFinished(async () => {
    child.kill('SIGTERM')
    await ended
    rmSync(folder, { recursive: true })
  })
  await until(`${name} on ${listen}`, () => {
    if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}:\n${output}`)
    return takesConnections(listen)
  })
  return `http://${listen}`
}

export interface BackendRequest {
  method: string
  url: string
  headers: IncomingHttpHeaders
  body: string
}

/** A backend that answers 200 to everything, or what /answer/<status> asks for. It ends with the test. */
export async function startBackend() {
  const requests: BackendRequest[] = []
  const server = createServer((request, response) => {
    const { method = '', url = '', headers } = request
    const received = { method, url, headers, body: '' }
    request.setEncoding('utf8').on('data', (piece: string) => {
      received.body += piece
    })
    request.once('end', () => {
      requests.push(received)
      const status = Number(/^\/answer\/(\d{3})$/.exec(url)?.[1] ?? 200)
      response.writeHead(status, { 'content-type': 'text/plain' }).end(`backend ${status}`)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

function takesConnections(address: string): Promise<boolean> {
  const { hostname, port } = new URL(`http://${address}`)
  return new Promise((resolve) => {
    const socket = connect({ host: hostname, port: Number(port) })
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}
