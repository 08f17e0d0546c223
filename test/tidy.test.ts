/** Properties of the code itself: its directions, its comments, its catalogue of errors (design.md §2). */
import { describe, expect, test } from 'vitest'
import { ERRORS } from '../src/errors.ts'
import { MUTATIONS } from './faults/mutations.ts'
import { ROWS } from './faults/rows.ts'
import {
  findCycle,
  importsOf,
  reachedFrom,
  readSource,
  sourceFiles,
  withoutComments,
  wordsOf,
} from './harness/sources.ts'

const src = sourceFiles('src/**/*.ts')
const workers = sourceFiles('workers/**/*.ts')
const deploy = sourceFiles('deploy/**/*.ts')
const lua = sourceFiles('src/lua/*.lua')
const programs = [...src, ...workers]
const everything = [...programs, ...deploy, ...sourceFiles('test/**/*.ts')]

/**
 * Where each package may be imported. One place each, so that it can be exchanged there, and so that its
 * traps are known to one file.
 */
const HOMES: Record<string, RegExp> = {
  '@bull-board/api': /^src\/queue-board\.ts$/,
  '@electric-sql/pglite': /^workers\//,
  '@fastify/type-provider-typebox': /^src\/http\//,
  '@opentelemetry/api': /^src\/tracing\/opentelemetry\.ts$/,
  '@opentelemetry/exporter-trace-otlp-http': /^src\/tracing\/opentelemetry\.ts$/,
  '@opentelemetry/resources': /^src\/tracing\/opentelemetry\.ts$/,
  '@opentelemetry/sdk-trace': /^src\/tracing\/opentelemetry\.ts$/,
  bullmq: /^(src\/job-queue\.ts$|workers\/)/,
  'close-with-grace': /^(src\/gateway|workers\/worker)-process\.ts$/,
  fastify: /^src\/http\//,
  ioredis: /^src\/redis\/(connections|watch|time-limits)\.ts$/,
  jose: /^src\/jwt\.ts$/,
  kysely: /^workers\//,
  opossum: /^src\/wechat\/breaker\.ts$/,
  pg: /^workers\//,
  pino: /^src\/log\.ts$/,
  'prom-client': /^src\/metrics\/(kinds|process)\.ts$/,
  'rate-limiter-flexible': /^src\/limits\.ts$/,
  typebox: /^src\/http\//,
  undici: /^src\/wechat\//,
}

/** Imports that break a rule, as "from → to". */
function offences(files: readonly string[], offends: (to: string, from: string) => boolean): string[] {
  return files
    .flatMap(importsOf)
    .filter(({ from, to }) => offends(to, from))
    .map(({ from, to }) => `${from} → ${to}`)
}

const isPackage = (to: string) => !to.endsWith('.ts') && !to.startsWith('node:')

test('the reader of imports misses none', () => {
  const missed = everything.filter((file) => {
    const lines = readSource(file).split('\n')
    return lines.filter((line) => / from '[^']+'$/.test(line)).length > importsOf(file).length
  })
  expect(missed).toEqual([])
  expect(importsOf('src/gateway-process.ts').length).toBeGreaterThan(3)
})

