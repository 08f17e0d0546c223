/**
 * All that a span may say. The set is closed: nothing that could be a secret or name a person has a word here, so
 * neither gets in by haste. docs/tracing.md lists the same, and what each means.
 *
 * Names are OpenTelemetry's where it has one. What its conventions ask for and is left out on purpose: url.full,
 * url.path and url.query (codes, tokens and AppSecret travel there), client.address and user_agent.original (people),
 * db.query.text, and the message and stack of exceptions.
 *
 * Source: https://opentelemetry.io/docs/specs/semconv/
 */
export interface SpanAttributes {
  /** A known method, else _OTHER. */
  'http.request.method'?: string
  /** The pattern of the route, such as /users/:appid/:openid. */
  'http.route'?: string
  'http.response.status_code'?: number
  /** The path that is called, without its query. One of a fixed few. */
  'url.template'?: string
  'server.address'?: string
  'server.port'?: number
  /** A code of the catalogue of errors, or a word of the caller's own closed set. */
  'error.type'?: string

  'db.system.name'?: 'redis' | 'postgresql'
  'db.operation.name'?: string
  /** The script of src/lua/ that was run. */
  'db.stored_procedure.name'?: string
  /** An operation and the table it changes or reads. */
  'db.query.summary'?: string

  'messaging.system'?: 'bullmq'
  'messaging.destination.name'?: string
  'messaging.operation.name'?: 'send' | 'process'
  'messaging.operation.type'?: 'send' | 'process'
  'messaging.message.id'?: string

  /** What became of it: ok, a code of the catalogue of errors, or a word of the step's own. */
  'gateway.outcome'?: string
  /** How the login came by its code: shared, leading, settled. */
  'gateway.claim'?: string
  'wechat.appid'?: string
  'wechat.errcode'?: number
  /** What our table takes it for. */
  'wechat.errcode.meaning'?: string
  /** WeChat's id of its answer, to be quoted when asking WeChat. */
  'wechat.rid'?: string
  /** How often the job has failed before. */
  'job.failures'?: number
  /** Users written to the database together. */
  'job.batch_size'?: number
}
