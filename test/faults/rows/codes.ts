/** D: duplicates and races of one code. */
import { newNonce } from '../client.ts'
import { checkInvariants } from '../invariants.ts'
import type { Row } from '../row.ts'
import { startStand } from '../stand.ts'

const COPIES = 1_000
const ROUNDS = 10
/** WeChat's own time; what the gateway adds is the figure. */
const WECHAT_MS = 100

export const codeRows: readonly Row[] = [
  {
    id: 'D1',
    title: `${COPIES} copies of one code and nonce over three gateways, ${ROUNDS} rounds`,
    pass: 'one exchange and one session a round, all 200',
    short: true,
    async run(bench) {
      const stand = await startStand(bench, { workers: 1 })
      await stand.wechat.fault({ kind: 'delay', ms: WECHAT_MS })
      const tokens = new Set<string>()
      for (const issued of await stand.wechat.codes(ROUNDS)) {
        const nonce = newNonce()
        const round = await Promise.all(
          Array.from({ length: COPIES }, (_, at) =>
            stand.client.login({ target: stand.gateway(at % 3).url, ...issued, nonce }),
          ),
        )
        for (const { token } of round) tokens.add(token ?? 'none')
      }
      const { codes } = await stand.wechat.summary()
      bench.figure('exchanges', codes.exchanged, { is: ROUNDS })
      bench.figure('answers 200', stand.ledger.count({ kind: 'login', status: 200 }), { is: ROUNDS * COPIES })
      bench.figure('sessions', tokens.size, { is: ROUNDS })
      bench.figure('p99', stand.ledger.quantile(0.99, { kind: 'login' }), { unit: 'ms' })
      await checkInvariants(bench, stand)
    },
  },
]
