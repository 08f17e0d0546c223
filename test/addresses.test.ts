/** Address groups follow the bits of an address: no other spelling of it, and no neighbour, escapes a limit. */
import { isIPv4, isIPv6 } from 'node:net'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { addressGroup, networkOf } from '../src/addresses.ts'

type Groups = readonly number[]

/** Many zeros, so that `::` has something to stand for. */
const ipv6 = fc.array(fc.oneof(fc.constant(0), fc.nat(0xffff)), { minLength: 8, maxLength: 8 })
const ipv4 = fc.array(fc.nat(255), { minLength: 4, maxLength: 4 })

/** How one address may be written. */
const notations = fc.record({
  upperCase: fc.boolean(),
  digitsMin: fc.integer({ min: 1, max: 4 }),
  /** Where the run of zeros begins that `::` stands for; every run may be chosen, or none. */
  compressFrom: fc.option(fc.nat(7), { nil: undefined }),
  dotted: fc.boolean(),
  zone: fc.constantFrom('', '%eth0', '%1', '%en-0.1'),
})
type Notation = typeof notations extends fc.Arbitrary<infer T> ? T : never

function print(groups: Groups, { upperCase, digitsMin, compressFrom, dotted, zone }: Notation): string {
  const words = groups.map((group) => group.toString(16).padStart(digitsMin, '0'))
  if (dotted) words.splice(6, 2, dottedQuad(groups))
  const zerosEnd = dotted ? 6 : 8
  let text = words.join(':')
  if (compressFrom !== undefined && compressFrom < zerosEnd && groups[compressFrom] === 0) {
    let end = compressFrom
    while (end < zerosEnd && groups[end] === 0) end += 1
    text = `${words.slice(0, compressFrom).join(':')}::${words.slice(end).join(':')}`
  }
  return (upperCase ? text.toUpperCase() : text) + zone
}

function dottedQuad(groups: Groups): string {
  const [high = 0, low = 0] = groups.slice(6)
  return [high >> 8, high & 255, low >> 8, low & 255].join('.')
}

const plain = (groups: Groups) => groups.map((group) => group.toString(16)).join(':')
const holdsIpv4 = (groups: Groups) => /^(0:0:0:0:0:ffff|64:ff9b:0:0:0:0):/.test(plain(groups)) // mapped, NAT64

/** The address with one bit flipped, counted from the left. */
function flip(words: Groups, bit: number, wordBits: 8 | 16): number[] {
  const index = Math.floor(bit / wordBits)
  return words.map((word, at) => (at === index ? word ^ (1 << (wordBits - 1 - (bit % wordBits))) : word))
}

describe('all notations of one IPv6 address', () => {
  test('are one group and one network', () => {
    fc.assert(
      fc.property(ipv6, notations, notations, (groups, one, other) => {
        const [first, second] = [print(groups, one), print(groups, other)]
        expect([first, second].every(isIPv6), `${first} ${second}`).toBe(true)
        expect(addressGroup(first)).toBe(addressGroup(second))
        expect(networkOf(first)).toBe(networkOf(second))
      }),
      { numRuns: 2_000 },
    )
  })

  test.each([
    ['2001:db8::1', '2001:0DB8:0000:0000:0000:0000:0000:0001', '2001:db8:0::0.0.0.1', '2001:db8::1%eth0'],
    ['::', '0:0:0:0:0:0:0:0', '::0', '0::', '::0.0.0.0'],
    ['1::', '1:0:0:0:0:0:0:0', '0001::0'],
    ['fe80::1%eth0', 'fe80::1%eth1', 'FE80::0001'],
  ])('are one group: %s', (...spellings) => {
    expect(new Set(spellings.map(addressGroup)).size).toBe(1)
  })
})

describe('IPv4 inside IPv6', () => {
  const prefixes = ['::ffff:', '0:0:0:0:0:FFFF:', '::0:ffff:', '64:ff9b::', '0064:FF9B:0:0:0:0:']

  test('counts as the IPv4 address, mapped or by NAT64, in dotted and in hexadecimal form', () => {
    fc.assert(
      fc.property(ipv4, fc.constantFrom(...prefixes), ([a = 0, b = 0, c = 0, d = 0], prefix) => {
        const dotted = [a, b, c, d].join('.')
        const hexadecimal = `${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`
        for (const spelling of [prefix + dotted, prefix + hexadecimal]) {
          expect(addressGroup(spelling), `as ${spelling}`).toBe(addressGroup(dotted))
          expect(networkOf(spelling), `as ${spelling}`).toBe(networkOf(dotted))
        }
      }),
    )
  })

  test('counts as IPv4 in no other place: the rest of IPv6 never shares a group with it', () => {
    fc.assert(
      fc.property(ipv6, ipv4, (groups, bytes) => {
        fc.pre(!holdsIpv4(groups))
        expect(addressGroup(plain(groups))).not.toBe(addressGroup(bytes.join('.')))
        expect(networkOf(plain(groups))).not.toBe(networkOf(bytes.join('.')))
      }),
    )
  })
})

describe('the border', () => {
  const borders = [
    { of: 'a group of IPv6', reduce: addressGroup, bits: 64 },
    { of: 'a network of IPv6', reduce: networkOf, bits: 48 },
  ]
  test.each(borders)('of $of is at bit $bits', ({ reduce, bits }) => {
    fc.assert(
      fc.property(ipv6, fc.nat(127), notations, (groups, bit, notation) => {
        const neighbour = flip(groups, bit, 16)
        fc.pre(!holdsIpv4(groups) && !holdsIpv4(neighbour))
        const same = reduce(print(groups, notation)) === reduce(plain(neighbour))
        expect(same, `${plain(groups)} and ${plain(neighbour)}`).toBe(bit >= bits)
      }),
      { numRuns: 1_000 },
    )
  })

  const bordersOfIpv4 = [
    { of: 'a group of IPv4', reduce: addressGroup, bits: 32 },
    { of: 'a network of IPv4', reduce: networkOf, bits: 24 },
  ]
  test.each(bordersOfIpv4)('of $of is at bit $bits', ({ reduce, bits }) => {
    fc.assert(
      fc.property(ipv4, fc.nat(31), (bytes, bit) => {
        const same = reduce(bytes.join('.')) === reduce(flip(bytes, bit, 8).join('.'))
        expect(same).toBe(bit >= bits)
      }),
    )
  })
})

describe('what is no address', () => {
  test('is one group together, and never an error', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        fc.pre(!isIPv4(text) && !isIPv6(text))
        expect(addressGroup(text)).toBe('unknown')
        expect(networkOf(text)).toBe('unknown')
      }),
    )
  })

  test.each(['', '1.2.3', '01.2.3.4', '1.2.3.4%eth0', '::ffff:1.2.3.256', '1.2.3.4:80', '[::1]', ':::', '%'])(
    '%j is none',
    (text) => {
      expect(addressGroup(text)).toBe('unknown')
    },
  )
})
