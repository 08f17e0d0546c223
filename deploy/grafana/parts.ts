/** What several dashboards use. */
import type { Value, Variable } from './dashboard.ts'

/** Of the chosen gateways and workers. */
export const HERE = 'instance=~"$instance"'

export const INSTANCE: Variable = { name: 'instance', label: 'Process', from: 'build_info' }
export const APP: Variable = { name: 'appid', label: 'App', from: 'app_logins_total' }

type Values = Readonly<Record<number, Value>>

/** Of wechat_breaker_state. */
export const CIRCUIT: Values = {
  0: { text: 'closed', colour: 'green' },
  1: { text: 'half open', colour: 'yellow' },
  2: { text: 'open', colour: 'red' },
}

export const UP: Values = { 0: { text: 'away', colour: 'red' }, 1: { text: 'up', colour: 'green' } }
