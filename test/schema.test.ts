import { Type as TypeBox } from 'typebox'
import { expect, test } from 'vitest'
import { Type } from '../src/http/schema.ts'

/** A schema in which each builder has a part, as a route would write it. */
function written(by: typeof Type): unknown {
  return by.Object(
    {
      name: by.String({ minLength: 1, pattern: '^a' }),
      count: by.Optional(by.Integer({ description: 'of something' })),
      isOpen: by.Boolean(),
      kind: by.Union([by.Literal('one'), by.Literal(2), by.Literal(true)], { description: 'which' }),
      parts: by.Array(by.Object({}), { maxItems: 3 }),
      maybe: by.Optional(by.Object({ text: by.Optional(by.String()) })),
      free: by.Unsafe<Record<string, unknown>>({}),
    },
    { additionalProperties: false },
  )
}

test('what is built is what TypeBox builds, in the same order', () => {
  expect(JSON.stringify(written(Type))).toBe(JSON.stringify(written(TypeBox)))
})

test('a schema that is made optional stays required where it is used otherwise', () => {
  const text = Type.String()

  expect(Type.Object({ one: Type.Optional(text), other: text })).toMatchObject({ required: ['other'] })
})
