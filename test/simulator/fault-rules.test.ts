/** Which requests a fault rule meets, and for how long. */
import { describe, expect, test } from 'vitest'
import { parse } from './client.ts'
import { DEFAULT_APP } from './platform.ts'
import { setUp } from './setting.ts'

const errcodeOf = (text: string): unknown => parse(text)['errcode'] ?? 'ok'

describe('which requests meet a rule', () => {
  test.each(['path', 'appid', 'code', 'openid', 'ip'] as const)('only those of its %s', async (field) => {
    const { wechat, client } = await setUp()
    const { code, openid } = wechat.issueCode()
    const fitting = { path: '/sns/jscode2session', appid: DEFAULT_APP.appid, code, openid, ip: '127.0.0.1' }
    const other = {
      path: '/cgi-bin/token',
      appid: 'wx-other',
      code: '0other',
      openid: 'o-other',
      ip: '10.0.0.1',
    }

    const elsewhere = wechat.addFault({ kind: 'errcode', errcode: -1, [field]: other[field] })
    expect(errcodeOf((await client.exchange(code)).text)).toBe('ok')
    elsewhere.remove()
    wechat.addFault({ kind: 'errcode', errcode: -1, [field]: fitting[field] })
    expect(errcodeOf((await client.exchange(code)).text)).toBe(-1)
  })

  test('a rule is over after its times, and the next one follows', async () => {
    const { wechat, client } = await setUp()
    wechat.addFault({ kind: 'errcode', errcode: -1, times: 2 })
    wechat.addFault({ kind: 'errcode', errcode: 45011, times: 1 })
    const outcomes: unknown[] = []
    for (const { code } of wechat.issueCodes(4)) outcomes.push(errcodeOf((await client.exchange(code)).text))
    expect(outcomes).toEqual([-1, -1, 45011, 'ok'])
  })

  test('a probability is kept and repeats with the seed', async () => {
    const outcomes = await Promise.all(
      ['one', 'one', 'two'].map(async (seed) => {
        const { wechat, client } = await setUp({ seed })
        wechat.addFault({ kind: 'errcode', errcode: -1, probability: 0.3 })
        const seen: unknown[] = []
        for (const { code } of wechat.issueCodes(300))
          seen.push(errcodeOf((await client.exchange(code)).text))
        return seen
      }),
    )
    expect(outcomes[0]).toEqual(outcomes[1])
    expect(outcomes[0]).not.toEqual(outcomes[2])
    const failures = outcomes[0]?.filter((outcome) => outcome === -1).length
    expect(failures).toBeGreaterThan(60)
    expect(failures).toBeLessThan(120)
  })

  test('clearFaults() ends all rules', async () => {
    const { wechat, client } = await setUp()
    wechat.addFault({ kind: 'empty' })
    wechat.clearFaults()
    expect(errcodeOf((await client.exchange(wechat.issueCode().code)).text)).toBe('ok')
  })
})
