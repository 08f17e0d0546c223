/**
 * The manifests of deploy/k8s as a real kustomize builds them, and whether Kubernetes would take them: by the schemas
 * that its project and those of KEDA and the Prometheus operator publish, as npm packages carry them.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as keda from '@kubernetes-models/keda/keda.sh/v1alpha1'
import * as monitoring from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1'
import * as apps from 'kubernetes-models/apps/v1'
import * as autoscaling from 'kubernetes-models/autoscaling/v2'
import * as networking from 'kubernetes-models/networking.k8s.io/v1'
import * as policy from 'kubernetes-models/policy/v1'
import * as core from 'kubernetes-models/v1'
import { parseAllDocuments } from 'yaml'

const ROOT = new URL('../../', import.meta.url).pathname

/** What there is of each, by kind. */
export interface Kinds {
  ConfigMap: core.IConfigMap
  Deployment: apps.IDeployment
  HorizontalPodAutoscaler: autoscaling.IHorizontalPodAutoscaler
  Ingress: networking.IIngress
  Namespace: core.INamespace
  NetworkPolicy: networking.INetworkPolicy
  PodDisruptionBudget: policy.IPodDisruptionBudget
  PrometheusRule: monitoring.IPrometheusRule
  ScaledObject: keda.IScaledObject
  Secret: core.ISecret
  Service: core.IService
  ServiceAccount: core.IServiceAccount
  ServiceMonitor: monitoring.IServiceMonitor
}

export interface Manifest {
  apiVersion: string
  kind: string
  metadata: { name: string; namespace?: string; labels?: Record<string, string> }
}

interface Model {
  validate(): void
}

/** Of each API, its models and the package they come from. */
const APIS: Record<string, { models: object; from: string }> = {
  v1: { models: core, from: 'kubernetes-models/v1' },
  'apps/v1': { models: apps, from: 'kubernetes-models/apps/v1' },
  'autoscaling/v2': { models: autoscaling, from: 'kubernetes-models/autoscaling/v2' },
  'networking.k8s.io/v1': { models: networking, from: 'kubernetes-models/networking.k8s.io/v1' },
  'policy/v1': { models: policy, from: 'kubernetes-models/policy/v1' },
  'keda.sh/v1alpha1': { models: keda, from: '@kubernetes-models/keda/keda.sh/v1alpha1' },
  'monitoring.coreos.com/v1': {
    models: monitoring,
    from: '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1',
  },
}

/** With the oldest that knows all that our files say. */
const BUILDERS: { command: string; args: string[]; versionArgs: string[]; version: RegExp }[] = [
  { command: 'kustomize', args: ['build'], versionArgs: ['version'], version: /v?(\d+)\.\d+\.\d+/ },
  {
    command: 'kubectl',
    args: ['kustomize'],
    versionArgs: ['version', '--client', '-o', 'json'],
    version: /"kustomizeVersion": "v(\d+)/,
  },
]
const KUSTOMIZE_MAJOR_MIN = 5

const builder = BUILDERS.find(({ command, versionArgs, version }) => {
  const { stdout } = spawnSync(command, versionArgs, { encoding: 'utf8' })
  return Number(version.exec(stdout ?? '')?.[1]) >= KUSTOMIZE_MAJOR_MIN
})

/** Why nothing can be built here; undefined when it can. */
export const kustomizeAbsence =
  builder === undefined
    ? `neither kustomize nor kubectl with kustomize ${KUSTOMIZE_MAJOR_MIN} is installed on this machine`
    : undefined

