/** Which ports the parts listen on. Checked before anything is started, so that nothing has to be undone. */
import { randomInt } from 'node:crypto'
import { connect, createServer } from 'node:net'
import type { Server } from 'node:net'
import { errorCode, StartRefused } from './refusal.ts'

const PORT_NAMES = ['gateway', 'admin', 'wechat', 'control', 'worker'] as const
/** `wechat` and `control` are the two listeners of the simulator. */
export type PortName = (typeof PORT_NAMES)[number]

export interface PortWish {
  /** The variable to change when the port is taken. */
  readonly variable: string
  readonly port: number
  readonly host: string
  /** The same for the host. */
  readonly hostVariable: string
  /** Nobody asked for this number, so any other will do. */
  readonly mayMove: boolean
}

/** Nothing here is meant for the network; HOST opens the gateway to it, for a phone in the same WLAN. */
export const LOOPBACK = '127.0.0.1'
const CONNECT_TIMEOUT_MS = 500

/**
 * Finds a port for every wish; 0 and taken ports that may move get a free one.
 * @throws {StartRefused} naming every taken port and its variable, a line each.
 */
export async function choosePorts(
  wishes: Readonly<Record<PortName, PortWish>>,
): Promise<Record<PortName, number>> {
  const held: Server[] = [] // until all are chosen, so that no two get the same
  const ports: Record<PortName, number> = { gateway: 0, admin: 0, wechat: 0, control: 0, worker: 0 }
  const faults: string[] = []
  try {
    for (const name of PORT_NAMES) {
      const wish = wishes[name]
      let server = await hold(wish)
      if (typeof server === 'string' && wish.mayMove) server = await hold({ ...wish, port: 0 })
      if (typeof server === 'string') {
        faults.push(server)
        continue
      }
      held.push(server)
      ports[name] = portOf(server)
    }
  } finally {
    for (const server of held) server.close()
  }
  if (faults.length > 0) throw new StartRefused(faults.join('\n'))
  return ports
}

/** Where each can be reached from this machine. */
export function addresses(
  wishes: Readonly<Record<PortName, PortWish>>,
  ports: Readonly<Record<PortName, number>>,
): Record<PortName, string> {
  const url = (name: PortName) => {
    const { host } = wishes[name]
    const near = host === '0.0.0.0' || host === '::' ? LOOPBACK : host
    return `http://${near.includes(':') ? `[${near}]` : near}:${ports[name]}`
  }
  return {
    gateway: url('gateway'),
    admin: url('admin'),
    wechat: url('wechat'),
    control: url('control'),
    worker: url('worker'),
  }
}

/** Below the range from which Linux and macOS take the ports of outgoing connections. */
const FREE_PORT_MIN = 20_000
const FREE_PORT_MAX = 32_000
const FREE_PORT_TRIES = 50
/** Shares no factor with the size of the range, so that all ports come before one comes again. */
const FREE_PORT_STEP = 4_801
/** Where this program is in the range: it is given no port twice before it has used it. */
let lastFreePort = randomInt(FREE_PORT_MIN, FREE_PORT_MAX)

/**
 * A port of the loopback that was free a moment ago, and that no outgoing connection takes meanwhile: those
 * the system would choose are also the ones it gives to every connection of every program. Two calls of one
 * program get different ports until all are used up.
 */
export async function freePort(): Promise<number> {
  for (let tries = 0; tries < FREE_PORT_TRIES; tries += 1) {
    const place = lastFreePort - FREE_PORT_MIN + FREE_PORT_STEP
    lastFreePort = FREE_PORT_MIN + (place % (FREE_PORT_MAX - FREE_PORT_MIN + 1))
    const port = lastFreePort
    const server = await hold({ variable: '', port, host: LOOPBACK, hostVariable: '', mayMove: true })
    if (typeof server === 'string') continue
    server.close()
    return port
  }
  throw new Error(`no free port found between ${FREE_PORT_MIN} and ${FREE_PORT_MAX}`)
}

/** A server that keeps the port, or the reason why it cannot be had. */
async function hold({ variable, port, host, hostVariable }: PortWish): Promise<Server | string> {
  // macOS lets one program listen on 127.0.0.1 while another has the port on all addresses.
  if (port !== 0 && (await answers(port))) return taken(variable, port)
  const server = createServer()
  const { promise, resolve } = Promise.withResolvers<Server | string>()
  server.once('error', (error) => {
    const code = errorCode(error)
    if (code === 'EADDRINUSE') resolve(taken(variable, port))
    else if (code === 'EACCES')
      resolve(`Port ${port} needs more rights than you have. Set ${variable} above 1023.`)
    else resolve(`${hostVariable}=${host} cannot be listened on (${code}).`)
  })
  server.listen({ port, host, exclusive: true }, () => resolve(server))
  return promise
}

function portOf(server: Server): number {
  const address = server.address()
  return typeof address === 'object' && address !== null ? address.port : 0
}

function taken(variable: string, port: number): string {
  const other = port < 65_000 ? port + 10 : port - 10
  return `Port ${port} is taken by another program. End that, or choose another port: ${variable}=${other} npm start`
}

async function answers(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const socket = connect({ port, host: LOOPBACK, timeout: CONNECT_TIMEOUT_MS })
  socket.once('connect', () => resolve(true))
  socket.once('error', () => resolve(false))
  socket.once('timeout', () => resolve(false))
  const result = await promise
  socket.destroy()
  return result
}