describe('directions', () => {
  test('every package is imported at its home only', () => {
    expect(offences(programs, (to, from) => HOMES[to] !== undefined && !HOMES[to].test(from))).toEqual([])
  })

  test('every package has a home: whoever adds one says where', () => {
    const { dependencies } = JSON.parse(readSource('package.json')) as { dependencies: object }
    expect(Object.keys(dependencies).filter((name) => HOMES[name] === undefined)).toEqual([])
    expect(offences(programs, (to) => isPackage(to) && HOMES[to] === undefined)).toEqual([])
  })

  test('a program imports neither tests nor deployment, and the gateway not the worker', () => {
    expect(offences(programs, (to) => /^(test|deploy)\//.test(to))).toEqual([])
    expect(offences(src, (to) => to.startsWith('workers/'))).toEqual([])
    // The local run brings the simulated WeChat up; nothing else of the tests leaves them.
    const strays = offences(
      deploy,
      (to, from) =>
        to.startsWith('test/') && !(to.startsWith('test/simulator/') && from.startsWith('deploy/local')),
    )
    expect(strays).toEqual([])
  })

  // It holds no key that could open a session_key, and no code that could use one.
  test('the worker reaches nothing that seals, makes tokens, opens sessions, speaks WeChat or serves clients', () => {
    const forbidden = /^src\/(seal|tokens|sessions|login|codes|gateway)\.ts$|^src\/(wechat|http)\//
    expect(offences(workers, (to) => forbidden.test(to))).toEqual([])
    expect([...reachedFrom('workers/main.ts')].filter((file) => forbidden.test(file))).toEqual([])
  })

  test('only http/ knows http/, beside the wiring', () => {
    const outside = src.filter((file) => !file.startsWith('src/http/') && file !== 'src/gateway.ts')
    expect(offences(outside, (to) => to.startsWith('src/http/'))).toEqual([])
  })

  test('the environment is read in one place', () => {
    const readers = programs.filter((file) => /process\.env\b/.test(withoutComments(readSource(file))))
    expect(readers).toEqual(['src/config.ts'])
  })

  test('there is no cycle', () => {
    expect(findCycle(everything)).toBeUndefined()
  })
})

describe('the login', () => {
  test('imports the errors and nothing else', () => {
    const imports = importsOf('src/login.ts').filter(({ typeOnly }) => !typeOnly)
    expect(imports.map(({ to }) => to)).toEqual(['src/errors.ts'])
  })

  test('holds no word of the things around it', () => {
    const foreign =
      'http header cookie route reply fastify url redis lua script hash metric metrics counter gauge label ' +
      'histogram log logger pino console'
    const words = wordsOf(withoutComments(readSource('src/login.ts')))
    expect(foreign.split(' ').filter((word) => words.has(word))).toEqual([])
  })
})

describe('files', () => {
  test('are named after what they hold', () => {
    const drawers = /(^|[/-])(utils?|helpers?|common|misc|shared|stuff)([-./]|$)/
    expect([...everything, ...lua].filter((file) => drawers.test(file))).toEqual([])
  })

  test('open by saying what they are', () => {
    const described = [...programs, ...deploy, ...sourceFiles('test/harness/*.ts')]
    const silent = described.filter((file) => {
      const lines = readSource(file).split('\n')
      // A tiny file may leave it to the docstring of the one thing in it.
      return (
        !/^(\/\*\*|\/\/) ?\S*/.test(lines[0] ?? '') &&
        !lines.slice(0, 8).some((line) => line.startsWith('/**'))
      )
    })
    expect(silent).toEqual([])
  })

  test('are short enough to be read at once', () => {
    const long = programs.filter((file) => readSource(file).split('\n').length > 400)
    expect(long).toEqual([])
  })

  test('have a docstring on everything they export, unless it is the one thing that the file is about', () => {
    const undocumented = src.flatMap((file) => {
      const lines = readSource(file).split('\n')
      const exports = lines.flatMap((line, at) => {
        const name = /^export (?:async )?(?:function|const|class) (\w+)/.exec(line)?.[1]
        return name === undefined ? [] : [{ name, documented: /\*\/$|^\/\//.test(lines[at - 1] ?? '') }]
      })
      if (exports.length === 1) return []
      return exports.filter(({ documented }) => !documented).map(({ name }) => `${file}: ${name}`)
    })
    expect(undocumented).toEqual([])
  })

  test('leave nothing to be done later', () => {
    const later = /\bTODO\b|\bFIXME\b/
    const documents = sourceFiles('*.md', 'src/lua/*.lua', 'deploy/*.mjs')
    const unfinished = [...everything, ...documents].filter(
      (file) => file !== 'test/tidy.test.ts' && later.test(readSource(file)),
    )
    expect(unfinished).toEqual([])
  })
})

describe('scripts', () => {
  test.each(lua)('%s says in its header what it takes and gives', (file) => {
    const source = readSource(file)
    const header = /^(--.*\n)+/.exec(source)?.[0] ?? ''
    const body = source.slice(header.length)
    for (const [array] of body.matchAll(/\b(?:KEYS|ARGV)\b/g)) expect(header).toContain(`${array}[1`)
    for (const [, array = '', index = ''] of body.matchAll(/\b(KEYS|ARGV)\[(\d+)\]/g)) {
      expect(header).toContain(`${array}[${index}`)
    }
    expect(header).toMatch(/^-- Returns /m)
  })

  test('are each called directly by a test', () => {
    const tests = sourceFiles('test/*.test.ts', 'test/harness/*.ts').map(readSource)
    const untested = lua.filter((file) => {
      const name = file.slice('src/lua/'.length, -'.lua'.length)
      return !tests.some((text) => text.includes(`'${name}'`))
    })
    expect(untested).toEqual([])
  })

  test('are all used, and no other is asked for', () => {
    const used = src.flatMap((file) =>
      [...readSource(file).matchAll(/loadScript\('([^']+)'\)/g)].map(
        ([, name = '']) => `src/lua/${name}.lua`,
      ),
    )
    expect(used.toSorted()).toEqual(lua)
  })
})

// npm run faults -- --mutations takes these out, and the row has to fail.
describe('protections that are taken out', () => {
  test.each(MUTATIONS)('$row: $takenOut', ({ row, file, find, replace }) => {
    expect(readSource(file).split(find).length - 1).toBe(1)
    expect(replace).not.toBe(find)
    expect(ROWS.map(({ id }) => id)).toContain(row)
  })

  test('have names that tell them apart', () => {
    const names = MUTATIONS.map(({ row, takenOut }) => `${row} ${takenOut}`)
    expect(new Set(names).size).toBe(names.length)
    expect(names.filter((name) => name.includes('|'))).toEqual([])
  })
})

describe('the catalogue of errors', () => {
  const codes = Object.entries(ERRORS)

  test('holds no code that nothing throws', () => {
    const throwing = src
      .filter((file) => file !== 'src/errors.ts')
      .map((file) => withoutComments(readSource(file)))
    const unused = codes
      .map(([code]) => code)
      .filter((code) => !throwing.some((text) => text.includes(`'${code}'`)))
    expect(unused).toEqual([])
  })

  test('says when to come back, wherever HTTP lets it and nowhere else than where that makes sense', () => {
    const comeBack = codes.filter(([, spec]) => spec.status === 429 || spec.status === 503)
    for (const [code, spec] of comeBack) expect({ code, spec }).toHaveProperty('spec.retryAfterSeconds')
    const seconds = codes.flatMap(([, spec]) => ('retryAfterSeconds' in spec ? [spec.retryAfterSeconds] : []))
    expect(seconds.every((value) => value >= 1 && value <= 60)).toBe(true)
  })

  test('has words that fit a label, a log and a wire', () => {
    expect(codes.filter(([code]) => !/^[a-z]+(_[a-z]+)*$/.test(code))).toEqual([])
    expect(codes.filter(([, { title }]) => !/^[A-Z].*\.$/.test(title))).toEqual([])
    expect(new Set(codes.map(([, { title }]) => title)).size).toBe(codes.length)
  })
})
