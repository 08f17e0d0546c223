/**
 * The documents say what the code does. Each failure shows the table as it should be, to be pasted.
 */
import { posix } from 'node:path'
import { parseEnv } from 'node:util'
import { beforeAll, describe, expect, test } from 'vitest'
import { loadGatewayConfig, loadWorkerConfig } from '../src/config.ts'
import { ERRORS } from '../src/errors.ts'
import type { Setting } from '../src/setting-kinds.ts'
import { SETTINGS } from '../src/settings.ts'
import { soundEnvironment } from './harness/configuration.ts'
import { anchorsOf, codeOf, envEntries, linksOf, tableRows } from './harness/documents.ts'
import { listRoutes } from './harness/routes.ts'
import type { Routes } from './harness/routes.ts'
import { readSource, sourceFiles } from './harness/sources.ts'

const readme = readSource('README.md')
const rows = tableRows(readme)

/** Shown when a table is wrong. Rows are compared sorted, so that the failure names those that differ. */
function table(head: string, lines: string[]): string {
  const rule = head.replaceAll(/[^|]+/g, '---')
  return `README.md should have:\n\n${[head, rule, ...lines].join('\n')}\n`
}

function shown({ shownDefault }: Setting<unknown>): string {
  if (shownDefault === undefined) return '–'
  return shownDefault === '' ? '(empty)' : `\`${shownDefault}\``
}

function spell(path: string, methods: Iterable<string>): string {
  return `${[...methods].toSorted().join(', ')} ${path}`
}

function spelled(routes: Routes): string[] {
  return [...routes].map(([path, methods]) => spell(path, methods))
}

describe('the configuration in README.md', () => {
  const settings: [string, Setting<unknown>][] = Object.entries(SETTINGS)
  const variables = rows.filter(([name]) => /^[A-Z][A-Z0-9_]+$/.test(codeOf(name) ?? ''))

  test('lists exactly the variables there are, with their defaults', () => {
    const found = variables.map(([name, fallback]) => `${name} ${fallback}`)
    const expected = settings.map(([name, setting]) => `\`${name}\` ${shown(setting)}`)
    const lines = settings.map(([name, setting]) => `| \`${name}\` | ${shown(setting)} | ${setting.doc} |`)
    expect(found.toSorted(), table('| variable | default | meaning |', lines)).toEqual(expected.toSorted())
  })

  test('says of each what it means', () => {
    expect(variables.filter(([, , meaning]) => !meaning)).toEqual([])
  })
})

describe('the errors in README.md', () => {
  const errors = Object.entries(ERRORS)
  const listed = rows.filter(([, status, retry]) => /^\d{3}$/.test(status ?? '') && retry !== undefined)

  test('are exactly those of the catalogue, with status and retry', () => {
    const found = listed.map(([code, status, retry]) => `${code} ${status} ${retry?.replaceAll('`', '')}`)
    const expected = errors.map(([code, { status, retry }]) => `\`${code}\` ${status} ${retry}`)
    const lines = errors.map(
      ([code, { status, retry, title }]) => `| \`${code}\` | ${status} | ${retry} | ${title} |`,
    )
    expect(found.toSorted(), table('| code | status | retry | meaning |', lines)).toEqual(expected.toSorted())
  })

  test('say of each what it means', () => {
    expect(listed.filter(([, , , meaning]) => !meaning)).toEqual([])
  })
})

describe('the routes in README.md', () => {
  let open: string[]
  let admin: string[]
  beforeAll(async () => {
    const routes = await listRoutes()
    open = spelled(routes.open)
    admin = spelled(routes.admin)
  })

  /** "POST, GET /login" in the order of spell(). */
  const documented = rows.flatMap(([cell]) => {
    const [, methods, path] = /^([A-Z]+(?:, ?[A-Z]+)*) (\/\S*)$/.exec(codeOf(cell) ?? '') ?? []
    return methods === undefined || path === undefined ? [] : [spell(path, methods.split(/, ?/))]
  })

  test('are exactly those of the public listener, or stand in a table of the admin listener', () => {
    expect(open.length).toBeGreaterThan(0)
    const ofAdminAlone = documented.filter((route) => admin.includes(route) && !open.includes(route))
    const expected = [...open, ...ofAdminAlone].toSorted()
    const lines = open.map((route) => `| \`${route}\` | … |`)
    expect([...new Set(documented)].toSorted(), table('| route | does |', lines)).toEqual(expected)
  })

  test('of the admin listener are all named', () => {
    const named = [...readme.matchAll(/`([A-Z]+(?:, ?[A-Z]+)*) (\/[^\s`]*)`/g)].map(
      ([, methods = '', path = '']) => spell(path, methods.split(/, ?/)),
    )
    expect(admin.filter((route) => !named.includes(route))).toEqual([])
  })
})

describe('links', () => {
  const documents = [
    'README.md',
    'CHANGELOG.md',
    'SECURITY.md',
    ...sourceFiles('docs/*.md', '{deploy,test}/**/README.md'),
  ]

  test.each(documents)('of %s lead to files and headings that there are', (path) => {
    const lost = linksOf(readSource(path)).filter(({ file, heading }) => {
      const target = file === '' ? path : posix.join(posix.dirname(path), file)
      if (sourceFiles(target).length === 0) return true
      return heading !== '' && !anchorsOf(readSource(target)).includes(heading)
    })
    expect(lost).toEqual([])
  })
})

describe('.env.example', () => {
  const text = readSource('.env.example')
  const entries = envEntries(text)

  test('lists exactly the variables there are, in their order, with what they mean', () => {
    const expected = Object.entries(SETTINGS).map(([name, { doc }]) => `# ${doc}\n${name}`)
    const found = entries.map(({ name, doc }) => `# ${doc}\n${name}`)
    const missing = Object.entries(SETTINGS)
      .filter(([name, { doc }]) => !found.includes(`# ${doc}\n${name}`))
      .map(([name, { doc, shownDefault }]) => `# ${doc}\n#${name}=${shownDefault ?? ''}\n`)
    expect(found, `.env.example lacks:\n\n${missing.join('\n')}`).toEqual(expected)
  })

  test('shows the defaults behind a #, and no secret at all', () => {
    for (const { name, value, commented } of entries) {
      const { shownDefault, secret } = SETTINGS[name as keyof typeof SETTINGS]
      expect({ name, value }).toEqual({ name, value: shownDefault ?? '' })
      expect({ name, commented: commented || value === '' }).toEqual({ name, commented: true })
      expect({ name, empty: secret ? value : '' }).toEqual({ name, empty: '' })
    }
  })

  test('is sound as soon as what is empty has been filled in', () => {
    const toFill = entries.filter(({ commented }) => !commented).map(({ name }) => name)
    expect(toFill.filter((name) => name !== 'DATABASE_URL').toSorted()).toEqual(
      Object.keys(soundEnvironment).toSorted(),
    )
    const filled = { ...parseEnv(text), ...soundEnvironment }
    expect(loadGatewayConfig(filled)).toEqual(loadGatewayConfig(soundEnvironment))
    expect(
      loadWorkerConfig({ ...filled, NODE_ENV: 'production', DATABASE_URL: 'postgres://h/d' }),
    ).toBeDefined()
  })

  test('changes nothing where a line is taken out of its comment', () => {
    const uncommented = { ...parseEnv(text.replaceAll(/^#([A-Z])/gm, '$1')), ...soundEnvironment }
    expect(loadGatewayConfig(uncommented)).toEqual(loadGatewayConfig(soundEnvironment))
  })
})