/** What `kubectl apply -k` would send. @param folder of deploy/k8s, overlays/production say */
export function build(folder: string): Manifest[] {
  if (builder === undefined) throw new Error(kustomizeAbsence)
  const { command, args } = builder
  const path = join(ROOT, 'deploy/k8s', folder)
  const { status, stdout, stderr } = spawnSync(command, [...args, path], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${command} failed with ${status}:\n${stderr}`)
  // Kubernetes reads YAML 1.1, in which 0440 is octal and `on` is true.
  const manifests = parseAllDocuments(stdout, { version: '1.1' }).map((one) => one.toJS() as Manifest)
  // kustomize breaks base64 into lines. Kubernetes reads over them, the schema does not.
  for (const { data = {} } of all(manifests, 'Secret'))
    for (const [name, text] of Object.entries(data)) data[name] = text.replaceAll('\n', '')
  return manifests
}

/** The one of this kind and name. kustomize puts a hash behind the names of what it generates. */
export function find<Kind extends keyof Kinds>(
  manifests: readonly Manifest[],
  kind: Kind,
  name: string,
): Kinds[Kind] & Manifest {
  const found = manifests.filter(
    (one) =>
      one.kind === kind &&
      (one.metadata.name === name || one.metadata.name.replace(/-[a-z0-9]{10}$/, '') === name),
  )
  const [only] = found
  if (only === undefined || found.length > 1) throw new Error(`${found.length} of ${kind} ${name}`)
  return only as Kinds[Kind] & Manifest
}

/** All of this kind. */
export function all<Kind extends keyof Kinds>(
  manifests: readonly Manifest[],
  kind: Kind,
): (Kinds[Kind] & Manifest)[] {
  return manifests.filter((one) => one.kind === kind) as (Kinds[Kind] & Manifest)[]
}

/** What Kubernetes would refuse, or drop without a word: fields that do not exist. Empty: it takes them. */
export function faultsOf(manifests: readonly Manifest[]): string[] {
  return [...manifests.flatMap(faultsOfValues), ...faultsOfFields(manifests)]
}

const titleOf = ({ kind, metadata }: Manifest) => `${kind} ${metadata.name}`

/** By the JSON schemas: what is required, types, ranges, patterns. They let unknown fields pass. */
function faultsOfValues(manifest: Manifest): string[] {
  const models = APIS[manifest.apiVersion]?.models as Record<string, new (data: object) => Model> | undefined
  const model = models?.[manifest.kind]
  if (model === undefined)
    return [`${titleOf(manifest)}: there is no ${manifest.apiVersion} ${manifest.kind}`]
  try {
    new model(manifest).validate()
    return []
  } catch (error) {
    return [`${titleOf(manifest)}: ${error instanceof Error ? error.message : String(error)}`]
  }
}

/** By the types made from the same schemas: a field that does not exist is an error to the compiler. */
function faultsOfFields(manifests: readonly Manifest[]): string[] {
  const known = manifests.filter(({ apiVersion }) => APIS[apiVersion] !== undefined)
  const lines = known.map(
    (manifest, at) =>
      `export const m${at}: import('${APIS[manifest.apiVersion]?.from}').I${manifest.kind} = ${JSON.stringify(manifest)}`,
  )
  const folder = mkdtempSync(join(tmpdir(), 'gateway-manifests-'))
  try {
    symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
    writeFileSync(join(folder, 'manifests.ts'), lines.join('\n'))
    const options = ['--noEmit', '--strict', '--module', 'nodenext', '--skipLibCheck', '--pretty', 'false']
    const { status, stdout } = spawnSync(
      process.execPath,
      [join(ROOT, 'deploy/run.mjs'), 'tsc', ...options, 'manifests.ts'],
      { cwd: folder, encoding: 'utf8' },
    )
    const errors = [...stdout.matchAll(/^manifests\.ts\((\d+),\d+\): error TS\d+: (.*)$/gm)]
    if (status !== 0 && errors.length === 0) throw new Error(`tsc failed:\n${stdout}`)
    return errors.map(([, line, message]) => {
      const manifest = known[Number(line) - 1]
      return `${manifest === undefined ? '?' : titleOf(manifest)}: ${message}`
    })
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** The one container of a Deployment. */
export function containerOf({ spec, metadata }: apps.IDeployment) {
  const [container] = spec?.template.spec?.containers ?? []
  if (container === undefined) throw new Error(`${metadata?.name} has no container`)
  return container
}
