/**
 * Every environment variable of the gateway and the worker, in the order in which an operator meets them.
 *
 * One entry is the whole truth about one variable: how it is read, its unit, its default and why. The
 * README's table and .env.example are compared with this page by test/documentation.test.ts. Any variable
 * X may be given as X_FILE instead, naming a file that holds the value (Docker and Kubernetes secrets).
 */
import {
  flag,
  hostPort,
  integer,
  isAddressRange,
  isPercentEncoded,
  isUrl,
  list,
  optionalText,
  origin,
  share,
  text,
} from './setting-kinds.ts'
import type { Setting } from './setting-kinds.ts'

/** The variables by name. Parsing throws SettingFault and nothing else. */
export const SETTINGS = {
  // Listeners
  HOST: text({ default: '0.0.0.0', doc: 'Address of the public listener.' }),
  PORT: integer({
    default: 3000,
    min: 0,
    max: 65535,
    doc: 'Port of the public listener; 0 takes a free one.',
  }),
  ADMIN_HOST: text({
    default: '127.0.0.1',
    doc: 'Address of the admin listener (metrics and administration). Never expose it to the internet.',
  }),
  ADMIN_PORT: integer({
    default: 9090,
    min: 0,
    max: 65535,
    doc: 'Port of the admin listener; 0 takes a free one.',
  }),
  ADMIN_TOKEN: optionalText({
    secret: true,
    pattern: /^[\x21-\x7e]{24,256}$/,
    demand: 'must be 24 to 256 characters without spaces; `openssl rand -base64 32` makes a good one',
    doc: 'Bearer token of the admin listener. Required. At least 24 characters.',
  }),
  TRUST_PROXY: list({
    default: '',
    pattern: /^[0-9A-Fa-f.:]+(\/\d{1,3})?$/,
    accepts: isAddressRange,
    demand: 'must be a comma list of addresses or CIDR ranges, none of them /0',
    doc: 'Load balancers whose X-Forwarded-For is believed: comma list of CIDR ranges. Empty: the peer address counts.',
  }),

  // WeChat
  WECHAT_APPID: optionalText({
    pattern: /^[A-Za-z0-9_-]{4,64}$/,
    demand: 'must be 4 to 64 letters, digits, "_" or "-"',
    doc: 'The Mini Program. Needs WECHAT_SECRET; or use WECHAT_APPS_FILE.',
  }),
  WECHAT_SECRET: optionalText({
    secret: true,
    pattern: /^[A-Za-z0-9_-]{16,128}$/,
    demand: 'must be 16 to 128 letters and digits',
    doc: 'Its AppSecret.',
  }),
  WECHAT_PUSH_TOKEN: optionalText({
    secret: true,
    pattern: /^[A-Za-z0-9]{3,32}(,[A-Za-z0-9]{3,32})?$/,
    demand: 'must be 3 to 32 letters and digits, or two of that with a comma between them',
    doc: 'Token of its message push (/push/:appid), as in WeChat\'s console. While it is being changed: "new,old".',
  }),
  WECHAT_PUSH_AES_KEY: optionalText({
    secret: true,
    pattern: /^[A-Za-z0-9+/]{43}(,[A-Za-z0-9+/]{43})?$/,
    demand: 'must be 43 letters and digits, or two of that with a comma between them',
    doc: 'EncodingAESKey of its message push. With it only encrypted messages are taken. While it is being changed: "new,old".',
  }),
  WECHAT_PUSH_REVOKE_ERASES: flag({
    default: true,
    doc: 'Whether a user who withdraws their consent to single items (RevokeInfo of user_authorization_revoke) is erased, as WeChat asks. false: they are only logged out everywhere.',
  }),
  WECHAT_APPS_FILE: optionalText({
    doc: 'JSON file for several Mini Programs: [{"appid": "…", "secret": "…"}, …].',
  }),
  WECHAT_API_URLS: list({
    default: 'https://api.weixin.qq.com,https://api2.weixin.qq.com',
    ...origin,
    doc: 'Origins of the WeChat API in order of preference; the next is used when one cannot be reached.',
  }),
  WECHAT_COMPONENT_TOKENS_FILE: optionalText({
    doc: 'JSON file that your third-party platform of WeChat writes, {"component_appid": "component_access_token", …}; read again when it changes. For apps of kind wechat_component.',
  }),
  WECOM_API_URLS: list({
    default: 'https://qyapi.weixin.qq.com',
    ...origin,
    doc: 'Origins of the WeCom API, for apps of kind wecom.',
  }),
  QQ_API_URLS: list({
    default: 'https://api.q.qq.com',
    ...origin,
    doc: 'Origins of the QQ Mini Program API, for apps of kind qq.',
  }),
  DOUYIN_API_URLS: list({
    default: 'https://developer.toutiao.com',
    ...origin,
    doc: 'Origins of the Douyin API, for apps of kind douyin.',
  }),
  LOGIN_DEADLINE_MS: integer({
    default: 3000,
    min: 500,
    max: 4500,
    doc: 'Longest time for one login with everything in it. A Mini Program sent to the background gives up after 5 s.',
  }),

  // Stores
  REDIS_URL: optionalText({
    secret: true,
    pattern: /^rediss?:\/\/\S+$/,
    accepts: isUrl,
    demand:
      'must be a URL that begins with redis:// or rediss://, with /, #, ?, @ and % of a password encoded',
    doc: 'One Redis. Or REDIS_SENTINELS, or REDIS_CLUSTER.',
  }),
  REDIS_SENTINELS: list({ default: '', ...hostPort, doc: 'Sentinels, comma list of host:port.' }),
  REDIS_SENTINEL_NAME: text({ default: 'mymaster', doc: 'Name of the master that the sentinels watch.' }),
  REDIS_CLUSTER: list({
    default: '',
    ...hostPort,
    doc: 'Seed nodes of a Redis Cluster, comma list of host:port.',
  }),
  REDIS_USERNAME: optionalText({ doc: 'User for Sentinel and Cluster (REDIS_URL carries its own).' }),
  REDIS_PASSWORD: optionalText({ secret: true, doc: 'Password for Sentinel and Cluster.' }),
  REDIS_COMMAND_TIMEOUT_MS: integer({
    default: 250,
    min: 50,
    max: 2000,
    doc: 'Longest wait for one Redis answer on the request path; then the client gets 503.',
  }),
  KEY_PREFIX: text({
    default: '',
    pattern: /^[A-Za-z0-9_.:-]{0,32}$/,
    demand: 'must be up to 32 of A-Z a-z 0-9 _ . : -',
    doc: 'Put before every Redis key, for several gateways on one Redis.',
  }),
  DATABASE_URL: optionalText({
    secret: true,
    pattern: /^postgres(ql)?:\/\/\S+$/,
    accepts: isUrl,
    demand: 'must be a URL that begins with postgres://, with /, #, ?, @ and % of a password encoded',
    doc: 'Postgres of the worker. Absent: an embedded database under DATA_DIR, for one worker only.',
  }),
  DATA_DIR: text({ default: '.data', doc: 'Folder of the embedded database and of `npm start`.' }),

  // Keys
  SEAL_KEYS: optionalText({
    secret: true,
    doc: 'Seal session_key in Redis: kid:base64 of 32 bytes, comma list. The first seals, all open. Required.',
  }),
  TOKEN_KEYS: optionalText({
    secret: true,
    doc: 'Make session tokens: kid:base64 of 32 bytes, comma list. The first makes, all open. Required.',
  }),

  // Sessions
  SESSION_TTL_SECONDS: integer({
    default: 604_800,
    min: 60,
    max: 31_536_000,
    doc: 'How long a session lives without being used, in seconds (7 days). Use prolongs it.',
  }),
  SESSION_MAX_SECONDS: integer({
    default: 2_592_000,
    min: 60,
    max: 31_536_000,
    doc: 'How long a session lives at most, however much it is used (30 days). At least SESSION_TTL_SECONDS, which counts when it is above the default.',
  }),
  SESSION_CACHE_SECONDS: integer({
    default: 0,
    min: 0,
    max: 5,
    doc: 'For how long a gateway may go on taking a session for valid without asking Redis. A log-out is heard of at once as a rule, and holds after this in any case. 0: it asks each time.',
  }),
  SESSIONS_PER_USER: integer({
    default: 10,
    min: 1,
    max: 50,
    doc: 'Sessions a user may hold at once; a further login ends the oldest.',
  }),
  OPEN_DATA_MAX_AGE_SECONDS: integer({
    default: 86_400,
    min: 60,
    max: 2_592_000,
    doc: 'How old the watermark of open data may be. A day: what was collected without a network may come late, and only the user can send it.',
  }),
  OPEN_DATA_REPLAY_SECONDS: integer({
    default: 0,
    min: 0,
    max: 86_400,
    doc: 'For how long the same open data is not decrypted a second time. 0: it is, so that a client whose answer got lost can ask again.',
  }),
  EXPOSE_OPENID: flag({
    default: true,
    doc: 'Whether /login and /session show openid and unionid to the client.',
  }),

  // Tokens for other services
  JWT_AUDIENCES: list({
    default: '',
    pattern: /^[A-Za-z0-9:/._~-]{1,128}$/,
    demand:
      'must be a comma list of names or addresses of services, each up to 128 of A-Z a-z 0-9 : / . _ ~ -',
    doc: 'Services for which POST /token makes a JWT, comma list. Empty: none are made.',
  }),
  JWT_TTL_SECONDS: integer({
    default: 300,
    min: 10,
    max: 600,
    doc: 'Life of a JWT in seconds. It cannot be taken back: a log-out ends it only by this.',
  }),
  JWT_ISSUER: text({
    default: 'urn:wechat-login-gateway',
    pattern: /^[A-Za-z0-9:/._~-]{1,256}$/,
    demand: 'must be up to 256 of A-Z a-z 0-9 : / . _ ~ -',
    doc: 'Who made it (`iss`). Services compare it to the letter.',
  }),

  // Limits, per minute
  LIMIT_LOGIN_PER_IP: integer({
    default: 1000,
    min: 1,
    max: 10_000_000,
    doc: 'Logins a minute from one address (IPv6: one /64). Mobile carriers put thousands behind one.',
  }),
  LIMIT_INVALID_PER_IP: integer({
    default: 60,
    min: 1,
    max: 10_000_000,
    doc: 'Codes a minute from one address that WeChat refuses. Above it, and when they are most of what comes, the address is shut out for the minute.',
  }),
  LIMIT_LOGIN_PER_USER: integer({
    default: 20,
    min: 1,
    max: 1_000_000,
    doc: 'Logins a minute of one user.',
  }),
  LIMIT_WRONG_TOKEN_PER_IP: integer({
    default: 1000,
    min: 1,
    max: 10_000_000,
    doc: 'Wrong tokens a minute from one address that one gateway answers with 401; beyond, 429. A valid token is never refused for its address, and /auth does not count: limit guessing there in your proxy.',
  }),
  LIMIT_TOKEN_PER_USER: integer({
    default: 60,
    min: 1,
    max: 1_000_000,
    doc: 'JWTs a minute that one gateway makes for one user.',
  }),
  LIMIT_PHONE_PER_USER: integer({
    default: 10,
    min: 1,
    max: 1_000_000,
    doc: 'Phone numbers a minute that one gateway asks of WeChat for one user. WeChat charges for each.',
  }),
  LIMIT_EXCHANGE_PER_APP: integer({
    default: 60_000,
    min: 1,
    max: 100_000_000,
    doc: 'Exchanges a minute at WeChat for one appid, over all gateways.',
  }),
  GATEWAY_COUNT: integer({
    default: 1,
    min: 1,
    max: 1_000,
    doc: 'How many gateways there are. While Redis cannot count, each allows its part of every limit; and each takes some of an app’s exchanges ahead, a hundredth of the limit divided by this.',
  }),

  // Overload
  SHED_IN_FLIGHT: integer({
    default: 2000,
    min: 10,
    max: 100_000,
    doc: 'Requests worked on at once. At 80 % of it logins are refused as overloaded, at 90 % all but sessions and their validation, at 100 % these too.',
  }),
  SHED_LOOP_DELAY_MS: integer({
    default: 250,
    min: 50,
    max: 60_000,
    doc: 'Logins are refused as overloaded when the event loop is later than this, others at twice, validations only at a lasting four times. 60000 turns it off.',
  }),

  // Provisioning
  PROVISION_REFRESH_SECONDS: integer({
    default: 3600,
    min: 60,
    max: 604_800,
    doc: 'A user provisioned less than this ago is not queued again by a login.',
  }),
  PROVISION_BACKLOG_MAX: integer({
    default: 1_000_000,
    min: 1,
    max: 100_000_000,
    doc: 'Jobs that may wait for the workers; above it first logins get 503. A job takes less than 1 KB of Redis, so a million takes less than 1 GB.',
  }),
  PROVISION_MODULE: optionalText({
    doc: 'File of a JavaScript module of yours that writes users into your own table, instead of DATABASE_URL.',
  }),
  WORKER_HOST: text({ default: '127.0.0.1', doc: "Address of the worker's listener (metrics and health)." }),
  WORKER_PORT: integer({
    default: 9091,
    min: 0,
    max: 65535,
    doc: "Port of the worker's listener; 0 takes a free one.",
  }),
  WORKER_TOKEN: optionalText({
    secret: true,
    pattern: /^[\x21-\x7e]{24,256}$/,
    demand: 'must be 24 to 256 characters without spaces; `openssl rand -base64 32` makes a good one',
    doc: "Bearer token of /webhooks on the worker's listener. Absent: it is not there. Another one than ADMIN_TOKEN.",
  }),
  WORKER_CONCURRENCY: integer({
    default: 128,
    min: 1,
    max: 256,
    doc: 'Jobs a worker runs at once, and half as many are written to the database together.',
  }),

  // Webhooks
  WEBHOOKS_FILE: optionalText({
    doc: 'JSON file of the worker: who is told of which events, [{"name": "…", "url": "https://…", "secrets": ["whsec_…"]}, …].',
  }),
  WEBHOOK_PORTS: list({
    default: '443,8443',
    pattern: /^[1-9]\d{0,4}$/,
    demand: 'must be a comma list of ports',
    doc: 'Ports that webhooks may be delivered to, comma list.',
  }),
  WEBHOOK_PRIVATE_NETWORKS: list({
    default: '',
    pattern: /^[0-9A-Fa-f.:]+(\/\d{1,3})?$/,
    accepts: isAddressRange,
    demand: 'must be a comma list of addresses or CIDR ranges, none of them /0',
    doc: 'Networks that are not public and yet may be delivered to: comma list of CIDR ranges. 127.0.0.0/8 also permits http:// to this machine, for development only.',
  }),
  SESSION_EVENTS: flag({
    default: false,
    doc: 'Whether a gateway tells the worker of log-outs, for webhooks that want session.revoked.',
  }),

  // Traces
  OTEL_EXPORTER_OTLP_ENDPOINT: optionalText({
    pattern: /^https?:\/\/[A-Za-z0-9.:[\]_-]+(\/[A-Za-z0-9._~/-]*)?$/,
    accepts: isUrl,
    demand: 'must be a URL such as http://collector:4318, without user, password and query',
    doc: 'Where traces go, by OTLP over HTTP: a collector, Jaeger, Tempo; /v1/traces is added. Absent: there are none, and nothing is loaded for them.',
  }),
  OTEL_EXPORTER_OTLP_HEADERS: optionalText({
    secret: true,
    pattern: /^[A-Za-z0-9_-]+=[\x21-\x2b\x2d-\x7e]+(,[A-Za-z0-9_-]+=[\x21-\x2b\x2d-\x7e]+)*$/,
    accepts: isPercentEncoded,
    demand:
      'must be name=value, or several with commas between them, with spaces and commas of a value encoded',
    doc: 'Headers that are sent there, for its keys: name=value, comma list, values percent-encoded.',
  }),
  OTEL_TRACES_SAMPLER_ARG: share({
    default: 0.1,
    doc: 'Part of the requests that are traced, 0 to 1. The worker follows the gateway.',
  }),
  TRACE_TRUST_PARENT: flag({
    default: false,
    doc: 'Whether the trace that a request from TRUST_PROXY names (traceparent) is continued, sampled or not as it says. Only where the proxy writes or strips that header itself: otherwise clients decide what is traced.',
  }),

  // Process
  LOG_LEVEL: text({
    default: 'info',
    pattern: /^(trace|debug|info|warn|error|fatal|silent)$/,
    demand: 'must be trace, debug, info, warn, error, fatal or silent',
    doc: 'trace, debug, info, warn, error, fatal or silent. No level shows a secret.',
  }),
  DRAIN_DELAY_MS: integer({
    default: 5000,
    min: 0,
    max: 60_000,
    doc: 'After SIGTERM: how long to go on answering while the load balancer notices that /readyz says 503. The end comes at most 20 s later.',
  }),
  READY_REQUIRES_REDIS: flag({
    default: false,
    doc: 'Whether /readyz says 503 while Redis does not answer. For load balancers with another site to go to; with one site it only makes an outage worse.',
  }),
} as const satisfies Record<string, Setting<unknown>>

export type SettingName = keyof typeof SETTINGS
export type SettingValues = { [K in SettingName]: ReturnType<(typeof SETTINGS)[K]['parse']> }
