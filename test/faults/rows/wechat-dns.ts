/** U9: WeChat's name, when DNS is lost, slow, or says something new. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { startDnsServer } from '../../harness/dns-server.ts'
import { checkInvariants } from '../invariants.ts'
import { PROGRAM_ROOT } from '../program.ts'
import type { Bench, Row } from '../row.ts'
import { bringFault, checkValidations, recover } from '../upstream-run.ts'
import { startWechat } from '../wechat.ts'

const NAME = 'api.wechat.test'
/** As in src/wechat/: after both together every connection is a new one, to an address that was asked for anew. */
const [FRESH_MS, CONNECTION_MS] = [15_000, 30_000]
const ERROR_MS = 15_000
const SILENCE_MS = FRESH_MS + CONNECTION_MS
const NEW_ADDRESS_MS_MAX = 60_000

export const wechatDnsRows: readonly Row[] = [
  {
    id: 'U9',
    title: 'DNS says SERVFAIL, then NXDOMAIN, then nothing for 45 s; then the name has another address',
    pass: 'all logins succeed; validation p99 ≤ 30 ms; the new address is used ≤ 60 s',
    long: true,
    absent: () =>
      process.getuid?.() === 0 ? undefined : 'only root may give a process a resolv.conf of its own',
    async run(bench) {
      // Addresses that no other run on this machine has.
      const [dnsHost, newHost] = [randomLoopback(), randomLoopback()]
      const dns = await startDnsServer({ host: dnsHost, port: 53 })
      bench.defer(dns.close)
      const wechat = await startWechat(bench)
      const port = Number(new URL(wechat.url).port)
      const run = await bringFault(bench, [], {
        wechat,
        wechatUrls: `http://${NAME}:${port}`,
        gatewayCommand: [
          'unshare',
          '--mount',
          'sh',
          '-c',
          'mount --bind "$RESOLV" /etc/resolv.conf && exec "$NODE" "$MAIN"',
        ],
        env: {
          RESOLV: writeResolvConf(bench, dnsHost),
          NODE: process.execPath,
          MAIN: join(PROGRAM_ROOT, 'src/main.ts'),
        },
      })
      const { stand } = run
      const logins = (fromMs: number) => {
        const filter = { kind: 'login', fromMs } as const
        return stand.ledger.count(filter) - stand.ledger.count({ ...filter, status: 200 })
      }
      const connections = async () =>
        ((await wechat.stats()) as { connections: { total: number } }).connections.total

      dns.answerWith('SERVFAIL')
      await pause(ERROR_MS)
      dns.answerWith('NXDOMAIN')
      await pause(ERROR_MS)
      const before = await connections()
      dns.answerWith('silence')
      await pause(SILENCE_MS)
      bench.figure('connections made while DNS was silent', (await connections()) - before, { min: 1 })
      bench.figure('logins that failed without DNS', logins(run.faultMs), { is: 0 })
      checkValidations(bench, run)

      const forwarder = await startForwarder(bench, newHost, port)
      dns.answerWith(newHost)
      const changedMs = performance.now()
      while (forwarder.connections() === 0 && performance.now() - changedMs < NEW_ADDRESS_MS_MAX)
        await pause(100)
      bench.figure('the new address is used after', performance.now() - changedMs, {
        unit: 'ms',
        max: NEW_ADDRESS_MS_MAX,
      })
      bench.figure('logins that failed meanwhile', logins(changedMs), { is: 0 })
      await recover(bench, run)
      await checkInvariants(bench, stand)
    },
  },
]

function randomLoopback(): `${number}.${number}.${number}.${number}` {
  return `127.${randomOctet()}.${randomOctet()}.${randomOctet()}`
}

const randomOctet = () => 1 + Math.floor(Math.random() * 250)

/** With the times that a system has by default. */
function writeResolvConf(bench: Bench, host: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'gateway-resolv-'))
  bench.defer(() => rmSync(folder, { recursive: true, force: true }))
  const path = join(folder, 'resolv.conf')
  writeFileSync(path, `nameserver ${host}\noptions timeout:5 attempts:2\n`)
  return path
}

/** WeChat at another address. */
async function startForwarder(bench: Bench, host: string, port: number): Promise<{ connections(): number }> {
  const sockets = new Set<Socket>()
  let connections = 0
  const server = createServer((client) => {
    connections += 1
    const upstream = connect(port, '127.0.0.1')
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(socket)
      socket
        .on('error', () => {})
        .once('close', () => {
          sockets.delete(socket)
          other.destroy()
        })
      socket.pipe(other)
    }
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(port, host, resolve)
  })
  bench.defer(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return { connections: () => connections }
}
