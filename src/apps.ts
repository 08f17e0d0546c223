/**
 * Apps: the registry of all Mini Programs this gateway logs users in to. Some stand in the configuration and
 * stay as they are while the process runs; others are added through the admin API, and every gateway knows
 * them, or their change or end, within POLL_MS and the time of one read.
 *
 * A registration is the hash app:<appid>; the hash `apps` lists them with a version each, so that a gateway
 * reads in one command whether anything is new. It asks again and again rather than subscribing: a
 * subscription can lose its message, so it would have to ask as well, and asking is one small command.
 *
 * app:<appid>   entry                 JSON, as in WECHAT_APPS_FILE, without secrets
 *               secret, previous      AppSecrets, sealed for this app; and their fingerprints
 *               fingerprint, previous_fingerprint
 *               push                  settings of the message push, JSON, sealed for this app
 *               created               unix seconds of Redis
 *               version               another one after every change
 */
import { createHash, randomBytes } from 'node:crypto'
import { APP_KINDS, parseAppPush, parseAppShape, writeAppPush, writeAppShape } from './app-entry.ts'
import type { App, AppPush, AppShape } from './app-entry.ts'
import { GatewayError } from './errors.ts'
import { loadScript } from './redis/scripts.ts'
import { stored } from './redis/stored.ts'
import type { StoreClock } from './redis/clock.ts'
import type { RedisClient } from './redis/connections.ts'
import type { Keys } from './redis/keys.ts'
import type { ScriptArgument } from './redis/scripts.ts'
import type { Seal, SealedPlace } from './seal.ts'
import { Secret } from './secret.ts'

/** "Live everywhere within 2 s", also when one read in between fails. */
const POLL_MS = 700
/** Apps that may be added at run time. */
const ADDED_MAX = 1_000
/** Apps that have a metric label of their own; the rest share `other`. Three series each. */
const LABELLED_MAX = 200
/** Registrations read at once. */
const READ_BATCH = 50

const addScript = loadScript('add-app')
const rotateScript = loadScript('rotate-app-secret')
const setPushScript = loadScript('set-app-push')

/** An app as the administrator may see it. */
export interface ListedApp {
  app: App
  source: 'static' | 'runtime'
  /** Of its secrets, newest first: enough to tell which they are, and no more. */
  fingerprints: readonly string[]
  /** Unix seconds; undefined for a static one. */
  createdAtSeconds: number | undefined
}

export interface AppsDeps {
  redis: RedisClient
  keys: Keys
  clock: StoreClock
  seal: Seal
  observer: AppsObserver
}

export interface AppsObserver {
  /** The registry could not be read, or again. What was known last goes on. */
  onReadable(readable: boolean, error?: unknown): void
  /** A registration that this gateway cannot use: what is sealed does not open, or its form is not known here. */
  onUnusable(appid: string, why: 'secret' | 'push' | 'form'): void
  /** The app is there no longer; its series may go. */
  onRemoved(appid: string): void
}

