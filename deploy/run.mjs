// Runs a TypeScript file or an installed command on Node 24 or newer, whatever Node called it.
//
//   node deploy/run.mjs src/main.ts [args]      a file of this repository
//   node deploy/run.mjs vitest run [args]       a command from node_modules/.bin
//
// Why: TypeScript is run without a build step, which the Node 20 that many machines still have cannot
// do. npm brings Node 26 as an optional platform package; npm 10 loses its link in node_modules/.bin,
// and npm skips it silently when it cannot be fetched. So the binary is looked up here, and its
// absence is said in words. A Node that is new enough (a container's, for instance) is used as it is.
import { spawn } from 'node:child_process'
import { existsSync, realpathSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const nodeMajorMin = 24
const platformPackages = [
  `node-${process.platform}-${process.arch}`,
  `node-bin-${process.platform}-${process.arch}`,
]

/** The file to run: a path as given, or the script behind a command of node_modules/.bin. */
function findTarget(name) {
  if (/\.(ts|mts|mjs|js)$/.test(name)) return resolve(root, name)
  const link = join(root, 'node_modules', '.bin', name)
  return existsSync(link) ? realpathSync(link) : undefined
}

/** The link first: it may be a wrapper that finds a library for the binary (prepare-node.mjs). */
function findNode() {
  const link = join(root, 'node_modules', '.bin', 'node')
  if (existsSync(link)) return link
  for (const name of platformPackages) {
    const path = join(root, 'node_modules', name, 'bin', 'node')
    if (existsSync(path)) return path
  }
  return undefined
}

const [name, ...args] = process.argv.slice(2)
if (!name) {
  console.error('usage: node deploy/run.mjs FILE.ts|COMMAND [arguments]')
  process.exit(2)
}
const target = findTarget(name)
if (!target || !existsSync(target)) {
  console.error(`${name} was not found. Run "npm ci" in ${root} first.`)
  process.exit(1)
}

if (Number(process.versions.node.split('.')[0]) >= nodeMajorMin) {
  process.argv.splice(1, 2, target)
  await import(pathToFileURL(target).href)
} else {
  const node = findNode()
  if (!node) {
    console.error(
      `This needs Node ${nodeMajorMin} or newer and found ${process.version}. "npm ci" normally brings Node 26 along as ` +
        `the package ${platformPackages[0]}; it is missing. Run "npm ci --include=optional", or install Node ${nodeMajorMin}+.`,
    )
    process.exit(1)
  }
  // Commands that the target starts itself must find the same Node.
  const env = { ...process.env, PATH: `${dirname(node)}:${process.env.PATH ?? ''}` }
  const child = spawn(node, [target, ...args], { stdio: 'inherit', env })
  child.on('error', (error) => {
    console.error(`${node} could not be started: ${error.message}`)
    process.exit(1)
  })
  // A terminal sends Ctrl-C to the whole group, so the child has it already; a signal sent to this
  // process alone (npm, a supervisor) must be passed on.
  for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  process.on('SIGINT', () => {
    if (!process.stdin.isTTY) child.kill('SIGINT')
  })
  child.on('exit', (code, signal) => {
    if (code === 127) {
      console.error('Node 26 could not load a library. On Debian: apt-get install libatomic1')
    }
    if (signal) {
      for (const name of ['SIGTERM', 'SIGHUP', 'SIGINT']) process.removeAllListeners(name)
      process.kill(process.pid, signal)
    } else process.exit(code ?? 1)
  })
}
