/** Contender: Fastify and nothing else. What any HTTP service on it costs. */
import Fastify from 'fastify'

const app = Fastify()
app.get('/livez', async () => 'ok')
app.get('/auth', async () => ({ ok: true }))
app.post('/login', async (request) => ({ length: (request.body as { code: string }).code.length }))
await app.listen({ host: '127.0.0.1', port: Number(process.env['PORT']) })
