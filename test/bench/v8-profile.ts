/** Reads profiles of V8: who spent the time or allocated the memory, and the tree of calls. */
import { readFileSync } from 'node:fs'

interface ProfileNode {
  id: number
  callFrame: { functionName: string; url: string; lineNumber: number }
  children?: number[]
}

interface Profile {
  nodes: ProfileNode[]
  samples: number[]
  timeDeltas: number[]
}

interface AllocationNode {
  callFrame: ProfileNode['callFrame']
  selfSize: number
  children: AllocationNode[]
}

/** A function that was called in one way, with what it called. In microseconds, or in bytes. */
export interface Frame {
  name: string
  /** Whose it is: a file of ours, a package, a module of Node, or a word of V8 in brackets. */
  owner: string
  self: number
  total: number
  children: Frame[]
}

const ROOT = new URL('../../', import.meta.url).href
const IDLE = '(idle)'

/** The tree of what was allocated, also of what was collected since. */
export function readAllocations(path: string): Frame {
  const { head } = JSON.parse(readFileSync(path, 'utf8')) as { head: AllocationNode }
  const frameOf = ({ callFrame, selfSize, children }: AllocationNode): Frame =>
    createFrame(callFrame, selfSize, children.map(frameOf))
  return frameOf(head)
}

/** The tree of a CPU profile without the time in which nothing was to do. Calls of the same function from the same place are one frame. */
export function readProfile(path: string): Frame {
  const { nodes, samples, timeDeltas } = JSON.parse(readFileSync(path, 'utf8')) as Profile
  const selfUs = new Map<number, number>()
  for (const [at, id] of samples.entries()) selfUs.set(id, (selfUs.get(id) ?? 0) + (timeDeltas[at] ?? 0))
  const byId = new Map(nodes.map((node) => [node.id, node]))

  function frameOf(same: readonly ProfileNode[]): Frame {
    const [first] = same
    const groups = Map.groupBy(
      same.flatMap(({ children = [] }) => children.flatMap((id) => byId.get(id) ?? [])),
      ({ callFrame: { functionName, url, lineNumber } }) => `${functionName} ${url} ${lineNumber}`,
    )
    const children = [...groups.values()].map(frameOf).filter(({ name }) => name !== IDLE)
    const own = same.reduce((sum, { id }) => sum + (selfUs.get(id) ?? 0), 0)
    return createFrame(first?.callFrame, own, children)
  }
  return frameOf(nodes.slice(0, 1))
}

function createFrame(
  callFrame: ProfileNode['callFrame'] | undefined,
  self: number,
  children: Frame[],
): Frame {
  return {
    name: callFrame?.functionName || '(anonymous)',
    owner: ownerOf(callFrame),
    self,
    total: self + children.reduce((sum, { total }) => sum + total, 0),
    children: children.toSorted((a, b) => b.total - a.total),
  }
}

/** What is in functions themselves, by whose they are, most first. */
export function selfByOwner(root: Frame): [owner: string, amount: number][] {
  const sums = new Map<string, number>()
  const add = ({ owner, self, children }: Frame) => {
    sums.set(owner, (sums.get(owner) ?? 0) + self)
    for (const child of children) add(child)
  }
  add(root)
  return [...sums].toSorted(([, a], [, b]) => b - a)
}

function ownerOf(frame: ProfileNode['callFrame'] | undefined): string {
  const { functionName = '', url = '' } = frame ?? {}
  if (url === '') return functionName.startsWith('(') ? functionName : `(built in) ${functionName}`
  const packages = url.split('/node_modules/')
  if (packages.length > 1) {
    const [scope = '', name = ''] = (packages.at(-1) ?? '').split('/')
    return scope.startsWith('@') ? `${scope}/${name}` : scope
  }
  if (url.startsWith('node:')) return url.split('/').slice(0, 2).join('/')
  return url.replace(ROOT, '')
}
