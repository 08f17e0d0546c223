/**
 * JSON schemas, written and typed as TypeBox does.
 *
 * TypeBox itself is 373 files, of which a route needs a few lines: to load them was a fifth of the start of a gateway.
 * So only its types are used here, and what is built is what it would build (test/schema.test.ts compares them).
 */
import type { Type as TypeBox } from 'typebox'

type Builders = Pick<
  typeof TypeBox,
  'Object' | 'Array' | 'String' | 'Integer' | 'Boolean' | 'Literal' | 'Union' | 'Optional' | 'Unsafe'
>

const optional = new WeakSet<object>()

const build = {
  Object(properties: Record<string, object>, options?: object) {
    const required = Object.keys(properties).filter((name) => !optional.has(properties[name] ?? {}))
    return { type: 'object', ...(required.length > 0 && { required }), properties, ...options }
  },
  Array: (items: object, options?: object) => ({ type: 'array', items, ...options }),
  String: (options?: object) => ({ type: 'string', ...options }),
  Integer: (options?: object) => ({ type: 'integer', ...options }),
  Boolean: (options?: object) => ({ type: 'boolean', ...options }),
  Literal: (value: string | number | boolean, options?: object) => ({
    type: typeof value,
    const: value,
    ...options,
  }),
  Union: (anyOf: readonly object[], options?: object) => ({ anyOf, ...options }),
  Optional(schema: object) {
    const copy = { ...schema }
    optional.add(copy)
    return copy
  },
  Unsafe: (schema: object) => schema,
}

/** Builders of schemas, whose types say what fits them. */
export const Type = build as unknown as Builders
