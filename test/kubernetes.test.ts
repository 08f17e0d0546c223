/**
 * deploy/k8s: Kubernetes takes the manifests, what they say of the programs is what the programs do, and what they
 * refer to is there. kubernetes-probes.test.ts starts the programs. No cluster is asked: there is
 * none here.
 */
import { basename } from 'node:path'
import type { IPodSpec } from 'kubernetes-models/v1'
import { beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { readMeasured } from '../deploy/sizing/measured.ts'
import { prometheusRule, RULE_FILES } from '../deploy/k8s/prometheus-rules.ts'
import { GATEWAY_LOAD, GATEWAYS_MIN } from '../deploy/sizing/reckon.ts'
import { GATEWAY_CLOSE_MS_MAX, WORKER_CLOSE_MS_MAX } from '../src/closing.ts'
import { loadGatewayConfig, loadWorkerConfig } from '../src/config.ts'
import { SETTINGS } from '../src/settings.ts'
import type { SettingName } from '../src/settings.ts'
import { CONNECTIONS_MAX } from '../workers/database.ts'
import { all, build, containerOf, faultsOf, find, kustomizeAbsence } from './harness/kubernetes.ts'
import type { Manifest } from './harness/kubernetes.ts'
import { environmentOf, programEnvironment } from './harness/manifest-environment.ts'
import { listRoutes } from './harness/routes.ts'
import { readSource } from './harness/sources.ts'

const GATEWAY = 'wechat-login-gateway'
const WORKER = 'wechat-login-worker'
const OVERLAYS = ['production', 'demo']
/** Between the last moment in which a process ends by itself and the one in which it is killed. */
const GRACE_SPARE_MS = 5_000
/** max_connections of Postgres, less what it keeps for its administrator. */
const POSTGRES_CONNECTIONS = 97

if (kustomizeAbsence !== undefined) console.log(`Not tested: ${kustomizeAbsence}`)

describe.skipIf(kustomizeAbsence).each(OVERLAYS)('the overlay %s', (overlay) => {
  let manifests: Manifest[]
  beforeAll(() => {
    manifests = build(`overlays/${overlay}`)
  })

  test('is what Kubernetes, KEDA and the Prometheus operator take, to the last field', () => {
    expect(manifests.length).toBeGreaterThan(15)
    expect(faultsOf(manifests)).toEqual([])
  })

  test('refers to nothing that is not there', () => {
    const deployments = all(manifests, 'Deployment')
    const pods = deployments.map(({ spec }) => ({
      labels: spec?.template.metadata?.labels ?? {},
      ports: (spec?.template.spec?.containers ?? []).flatMap(({ ports }) => ports ?? []),
    }))
    const labelled = (selector: Record<string, string> = {}) =>
      pods.filter(({ labels }) => Object.entries(selector).every(([name, value]) => labels[name] === value))
    const services = all(manifests, 'Service')

    for (const { spec } of deployments) {
      expect(spec?.template.metadata?.labels).toMatchObject(spec?.selector.matchLabels ?? {})
      expect(labelled(spec?.selector.matchLabels)).toHaveLength(1)
    }
    for (const { metadata, spec } of services) {
      const [pod] = labelled(spec?.selector)
      const named = pod?.ports.map(({ name }) => name)
      for (const { targetPort } of spec?.ports ?? []) expect(named, metadata.name).toContain(targetPort)
    }
    for (const { metadata, spec } of all(manifests, 'NetworkPolicy')) {
      const [pod] = labelled(spec?.podSelector?.matchLabels)
      const named = pod?.ports.map(({ name }) => name)
      const admitted = (spec?.ingress ?? []).flatMap(({ ports = [] }) => ports)
      for (const { port } of admitted) expect(named, metadata.name).toContain(port)
    }
    for (const { spec } of all(manifests, 'PodDisruptionBudget'))
      expect(labelled(spec?.selector?.matchLabels)).toHaveLength(1)
    for (const { spec } of all(manifests, 'ServiceMonitor')) {
      const [service, ...others] = servicesWith(manifests, spec.selector.matchLabels)
      expect(others).toEqual([])
      expect(service?.spec?.ports?.map(({ name }) => name)).toContain(spec.endpoints[0]?.port)
    }
    const names = deployments.map(({ metadata }) => metadata.name)
    const scaled = [
      ...all(manifests, 'HorizontalPodAutoscaler').map(({ spec }) => spec?.scaleTargetRef.name),
      ...all(manifests, 'ScaledObject').map(({ spec }) => spec.scaleTargetRef.name),
    ]
    for (const name of scaled) expect(names).toContain(name)
  })

  test('gives no pod a right that it does not need', () => {
    for (const { metadata, spec } of all(manifests, 'Deployment')) {
      const pod = spec?.template.spec
      expect(pod, metadata.name).toMatchObject({
        automountServiceAccountToken: false,
        securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
      })
      for (const container of pod?.containers ?? []) {
        expect(container.securityContext, metadata.name).toEqual({
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
        })
        expect(container.resources?.limits?.['memory']).toBeDefined()
        // Throttled, an event loop is late.
        expect(container.resources?.limits?.['cpu']).toBeUndefined()
      }
    }
  })

  test('runs the images as the user whom they are made for', () => {
    const [, user, group] = /^USER (\d+):(\d+)$/m.exec(readSource('Dockerfile')) ?? []
    for (const deployment of [GATEWAY, WORKER]) {
      const { runAsUser, runAsGroup, fsGroup } = podOf(manifests, deployment).securityContext ?? {}
      // What is mounted for the group is for this one.
      expect([runAsUser, runAsGroup, fsGroup]).toEqual([Number(user), Number(group), Number(group)])
    }
  })

  test('gives secrets as files, and to the worker only its own', () => {
    for (const deployment of [GATEWAY, WORKER]) {
      const names = Object.keys(environmentOf(manifests, deployment))
      expect(names.filter((name) => !isSetting(name))).toEqual(['NODE_ENV'])
      expect(names.filter((name) => name in SETTINGS && SETTINGS[name as SettingName].secret)).toEqual([])
    }
    const ofWorker = Object.keys(environmentOf(manifests, WORKER)).filter((name) => name.endsWith('_FILE'))
    expect(ofWorker.toSorted()).toEqual(['DATABASE_URL_FILE', 'REDIS_URL_FILE'])
  })

  test('configures a gateway and a worker that start, on the ports that are probed and scraped', () => {
    const gateway = loadGatewayConfig(programEnvironment(manifests, GATEWAY))
    const worker = loadWorkerConfig(programEnvironment(manifests, WORKER))
    const ports = (deployment: string) =>
      Object.fromEntries(
        (containerOf(find(manifests, 'Deployment', deployment)).ports ?? []).map(
          ({ name, containerPort }) => [name, containerPort],
        ),
      )
    expect(ports(GATEWAY)).toEqual({ http: gateway.port, admin: gateway.adminPort })
    expect(ports(WORKER)).toEqual({ metrics: worker.port })
    // A pod's loopback is out of the kubelet's reach.
    expect([gateway.host, gateway.adminHost, worker.host]).toEqual(['0.0.0.0', '0.0.0.0', '0.0.0.0'])
  })

  test('kills nobody who is still finishing', () => {
    const graceMs = (deployment: string) =>
      1_000 * (podOf(manifests, deployment).terminationGracePeriodSeconds ?? 30)
    const { drainDelayMs } = loadGatewayConfig(programEnvironment(manifests, GATEWAY))
    expect(graceMs(GATEWAY)).toBeGreaterThanOrEqual(drainDelayMs + GATEWAY_CLOSE_MS_MAX + GRACE_SPARE_MS)
    expect(graceMs(WORKER)).toBeGreaterThanOrEqual(WORKER_CLOSE_MS_MAX + GRACE_SPARE_MS)
    for (const { metadata, spec } of all(manifests, 'Deployment')) {
      if (![GATEWAY, WORKER].includes(metadata.name)) continue
      expect(spec?.strategy?.rollingUpdate?.maxUnavailable, metadata.name).toBe(0)
    }
    // Taken out while it drains, before it stops listening.
    const { periodSeconds = 10, failureThreshold = 3 } =
      containerOf(find(manifests, 'Deployment', GATEWAY)).readinessProbe ?? {}
    expect(1_000 * periodSeconds * failureThreshold).toBeLessThan(drainDelayMs)
  })
})

describe.skipIf(kustomizeAbsence)('production', () => {
  let manifests: Manifest[]
  beforeAll(() => {
    manifests = build('overlays/production')
  })

  test('lets in from outside what clients ask, and nothing that is for proxies and probes', async () => {
    const [rule] = find(manifests, 'Ingress', 'wechat-login').spec?.rules ?? []
    const paths = rule?.http?.paths ?? []
    const isOpen = (route: string) =>
      paths.some(({ path = '', pathType }) =>
        pathType === 'Exact' ? route === path : route === path || route.startsWith(`${path}/`),
      )
    const { open, admin } = await listRoutes()
    const inside = ['/auth', '/livez', '/readyz']
    expect([...open.keys()].filter((route) => !isOpen(route)).toSorted()).toEqual(inside)
    expect([...admin.keys()].filter((route) => !open.has(route) && isOpen(route))).toEqual([])
    expect(
      paths.filter(({ path = '' }) => ![...open.keys()].some((route) => route.startsWith(path))),
    ).toEqual([])
  })

  test('divides limits by the gateways that there are at least, and counts on one core for each', () => {
    const { spec } = find(manifests, 'HorizontalPodAutoscaler', GATEWAY)
    expect(environmentOf(manifests, GATEWAY)['GATEWAY_COUNT']).toBe(String(spec?.minReplicas))
    expect(containerOf(find(manifests, 'Deployment', GATEWAY)).resources?.requests?.['cpu']).toBe('1')
    // As `npm run size` reckons.
    expect(spec?.minReplicas).toBe(GATEWAYS_MIN)
    expect(spec?.metrics?.[0]?.resource?.target.averageUtilization).toBe(100 * GATEWAY_LOAD)
    // Neither autoscaler is undone by the next `kubectl apply`.
    for (const name of [GATEWAY, WORKER])
      expect(find(manifests, 'Deployment', name).spec?.replicas, name).toBeUndefined()
  })

  test('starts no more workers than Postgres has connections for', () => {
    const { maxReplicaCount = 0 } = find(manifests, 'ScaledObject', WORKER).spec
    expect(maxReplicaCount * (CONNECTIONS_MAX + 1)).toBeLessThanOrEqual(POSTGRES_CONNECTIONS)
  })

  test.each(RULE_FILES)('has the %s of deploy/prometheus', (name) => {
    const rules = parse(readSource(`deploy/prometheus/${name}.rules.yml`)) as { groups: object[] }
    expect(find(manifests, 'PrometheusRule', `wechat-login-${name}`).spec, 'run `npm run k8s:rules`').toEqual(
      rules,
    )
    expect(rules.groups.length).toBeGreaterThan(0)
    expect(readSource(`deploy/k8s/components/monitoring/${name}-rules.yaml`)).toBe(prometheusRule(name))
  })

  test('wants the very secrets that docs/kubernetes.md has the operator make', () => {
    const page = readSource('docs/kubernetes.md')
    for (const deployment of [GATEWAY, WORKER]) {
      const [, command = ''] = new RegExp(`secret generic ${deployment} ((?:.*\\\\\n)*.*)`).exec(page) ?? []
      const made = [...command.matchAll(/--from-file=(\S+)/g)].map(([, name]) => name)
      const { secretName } = podOf(manifests, deployment).volumes?.[0]?.secret ?? {}
      const wanted = Object.entries(environmentOf(manifests, deployment)).filter(([name]) =>
        name.endsWith('_FILE'),
      )
      expect(secretName).toBe(deployment)
      expect(made).toEqual(wanted.map(([, path]) => basename(path)))
    }
  })

  test('asks for the memory that was measured, and kills nobody before half as much again', () => {
    const { rssBytes } = readMeasured()
    for (const [deployment, rss] of [
      [GATEWAY, rssBytes.gateway],
      [WORKER, rssBytes.worker],
    ] as const) {
      const { requests, limits } = containerOf(find(manifests, 'Deployment', deployment)).resources ?? {}
      expect(bytesOf(requests?.['memory']), deployment).toBeGreaterThan(rss)
      expect(bytesOf(limits?.['memory']), deployment).toBeGreaterThan(1.5 * rss)
    }
  })

  test('keeps everybody from the admin listener but Prometheus and whom the operator labels', () => {
    const rules = find(manifests, 'NetworkPolicy', GATEWAY).spec?.ingress ?? []
    const admitted = (port: string) =>
      rules
        .filter(({ ports }) => ports === undefined || ports.some((one) => one.port === port))
        .flatMap(({ from = [{}] }) => from.map(({ namespaceSelector }) => namespaceSelector?.matchLabels))
    expect(admitted('admin')).toEqual([
      { 'kubernetes.io/metadata.name': 'monitoring' },
      { 'wechat-login/administers': 'true' },
    ])
    expect(admitted('http')).toEqual([{ 'kubernetes.io/metadata.name': 'ingress' }])
    const webhooks = find(manifests, 'NetworkPolicy', 'wechat-login-webhooks').spec?.egress?.[0]?.ports
    expect(webhooks?.map(({ port }) => String(port)).join(',')).toBe(SETTINGS.WEBHOOK_PORTS.shownDefault)
  })

  test('scrapes where the metrics are, by the jobs that rules and dashboards know', async () => {
    const { open, admin } = await listRoutes()
    const { path = '' } = find(manifests, 'ServiceMonitor', GATEWAY).spec.endpoints[0] ?? {}
    expect([open.has(path), admin.has(path)]).toEqual([false, true])
    const jobs = all(manifests, 'ServiceMonitor').map(({ spec }) => {
      const [service] = servicesWith(manifests, spec.selector.matchLabels)
      return service?.metadata.labels?.[spec.jobLabel ?? '']
    })
    expect(jobs).toEqual(['gateway', 'worker'])
  })
})

/** Each spoils a manifest of its own. */
const SPOILT: [what: string, spoil: (manifests: Manifest[]) => void, fault: RegExp][] = [
  [
    'a field that does not exist',
    (manifests) => Object.assign(containerOf(find(manifests, 'Deployment', GATEWAY)), { readinesProbe: {} }),
    /Deployment wechat-login-gateway: .*readinesProbe/,
  ],
  [
    'a word in the place of a number',
    (manifests) => Object.assign(podOf(manifests, WORKER), { terminationGracePeriodSeconds: '35s' }),
    /Deployment wechat-login-worker: .*terminationGracePeriodSeconds must be integer/,
  ],
  [
    'what is required left out',
    (manifests) => {
      const [rule] = find(manifests, 'Ingress', 'wechat-login').spec?.rules ?? []
      Object.assign(rule ?? {}, { http: {} })
    },
    /Ingress wechat-login: .*must have required property paths/,
  ],
  [
    'a word that is not one of those there are',
    (manifests) =>
      Object.assign(find(manifests, 'PodDisruptionBudget', GATEWAY).spec ?? {}, {
        unhealthyPodEvictionPolicy: 'Always',
      }),
    /PodDisruptionBudget wechat-login-gateway: .*unhealthyPodEvictionPolicy must be equal to one of the allowed/,
  ],
  [
    'a time that Prometheus cannot read',
    (manifests) =>
      Object.assign(find(manifests, 'ServiceMonitor', GATEWAY).spec.endpoints[0] ?? {}, { interval: '15 s' }),
    /ServiceMonitor wechat-login-gateway: .*interval must match pattern/,
  ],
  [
    'a trigger of no type',
    (manifests) =>
      delete (find(manifests, 'ScaledObject', WORKER).spec.triggers[0] as { type?: string }).type,
    /ScaledObject wechat-login-worker: .*type/,
  ],
  [
    'an API that there is not',
    (manifests) =>
      Object.assign(find(manifests, 'HorizontalPodAutoscaler', GATEWAY), { apiVersion: 'autoscaling/v3' }),
    /HorizontalPodAutoscaler wechat-login-gateway: there is no autoscaling\/v3/,
  ],
]

test.skipIf(kustomizeAbsence)('what Kubernetes would refuse is refused here', () => {
  const manifests = build('overlays/production')
  for (const [, spoil] of SPOILT) spoil(manifests)
  const faults = faultsOf(manifests).join('\n')
  for (const [what, , fault] of SPOILT) expect(faults, what).toMatch(fault)
})

function servicesWith(manifests: readonly Manifest[], wanted: Record<string, string> = {}) {
  return all(manifests, 'Service').filter(({ metadata }) =>
    Object.entries(wanted).every(([name, value]) => metadata.labels?.[name] === value),
  )
}

/** Of a quantity like 384Mi, the only form that our files use for memory. */
function bytesOf(quantity: string | number | undefined): number {
  return Number(/^(\d+)Mi$/.exec(String(quantity))?.[1]) * 2 ** 20
}

function isSetting(name: string): boolean {
  return name in SETTINGS || name.replace(/_FILE$/, '') in SETTINGS
}

function podOf(manifests: readonly Manifest[], deployment: string): IPodSpec {
  const pod = find(manifests, 'Deployment', deployment).spec?.template.spec
  if (pod === undefined) throw new Error(`${deployment} has no pod`)
  return pod
}
