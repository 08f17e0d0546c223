// Contender: node-easywechat on Fastify, as its readme shows it. The session is left to whoever uses it.
import Fastify from 'fastify'
import easywechat from 'node-easywechat'

const { PORT, WECHAT_URL, WECHAT_APPID, WECHAT_SECRET } = process.env

const wechat = new easywechat.MiniApp({
  app_id: WECHAT_APPID,
  secret: WECHAT_SECRET,
  http: { baseURL: WECHAT_URL },
})
const app = Fastify()
app.get('/livez', async () => 'ok')
app.post('/login', async (request) => {
  const { openid } = await wechat.getUtils().codeToSession(request.body.code)
  return { openid }
})
await app.listen({ host: '127.0.0.1', port: Number(PORT) })
