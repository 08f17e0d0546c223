/** What was measured, kept as JSON, and compared with what was measured before. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { arch, cpus, release } from 'node:os'
import { dirname } from 'node:path'
import type { Figures } from './turns.ts'

export interface SceneResult {
  question: string
  measuredAt: string
  /** With a + when the files differed from it. */
  commit: string
  machine: string
  rounds: number
  /** By contender, or by what the scene varies. */
  subjects: Record<string, Figures>
}

/** By scene; each was measured in one run of its own. */
export type Results = Record<string, SceneResult>

const ROOT = new URL('../../', import.meta.url).pathname
/** Kept in the repository, with --record. */
export const RECORDED = `${ROOT}test/bench/results/results.json`
/** Of the last run here. */
export const LATEST = `${ROOT}.data/bench/results.json`

export function readResults(path: string): Results {
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Results) : {}
}

/** Adds scenes to those that are there. */
export function addResults(path: string, fresh: Results): Results {
  const all = { ...readResults(path), ...fresh }
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, `${JSON.stringify(all, null, 2)}\n`)
  return all
}

export function describeMachine(): string {
  const { model } = cpus()[0] ?? { model: 'unknown' }
  return `${cpus().length} × ${model.trim()}, Linux ${release()} ${arch()}, Node ${process.versions.node}, Redis ${versionOf('redis-server', '--version')}`
}

export function currentCommit(): string {
  const changed = git('status', '--porcelain', 'src', 'workers', 'package-lock.json')
  return git('rev-parse', '--short', 'HEAD') + (changed === '' ? '' : '+')
}

function git(...args: string[]): string {
  return execFileSync('git', args, { cwd: ROOT, encoding: 'utf8' }).trim()
}

function versionOf(program: string, argument: string): string {
  try {
    return /v=([\d.]+)/.exec(execFileSync(program, [argument], { encoding: 'utf8' }))?.[1] ?? program
  } catch {
    return `no ${program}`
  }
}
