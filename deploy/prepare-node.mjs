// Runs after `npm ci`, on whatever Node npm runs on: makes sure that the Node 26 which npm has just brought
// along (run.mjs says why) can start on this machine.
//
// Its Linux binary needs libatomic.so.1, which a minimal Debian lacks. Then Debian's package is unpacked
// beside it, without installing anything, and node_modules/.bin/node becomes a wrapper that finds it. Where
// that cannot be done the link is taken away, so that run.mjs is started by the Node that is there and says
// in words what is missing. The link is also put back where npm 10 has lost it.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const TIMEOUT_MS = 60_000
const root = dirname(dirname(fileURLToPath(import.meta.url)))
const binary = ['node', 'node-bin']
  .map((name) => join(root, 'node_modules', `${name}-${process.platform}-${process.arch}`, 'bin', 'node'))
  .find((path) => existsSync(path))
const link = join(root, 'node_modules', '.bin', 'node')

if (binary !== undefined) prepare(binary)

function prepare(binary) {
  rmSync(link, { force: true })
  mkdirSync(dirname(link), { recursive: true })
  if (starts(binary, {})) {
    symlinkSync(relative(dirname(link), binary), link)
    return
  }
  const libraries = unpackLibatomic(join(root, 'node_modules', '.libatomic'))
  if (libraries !== undefined && starts(binary, { LD_LIBRARY_PATH: libraries })) {
    writeFileSync(link, wrapper(binary, libraries), { mode: 0o755 })
    console.log(
      `Node 26 needs libatomic1, which this machine lacks: unpacked into ${relative(root, libraries)}.`,
    )
    return
  }
  console.log(
    'Node 26 cannot start here; on Debian it lacks a package: apt-get install libatomic1, then npm ci.',
  )
}

function starts(binary, env) {
  return (
    spawnSync(binary, ['--version'], { env: { ...process.env, ...env }, timeout: TIMEOUT_MS }).status === 0
  )
}

/** The folder with the library, or undefined. */
function unpackLibatomic(folder) {
  const run = (command, args) =>
    execFileSync(command, args, { cwd: folder, timeout: TIMEOUT_MS, stdio: ['ignore', 'ignore', 'pipe'] })
  try {
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder, { recursive: true })
    try {
      run('apt-get', ['download', 'libatomic1'])
    } catch {
      run('apt-get', ['update']) // the lists may be empty; works for root alone
      run('apt-get', ['download', 'libatomic1'])
    }
    const archive = readdirSync(folder).find((name) => name.endsWith('.deb'))
    run('dpkg-deb', ['-x', archive, '.'])
    const found = readdirSync(folder, { recursive: true }).find((name) => name.endsWith('libatomic.so.1'))
    return found && dirname(join(folder, found))
  } catch {
    return undefined // no apt, no network, not Debian: the caller says what to do
  }
}

function wrapper(binary, libraries) {
  return `#!/bin/sh\nexport LD_LIBRARY_PATH=${quote(libraries)}"\${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\nexec ${quote(binary)} "$@"\n`
}

function quote(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`
}
