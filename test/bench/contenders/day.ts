/**
 * Contender: what a team writes in a day. fetch, a JSON session with the session_key in it, a job on every login. It
 * has no limits, no claim of the code, no deadline, no breaker, no seal and no metrics.
 */
import { randomUUID } from 'node:crypto'
import { Queue } from 'bullmq'
import Fastify from 'fastify'
import { Redis } from 'ioredis'

const SESSION_SECONDS = 604_800
const { PORT, REDIS_URL = '', WECHAT_URL = '', WECHAT_APPID = '', WECHAT_SECRET = '' } = process.env

const redis = new Redis(REDIS_URL)
const logins = new Queue('logins', {
  connection: { url: REDIS_URL },
  defaultJobOptions: { removeOnComplete: true },
})
const app = Fastify()

app.get('/livez', async () => 'ok')

app.post('/login', async (request, reply) => {
  const { code } = request.body as { code: string }
  const query = new URLSearchParams({
    appid: WECHAT_APPID,
    secret: WECHAT_SECRET,
    js_code: code,
    grant_type: 'authorization_code',
  })
  const answer = await fetch(`${WECHAT_URL}/sns/jscode2session?${query.toString()}`)
  const { openid, unionid, session_key } = (await answer.json()) as Record<string, string | undefined>
  if (openid === undefined) return reply.code(401).send({ error: 'login failed' })
  const token = randomUUID()
  const session = { openid, unionid, session_key, loggedInAt: Date.now() }
  await redis.set(`session:${token}`, JSON.stringify(session), 'EX', SESSION_SECONDS)
  await logins.add('login', { openid, unionid })
  return { token, openid }
})

app.get('/auth', async (request, reply) => {
  const token = request.headers.authorization?.slice('Bearer '.length)
  const found = await redis.get(`session:${token}`)
  if (found === null) return reply.code(401).send()
  const { openid } = JSON.parse(found) as { openid: string }
  return reply.header('x-auth-openid', openid).send()
})

await app.listen({ host: '127.0.0.1', port: Number(PORT) })
