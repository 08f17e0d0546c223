/** U4–U7: answers of WeChat that make no sense, come in a strange form, have no end, or lead elsewhere. */
import { setTimeout as pause } from 'node:timers/promises'
import { checkInvariants } from '../invariants.ts'
import type { Row } from '../row.ts'
import { startTrap } from '../trap.ts'
import {
  ASKED_AGAIN,
  attemptsOf,
  bringFault,
  checkAnswers,
  checkClosed,
  FAULT_MS,
  recover,
  shareOf,
} from '../upstream-run.ts'

const user = { openid: 'o--sB5rdWBfwTidbZzzn4FXfWpEg', session_key: 'tQY+38pdTVnAIWCBNiM1+A==' }
const SENSELESS: readonly string[] = [
  'no JSON',
  JSON.stringify(user).slice(0, 40),
  'null',
  '[]',
  '42',
  '{}',
  JSON.stringify({ ...user, openid: undefined }),
  JSON.stringify({ ...user, openid: '' }),
  JSON.stringify({ ...user, openid: 7 }),
  JSON.stringify({ ...user, openid: 'o'.repeat(1_000_000) }),
  JSON.stringify({ ...user, session_key: 'short' }),
  JSON.stringify({ ...user, session_key: 'not base64 of 16 bytes!!' }),
]

export const wechatAnswerRows: readonly Row[] = [
  {
    id: 'U4',
    title: 'WeChat answers with garbage: a third of all answers, of twelve kinds, then all',
    pass: '503 wechat_answer_invalid each, counted as failures, no session; the other logins succeed',
    async run(bench) {
      const rules = SENSELESS.map((body) => ({ kind: 'body', body, when: 'before', probability: 0.03 }))
      const run = await bringFault(bench, rules)
      const { stand, faultMs } = run
      await pause(FAULT_MS)
      await checkClosed(bench, stand)
      const partlyMs = performance.now()
      await stand.wechat.fault({ kind: 'body', body: 'no JSON', when: 'before' })
      await pause(FAULT_MS / 3)
      await recover(bench, run)
      const partly = { kind: 'login', fromMs: faultMs, toMs: partlyMs } as const
      const invalid = stand.ledger.count({ ...partly, errorCode: 'wechat_answer_invalid' })
      bench.figure('senseless answers', shareOf(invalid, stand.ledger.count(partly)), {
        unit: '%',
        min: 20,
        max: 45,
      })
      checkAnswers(bench, run, ['200', 'wechat_answer_invalid', 'wechat_circuit_open'])
      const told = stand.ledger.count({ kind: 'login', errorCode: 'wechat_answer_invalid' })
      bench.figure('counted as failures', await attemptsOf(stand, { outcome: 'invalid' }), { is: told })
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'U5',
    title: 'HTML instead of JSON with status 502, 504 and 200; JSON called text/html, text/plain and nothing',
    pass: 'JSON counts by its content; HTML is a failure, asked again once within the retry budget',
    async run(bench) {
      const run = await bringFault(bench, [
        { kind: 'html', status: 502, when: 'before', probability: 0.02 },
        { kind: 'html', status: 504, when: 'before', probability: 0.02 },
        { kind: 'html', status: 200, when: 'before', probability: 0.02 },
        { kind: 'content_type', contentType: 'text/html', probability: 0.3 },
        { kind: 'content_type', contentType: 'application/octet-stream', probability: 0.3 },
      ])
      const { stand, faultMs } = run
      const before = await attemptsOf(stand)
      await pause(FAULT_MS)
      await recover(bench, run)
      const logins = { kind: 'login', fromMs: faultMs } as const
      const succeeded = stand.ledger.count({ ...logins, status: 200 })
      // Of the 6 % a retry of each is within the budget of 10 %, and fails in 6 % again.
      bench.figure('logins that succeed', shareOf(succeeded, stand.ledger.count(logins)), {
        unit: '%',
        min: 99,
      })
      bench.figure('attempts a login', ((await attemptsOf(stand)) - before) / stand.ledger.count(logins), {
        max: 1.1,
      })
      bench.figure('HTML counted as failures', await attemptsOf(stand, { outcome: 'server_error' }), {
        min: 1,
      })
      checkAnswers(bench, run, ['200', 'wechat_failed'])
      await checkClosed(bench, stand)
      await checkInvariants(bench, stand, ASKED_AGAIN)
    },
  },
  {
    id: 'U6',
    title: 'Bodies of 100 MB, without end, a gzip bomb, a thousand content-encodings',
    pass: 'cut at 64 KiB: 503 within 100 ms; memory grows by less than 10 MB',
    alone: true,
    async run(bench) {
      const headers = { 'content-encoding': Array<string>(1_000).fill('gzip').join(',') }
      const calm = await bringFault(bench, [], { warmMs: 30_000 })
      const { stand } = calm
      const memory = () => stand.gateways.map((gateway) => gateway.rssBytes())
      const grownBy = async (act: () => Promise<unknown>) => {
        const before = memory()
        await act()
        return memory().map((bytes, at) => (bytes - (before[at] ?? 0)) / 1e6)
      }
      // A new process grows for a while by itself.
      const ownGrowth = await grownBy(() => pause(FAULT_MS))
      const rules = [
        { kind: 'huge', when: 'before', probability: 0.05 },
        { kind: 'huge', bytes: 0, when: 'before', probability: 0.05 },
        { kind: 'gzip_bomb', when: 'before', probability: 0.05 },
        { kind: 'body', body: 'x'.repeat(70_000), headers, when: 'before', probability: 0.05 },
      ]
      for (const rule of rules) await stand.wechat.fault(rule)
      const faultMs = performance.now()
      const run = { ...calm, faultMs }
      const growth = await grownBy(() => pause(FAULT_MS))
      await recover(bench, run)
      const cut = { kind: 'login', fromMs: faultMs, errorCode: 'wechat_answer_invalid' } as const
      bench.figure('bodies cut', stand.ledger.count(cut), { min: 100 })
      bench.figure('their p99', stand.ledger.quantile(0.99, cut), { unit: 'ms', max: 100 })
      const grown = growth.map((MB, at) => MB - Math.max(0, ownGrowth[at] ?? 0))
      bench.figure('memory grown, beyond as long before', Math.max(...grown), { unit: 'MB', max: 10 })
      checkAnswers(bench, run, ['200', 'wechat_answer_invalid'])
      await checkClosed(bench, stand)
      await checkInvariants(bench, stand)
    },
  },
  {
    id: 'U7',
    title: 'WeChat redirects to another host: 301, 302, 307',
    pass: 'not followed: nothing arrives there; a failure',
    async run(bench) {
      const trap = await startTrap(bench)
      const run = await bringFault(
        bench,
        [301, 302, 307].map((status) => ({
          kind: 'redirect',
          status,
          location: `${trap.url}/sns/jscode2session`,
          when: 'before',
          probability: 0.1,
        })),
      )
      const { stand, faultMs } = run
      await pause(FAULT_MS)
      await recover(bench, run)
      bench.figure('connections to the other host', trap.connections(), { is: 0 })
      const failed = stand.ledger.count({
        kind: 'login',
        fromMs: faultMs,
        errorCode: 'wechat_answer_invalid',
      })
      bench.figure('redirects met', failed, { min: 100 })
      checkAnswers(bench, run, ['200', 'wechat_answer_invalid'])
      await checkInvariants(bench, stand)
    },
  },
]
