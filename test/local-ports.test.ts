import { expect, test } from 'vitest'
import { freePort } from '../deploy/local/ports.ts'

test('no two parts of a program are given one port, though none listens yet', async () => {
  const ports: number[] = []
  for (let part = 0; part < 200; part += 1) ports.push(await freePort())

  expect(new Set(ports).size).toBe(200)
})
