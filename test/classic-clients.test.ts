/**
 * Mini Programs written after the classic tutorials log in with nothing changed but the domain. Their code stands
 * here as a tutorial has it and runs as it stands.
 */
import { describe, expect, test } from 'vitest'
import { startHarness } from './harness/gateway.ts'
import type { Harness } from './harness/gateway.ts'
import { createMiniProgram } from './harness/mini-program.ts'
import type { Exchanged } from './harness/mini-program.ts'
import { until } from './harness/until.ts'

/** The one of the official login guide: no method, so a GET, and no look at the answer. */
const GUIDE = `
wx.login({
  success (res) {
    if (res.code) {
      //发起网络请求
      wx.request({
        url: 'https://example.com/onLogin',
        data: {
          code: res.code
        }
      })
    } else {
      console.log('登录失败！' + res.errMsg)
    }
  }
})
`

/** The same on one line, as it is passed around. */
const ONE_LINER = `
const BASE = 'https://example.com'
wx.login({success: res => wx.request({url: BASE + '/onLogin', data: {code: res.code}})})
`

/** An app with its addresses in a module, and a GET by name. */
const WITH_CONFIG = {
  'config.js': `
const host = 'example.com'

const config = {
  host,
  loginUrl: \`https://\${host}/login\`,
  sessionUrl: \`https://\${host}/session\`
}

module.exports = config
`,
  'app.js': `
const config = require('./config')

const app = {
  globalData: {
    hasLogin: false,
    openid: null
  },
  login: function () {
    var self = this
    wx.login({
      success: function (data) {
        wx.request({
          url: config.loginUrl,
          method: 'GET',
          data: {
            code: data.code
          },
          success: function (res) {
            if (res.statusCode !== 200) {
              console.log('登录失败', res.statusCode, res.data.code, res.data.retry)
              return
            }
            self.globalData.hasLogin = true
            self.globalData.openid = res.data.openid
            wx.setStorageSync('token', res.data.token)
          },
          fail: function (res) {
            console.log('登录失败', res.errMsg)
          }
        })
      },
      fail: function (err) {
        console.log('wx.login 接口调用失败', err)
      }
    })
  },
  whoAmI: function (callback) {
    wx.request({
      url: config.sessionUrl,
      header: { 'Authorization': 'Bearer ' + wx.getStorageSync('token') },
      success: function (res) {
        callback(res.statusCode, res.data)
      }
    })
  }
}

module.exports = app
`,
}

/** The later manner: POST, and a promise around it. */
const WITH_POST = `
function login() {
  return new Promise((resolve, reject) => {
    wx.login({
      success: ({ code }) => {
        wx.request({
          url: 'https://example.com/login',
          method: 'POST',
          header: { 'content-type': 'application/json' },
          data: { code },
          success: (res) => resolve(res),
          fail: reject
        })
      },
      fail: reject
    })
  })
}

module.exports = login
`

interface ClassicApp {
  globalData: { hasLogin: boolean; openid: string | null }
  login(): void
  whoAmI(callback: (statusCode: number, data: Record<string, unknown>) => void): void
}

const OPENID = 'o-classic-user-of-this-test'

function install(harness: Harness, modules: Readonly<Record<string, string>>, code?: string) {
  return createMiniProgram(harness.wechat, {
    openid: OPENID,
    modules,
    origins: { 'https://example.com': harness.url },
    ...(code === undefined ? {} : { code }),
  })
}

/** The session_key of the only user, in every form in which it could be in an answer. */
function expectNoSessionKey({ wechat }: Harness, exchanged: readonly Exchanged[]): void {
  const [user] = wechat.users()
  const sessionKey = user?.sessionKey ?? ''
  expect(sessionKey).toHaveLength(24)
  const bytes = Buffer.from(sessionKey, 'base64')
  const forms = [sessionKey, sessionKey.replaceAll('/', String.raw`\/`), encodeURIComponent(sessionKey)]
  for (const form of [...forms, bytes.toString('base64url'), bytes.toString('hex'), 'session_key']) {
    for (const { text } of exchanged) expect(text).not.toContain(form)
  }
}

describe('the client of the login guide', () => {
  test.each([
    ['as the guide has it', GUIDE],
    ['on one line', ONE_LINER],
  ])('logs in unchanged, %s', async (_what, source) => {
    const harness = await startHarness()
    const program = install(harness, { 'app.js': source })

    program.run('app.js')
    await until('the login', () => program.exchanged.length === 1 && program.isIdle())

    const [login] = program.exchanged
    const [exchange] = harness.wechat.history()
    expect(login).toMatchObject({ method: 'GET', status: 200, body: null })
    expect(login?.url).toBe(`${harness.url}/onLogin?code=${exchange?.code}`)
    expect(login?.headers['content-type']).toBe('application/json')
    expect(JSON.parse(login?.text ?? '')).toMatchObject({ token_type: 'Bearer', openid: OPENID })
    expect(harness.wechat.history()).toMatchObject([{ openid: OPENID, outcome: 'ok' }])
    expect(program.printed).toEqual([])
    expectNoSessionKey(harness, program.exchanged)
  })
})

describe('the client with its addresses in a module', () => {
  test('logs in unchanged, and the token it has kept says who it is', async () => {
    const harness = await startHarness()
    const program = install(harness, WITH_CONFIG)
    const app = program.run('app.js') as ClassicApp

    app.login()
    await until('the login', () => app.globalData.hasLogin)
    expect(app.globalData.openid).toBe(OPENID)
    const answer = await new Promise<[number, Record<string, unknown>]>((resolve) => {
      app.whoAmI((...result) => resolve(result))
    })

    expect(answer).toMatchObject([200, { openid: OPENID }])
    expect(program.exchanged.map(({ method, status }) => [method, status])).toEqual([
      ['GET', 200],
      ['GET', 200],
    ])
    expect(harness.wechat.history()).toHaveLength(1)
    expect(program.printed).toEqual([])
    expectNoSessionKey(harness, program.exchanged)
  })

  // wx.request calls `success` for every status, and parses every answer: a refusal has to be readable there.
  test.each([
    ['a code that WeChat refuses', '0never0issued0never0issued0never', '401 code_invalid new_code'],
    ['the code of DevTools without an appid', 'the code is a mock one', '400 request_invalid never'],
  ])('learns why when it sends %s', async (_what, code, printed) => {
    const harness = await startHarness()
    const program = install(harness, WITH_CONFIG, code)
    const app = program.run('app.js') as ClassicApp

    app.login()
    await until('the refusal', () => program.printed.length > 0)

    expect(program.printed).toEqual([`登录失败 ${printed}`])
    expect(app.globalData.hasLogin).toBe(false)
  })
})

test('the client that posts logs in unchanged', async () => {
  const harness = await startHarness()
  const program = install(harness, { 'login.js': WITH_POST })
  const login = program.run('login.js') as () => Promise<{
    statusCode: number
    data: Record<string, unknown>
  }>

  const { statusCode, data } = await login()

  expect(statusCode).toBe(200)
  expect(data).toMatchObject({ openid: OPENID, provisioned: false })
  expect(program.exchanged).toMatchObject([{ method: 'POST', url: `${harness.url}/login` }])
  expect(harness.wechat.history()).toMatchObject([{ openid: OPENID, outcome: 'ok' }])
  expectNoSessionKey(harness, program.exchanged)
})
