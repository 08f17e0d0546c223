/**
 * POST /cgi-bin/stable_token and GET /cgi-bin/token: how an app gets an access_token.
 *
 * The rules of the tokens themselves are in access-tokens.ts; here are the checks and quotas before them.
 */
import type { AccessTokens } from './access-tokens.ts'
import type { Answer, Answers } from './answers.ts'
import type { App, Apps } from './apps.ts'
import type { Call, Endpoint } from './calls.ts'
import { admit, isSecretRight } from './admission.ts'
import { bodyText } from './calls.ts'
import { spendOfDay, spendOfMinute } from './quotas.ts'

interface Parts {
  apps: Apps
  accessTokens: AccessTokens
  answers: Answers
  now: () => number
}

export function createStableToken({ apps, accessTokens, answers, now }: Parts): Endpoint {
  return {
    identify: (call) => identify(apps, bodyText(call, 'appid'), bodyText(call, 'secret')),
    answer(call) {
      if (call.method !== 'POST') return answers.failure('api', 43002)
      if (!call.body) return answers.failure('api', 47001)
      const admission = admitParameters({ apps, answers }, call, (name) => bodyText(call, name))
      if ('status' in admission) return admission
      const { app } = admission
      if (!spendOfMinute(app.counts.stableTokensPerMinute, app.quotas.stableTokensPerMinute, now())) {
        return answers.failure('api', 45011)
      }
      if (!spendOfDay(app.counts.stableTokensPerDay, app.quotas.stableTokensPerDay, now())) {
        return answers.failure('api', 45009)
      }
      const grant = accessTokens.stable(app, call.body['force_refresh'] === true)
      if (grant === 45009) return answers.failure('api', 45009)
      return answers.success('api', { access_token: grant.accessToken, expires_in: grant.expiresIn })
    },
  }
}

export function createToken({ apps, accessTokens, answers, now }: Parts): Endpoint {
  return {
    identify: ({ query }) => identify(apps, query.get('appid'), query.get('secret')),
    answer(call) {
      const admission = admitParameters({ apps, answers }, call, call.query.get)
      if ('status' in admission) return admission
      const { app } = admission
      if (!spendOfDay(app.counts.tokensPerDay, app.quotas.tokensPerDay, now())) {
        return answers.failure('api', 45009)
      }
      const { accessToken, expiresIn } = accessTokens.classic(app)
      return answers.success('api', { access_token: accessToken, expires_in: expiresIn })
    },
  }
}

/** The parameters both calls have, wherever they come from: the app, or the answer that turns it away. */
function admitParameters(
  { apps, answers }: { apps: Apps; answers: Answers },
  { ip }: Call,
  parameter: (name: string) => string | undefined,
): { app: App } | Answer {
  const appid = parameter('appid')
  const secret = parameter('secret')
  if (appid === undefined) return answers.failure('api', 41002)
  if (secret === undefined) return answers.failure('api', 41004)
  if (parameter('grant_type') !== 'client_credential') return answers.failure('api', 40002)
  const admission = admit(apps, { appid, secret, ip })
  return 'app' in admission ? admission : answers.failure('api', admission.errcode, admission.errmsg)
}

function identify(apps: Apps, appid: string | undefined, secret: string | undefined) {
  return { appid: appid ?? null, code: null, openid: null, secretRight: isSecretRight(apps, appid, secret) }
}