/** @param configured the apps of the configuration; they go before registrations of the same appid */
export function createApps({ redis, keys, clock, seal, observer }: AppsDeps, configured: readonly App[]) {
  const fixed = new Map<string, ListedApp>(
    configured.map((app) => [
      app.appid,
      {
        app,
        source: 'static' as const,
        fingerprints: app.secrets.map((secret) => fingerprintOf(app.appid, secret.reveal())),
        createdAtSeconds: undefined,
      },
    ]),
  )
  let added = new Map<string, Registered>()
  /** Registrations in a form not known here, by appid: the version that was told of, and need not be read again. */
  let unknownForms = new Map<string, string>()
  const labelled = new Set(configured.slice(0, LABELLED_MAX).map((app) => app.appid))
  let reading: Promise<void> = Promise.resolve()
  let readable = true
  let timer: NodeJS.Timeout | undefined
  let stopped = false

  return {
    find: (appid: string): App | undefined => (fixed.get(appid) ?? added.get(appid)?.listed)?.app,
    /**
     * The app that is meant when a request names none: the only one of the configuration. One added later at
     * run time does not change that, for the clients of the first know nothing of it.
     */
    only: (): App | undefined => (fixed.size === 1 ? fixed.values().next().value?.app : undefined),
    list,
    /** The appid as a metric label: one of a bounded set. */
    labelOf: (appid: string): string => (labelled.has(appid) ? appid : 'other'),
    add,
    rotateSecret,
    setPush,
    remove,
    /** Reads the registry, and goes on reading it. @throws {GatewayError} store_unavailable */
    async start(): Promise<void> {
      await refresh()
      timer ??= setTimeout(poll, POLL_MS).unref()
    },
    stop(): void {
      stopped = true
      clearTimeout(timer)
    },
  }

  function list(): ListedApp[] {
    const runtime = [...added.values()].map(({ listed }) => listed)
    return [...fixed.values(), ...runtime.filter(({ app }) => !fixed.has(app.appid))]
  }

  /** @throws {GatewayError} app_exists, request_invalid when there are too many, store_unavailable */
  async function add(app: App): Promise<ListedApp> {
    const { appid, secrets } = app
    if (fixed.has(appid)) throw new GatewayError('app_exists')
    if ((await stored(redis.hlen(keys.apps))) >= ADDED_MAX)
      throw new GatewayError('request_invalid', { detail: `No more than ${ADDED_MAX} apps can be added.` })
    const version = newVersion()
    const fields: ScriptArgument[] = ['version', version, 'created', Math.floor(clock.nowMs() / 1000)]
    fields.push('entry', JSON.stringify(writeAppShape(app)))
    const [secret, previous] = secrets.map((one) => one.reveal())
    if (secret !== undefined)
      fields.push('secret', sealed(appid, secret), 'fingerprint', fingerprintOf(appid, secret))
    if (previous !== undefined)
      fields.push('previous', sealed(appid, previous), 'previous_fingerprint', fingerprintOf(appid, previous))
    if (app.push !== undefined) fields.push('push', sealedPush(appid, app.push))
    const [state, there] = (await stored(addScript(redis, [keys.app(appid)], fields))) as [string, string?]
    if (state === 'EXISTS') {
      // Should its first registration have broken off before it was listed, this mends it.
      await stored(redis.hsetnx(keys.apps, appid, there ?? version))
      await refresh()
      throw new GatewayError('app_exists')
    }
    await stored(redis.hset(keys.apps, appid, version))
    return known(appid)
  }

  /** @throws {GatewayError} appid_unknown, app_static, request_invalid, store_unavailable */
  async function rotateSecret(
    appid: string,
    secret: Secret<string>,
    { endPrevious }: { endPrevious: boolean },
  ): Promise<ListedApp> {
    if (fixed.has(appid)) throw new GatewayError('app_static')
    await refresh() // another gateway may just have added it
    const kind = added.get(appid)?.listed.app.kind
    if (kind !== undefined && !APP_KINDS[kind].secret)
      throw new GatewayError('request_invalid', { detail: `An app of kind ${kind} has no secret.` })
    const version = newVersion()
    const text = secret.reveal()
    const answer = await stored(
      rotateScript(
        redis,
        [keys.app(appid)],
        [sealed(appid, text), fingerprintOf(appid, text), endPrevious ? '1' : '0', version],
      ),
    )
    if (answer !== 'ROTATED') throw new GatewayError('appid_unknown')
    await stored(redis.hset(keys.apps, appid, version))
    return known(appid)
  }

  /**
   * Replaces the settings of the message push; undefined takes them away.
   * @throws {GatewayError} appid_unknown, app_static, request_invalid, store_unavailable
   */
  async function setPush(appid: string, push: AppPush | undefined): Promise<ListedApp> {
    if (fixed.has(appid)) throw new GatewayError('app_static')
    await refresh() // another gateway may just have added it
    const kind = added.get(appid)?.listed.app.kind
    if (kind !== undefined && !APP_KINDS[kind].push)
      throw new GatewayError('request_invalid', { detail: `An app of kind ${kind} gets no pushes here.` })
    const version = newVersion()
    const settings = push === undefined ? [] : [sealedPush(appid, push)]
    const answer = await stored(setPushScript(redis, [keys.app(appid)], [version, ...settings]))
    if (answer !== 'SET') throw new GatewayError('appid_unknown')
    await stored(redis.hset(keys.apps, appid, version))
    return known(appid)
  }

  /** Its sessions live on to their end. @throws {GatewayError} appid_unknown, app_static, store_unavailable */
  async function remove(appid: string): Promise<void> {
    if (fixed.has(appid)) throw new GatewayError('app_static')
    // Unlisted first: should this break off in between, a second removal finds the rest.
    const unlisted = await stored(redis.hdel(keys.apps, appid))
    const deleted = await stored(redis.del(keys.app(appid)))
    await refresh()
    if (unlisted + deleted === 0) throw new GatewayError('appid_unknown')
  }

  async function known(appid: string): Promise<ListedApp> {
    await refresh()
    const found = added.get(appid)
    if (found === undefined) throw new GatewayError('appid_unknown') // removed meanwhile
    return found.listed
  }

  function poll(): void {
    const again = () => {
      if (!stopped) timer = setTimeout(poll, POLL_MS).unref()
    }
    // A read that fails leaves what is known; the next one is soon.
    refresh().then(again, again)
  }

  /** One read after the other: a later one must not be overtaken by what an earlier one saw. */
  function refresh(): Promise<void> {
    reading = reading.then(read, read)
    return reading
  }

  async function read(): Promise<void> {
    try {
      const versions = await stored(redis.hgetall(keys.apps))
      const next = new Map<string, Registered>()
      unknownForms = new Map([...unknownForms].filter(([appid, version]) => versions[appid] === version))
      const changed: [appid: string, version: string][] = []
      for (const [appid, version] of Object.entries(versions)) {
        const before = added.get(appid)
        if (before?.version === version) next.set(appid, before)
        else if (!unknownForms.has(appid)) changed.push([appid, version])
      }
      for (let at = 0; at < changed.length; at += READ_BATCH) {
        const batch = changed.slice(at, at + READ_BATCH)
        for (const registered of await Promise.all(batch.map(readRegistration))) {
          if (registered) next.set(registered.listed.app.appid, registered)
        }
      }
      take(next)
      if (!readable) observer.onReadable(true)
      readable = true
    } catch (error) {
      if (readable) observer.onReadable(false, error)
      readable = false
      throw error
    }
  }

  function take(next: Map<string, Registered>): void {
    const gone = [...added.keys()].filter((appid) => !next.has(appid) && !fixed.has(appid))
    added = next
    for (const appid of gone) {
      labelled.delete(appid)
      observer.onRemoved(appid)
    }
    for (const appid of next.keys()) if (labelled.size < LABELLED_MAX) labelled.add(appid)
  }

  async function readRegistration([appid, version]: [string, string]): Promise<Registered | undefined> {
    const fields = await stored(redis.hgetallBuffer(keys.app(appid)))
    const text = (name: string) => fields[name]?.toString() ?? ''
    if (text('version') === '') return undefined // removed while it was listed again: it is gone
    const app = parseRegistration(appid, text('entry'))
    if (app === undefined) {
      unknownForms.set(appid, version)
      observer.onUnusable(appid, 'form')
      return undefined
    }
    const sealedSecrets = [fields['secret'], fields['previous']].filter((value) => value !== undefined)
    const secrets = sealedSecrets.flatMap((envelope) => {
      const secret = seal.unseal(envelope, placeOf(appid))
      return secret === undefined ? [] : [new Secret(secret.toString())]
    })
    if (secrets.length < sealedSecrets.length) observer.onUnusable(appid, 'secret')
    const push = openPush(appid, fields['push'])
    if (push === undefined && fields['push'] !== undefined) observer.onUnusable(appid, 'push')
    const listed: ListedApp = {
      app: { ...app, secrets, push },
      source: 'runtime',
      fingerprints: [text('fingerprint'), text('previous_fingerprint')].filter((one) => one !== ''),
      createdAtSeconds: Number(text('created')),
    }
    return { version, listed }
  }

  function sealed(appid: string, secret: string): Buffer {
    return seal.seal(Buffer.from(secret), placeOf(appid))
  }

  function sealedPush(appid: string, push: AppPush): Buffer {
    return seal.seal(Buffer.from(JSON.stringify(writeAppPush(push))), placeOf(appid, 'push'))
  }

  function openPush(appid: string, envelope: Buffer | undefined): AppPush | undefined {
    const text = envelope && seal.unseal(envelope, placeOf(appid, 'push'))
    try {
      return text && parseAppPush(JSON.parse(text.toString()))
    } catch {
      return undefined // of a newer gateway; the caller tells, and the reason could quote it
    }
  }
}

export type Apps = ReturnType<typeof createApps>

interface Registered {
  version: string
  listed: ListedApp
}

/** What binds what is sealed to its app and use. No user has such a subject: theirs are 22 characters. */
export function placeOf(appid: string, sub: 'AppSecret' | 'push' = 'AppSecret'): SealedPlace {
  return { appid, sub }
}

/** A newer gateway may have written what this one does not know. */
function parseRegistration(appid: string, entry: string): AppShape | undefined {
  try {
    const app = parseAppShape(JSON.parse(entry))
    return app.appid === appid ? app : undefined
  } catch {
    return undefined // the caller tells; the reason could quote the entry
  }
}

/** 32 bits of a hash: tells one secret from another, and does not help to guess one. */
function fingerprintOf(appid: string, secret: string): string {
  return createHash('sha256').update(`AppSecret\0${appid}\0${secret}`).digest('hex').slice(0, 8)
}

function newVersion(): string {
  return randomBytes(9).toString('base64url')
}
