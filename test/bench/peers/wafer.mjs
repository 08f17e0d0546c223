// Contender: wafer-node-session on Express, as its readme shows it, with its store in memory. It wants open data with
// every login, and knows WeChat under one address only, which is replaced here.
import { createRequire } from 'node:module'
import express from 'express'

const require = createRequire(import.meta.url)
const { PORT, WECHAT_URL, WECHAT_APPID, WECHAT_SECRET } = process.env

const request = require('request')
const { get } = request
request.get = (options, done) =>
  get({ ...options, url: options.url.replace('https://api.weixin.qq.com', WECHAT_URL) }, done)
const session = require('wafer-node-session')

const app = express()
app.get('/livez', (_request, response) => response.send('ok'))
app.use(session({ appId: WECHAT_APPID, appSecret: WECHAT_SECRET, loginPath: '/login' }))
app.listen(Number(PORT), '127.0.0.1')
