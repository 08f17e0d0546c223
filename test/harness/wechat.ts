/** WeChat hosts for a gateway that knows several: real simulators, and addresses where nobody is. */
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { onTestFinished } from 'vitest'
import { freePort } from '../../deploy/local/ports.ts'
import { LOCALHOST_CERTIFICATE } from '../simulator/certificate.ts'
import { startSimulator } from '../simulator/server.ts'
import type { Simulator, SimulatorOptions } from '../simulator/server.ts'
import { SIMULATED } from './environment.ts'

/** Closed when the test ends. */
export async function startWechat(options: SimulatorOptions = {}): Promise<Simulator> {
  const wechat = await startSimulator({ ...SIMULATED, ...options })
  onTestFinished(() => wechat.close())
  return wechat
}

/** An address that refuses connections. */
export async function closedHost(): Promise<string> {
  return `http://127.0.0.1:${await freePort()}`
}

/** The same, for WECHAT_API_URLS. */
export function inOrder(...hosts: readonly (string | { url: string })[]): { WECHAT_API_URLS: string } {
  return { WECHAT_API_URLS: hosts.map((host) => (typeof host === 'string' ? host : host.url)).join(',') }
}

/** A WeChat over TLS with a certificate for the right name that this process has no reason to trust. */
export async function untrustedWechat(): Promise<Simulator> {
  return startWechat({ tls: LOCALHOST_CERTIFICATE })
}

/** Until the test ends, this process trusts the certificate in the repository. */
export function trustTheTestCertificate(): void {
  const before = getCACertificates('default')
  setDefaultCACertificates([...before, LOCALHOST_CERTIFICATE.cert])
  onTestFinished(() => setDefaultCACertificates(before))
}
