/** Contender: Fastify that asks WeChat with undici and hands on who it is. The floor of a login: nothing is kept. */
import Fastify from 'fastify'
import { Pool } from 'undici'

const { PORT, WECHAT_URL = '', WECHAT_APPID = '', WECHAT_SECRET = '' } = process.env

const wechat = new Pool(WECHAT_URL, { connections: 64 })
const app = Fastify()
app.get('/livez', async () => 'ok')
app.post('/login', async (request) => {
  const { code } = request.body as { code: string }
  const query = new URLSearchParams({
    appid: WECHAT_APPID,
    secret: WECHAT_SECRET,
    js_code: code,
    grant_type: 'authorization_code',
  })
  const { body } = await wechat.request({ method: 'GET', path: `/sns/jscode2session?${query.toString()}` })
  const { openid } = (await body.json()) as { openid: string }
  return { openid }
})
await app.listen({ host: '127.0.0.1', port: Number(PORT) })
