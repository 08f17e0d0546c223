/** The body of an answer that is an error (RFC 9457): of the gateway, and of the worker's own routes. */
import { ERRORS } from './errors.ts'
import type { ErrorCode, GatewayError } from './errors.ts'

/** Its content type. */
export const PROBLEM_TYPE = 'application/problem+json; charset=utf-8'
const TYPE_PREFIX = 'urn:wechat-login-gateway:error:'

interface Problem {
  type: string
  title: string
  status: number
  detail?: string
  code: ErrorCode
  retry: string
  errcode?: number
  rid?: string
}

/** As the catalogue has it. */
export function problemOf(error: GatewayError): Problem {
  return {
    type: TYPE_PREFIX + error.code,
    title: ERRORS[error.code].title,
    status: error.status,
    ...(error.detail === undefined ? {} : { detail: error.detail }),
    code: error.code,
    retry: error.retry,
    ...(error.errcode === undefined ? {} : { errcode: error.errcode }),
    ...(error.rid === undefined ? {} : { rid: error.rid }),
  }
}
