/**
 * The load balancers of deploy/load-balancers/ with the very files that operators get: how each is started, in the
 * foreground, with nothing written outside `folder`. For tests and for the fault bench, each of which has its own
 * way with processes.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const FILES = new URL('../../deploy/load-balancers/', import.meta.url).pathname
/** Where Debian puts daemons; not every user's PATH has it. */
export const DAEMON_PATH = `${process.env['PATH']}:/usr/sbin:/usr/local/sbin`

export type LoadBalancerName = 'haproxy' | 'nginx'
export const LOAD_BALANCERS = ['haproxy', 'nginx'] as const

/** The files name three gateways, as an example of several. */
export type ThreeGateways = readonly [url: string, url: string, url: string]

/** Why it cannot be run here; undefined when it can. */
export function absence(name: string, versionArgs: readonly string[] = ['-v']): string | undefined {
  const { error } = spawnSync(name, versionArgs, { env: { PATH: DAEMON_PATH } })
  return error === undefined ? undefined : `${name} is not installed on this machine (${error.message})`
}

interface Start {
  args: string[]
  env: Record<string, string>
}

/** @param listen host:port */
export function loadBalancerStart(
  name: LoadBalancerName,
  { folder, listen, gateways }: { folder: string; listen: string; gateways: ThreeGateways },
): Start {
  const values = {
    LISTEN: listen,
    ...Object.fromEntries(gateways.map((url, at) => [`GATEWAY_${at + 1}`, new URL(url).host])),
  }
  switch (name) {
    case 'haproxy':
      return { args: ['-db', '-f', `${FILES}haproxy.cfg`], env: values }
    case 'nginx': {
      const config = writeNginx(folder, readFileSync(`${FILES}nginx.conf.template`, 'utf8'), values)
      return { args: ['-p', folder, '-c', config], env: {} }
    }
  }
}

/** A whole nginx around a site, as its image would make it from a template. Gives the path of its configuration. */
export function writeNginx(folder: string, template: string, values: Record<string, string>): string {
  const site = template.replaceAll(/\$\{([A-Z]\w*)\}/g, (all, name: string) => values[name] ?? all)
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (kind) => `${kind}_temp_path ${folder}/${kind};`,
  )
  const config = join(folder, 'nginx.conf')
  mkdirSync(join(folder, 'logs'), { recursive: true }) // nginx's prefix wants one
  writeFileSync(join(folder, 'site.conf'), site)
  writeFileSync(
    config,
    `daemon off; worker_processes 1; pid ${folder}/pid; error_log stderr warn;
    events { worker_connections 8192; }
    http { access_log off; ${paths.join(' ')} include ${folder}/site.conf; }`,
  )
  return config
}
