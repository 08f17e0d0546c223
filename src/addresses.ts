/**
 * Client addresses, reduced to what one subscriber or one network shares.
 *
 * Works on the bits, not on the notation: one address can be written in many ways, and a limit that counted
 * spellings could be escaped by spelling.
 */
import { BlockList, isIPv4, isIPv6 } from 'node:net'

/**
 * Whom a limit per address counts: an IPv4 address, or the /64 of an IPv6 address, which is what one
 * subscriber gets. IPv4 inside IPv6 (mapped, NAT64) counts as IPv4.
 */
export function addressGroup(ip: string): string {
  return prefixOf(ip, { ipv4Bits: 32, ipv6Bits: 64 })
}

/** The network a phone stays in while it retries a login: IPv4 /24, IPv6 /48. */
export function networkOf(ip: string): string {
  return prefixOf(ip, { ipv4Bits: 24, ipv6Bits: 48 })
}

/** What lies in these CIDR ranges; sound ones (isAddressRange). */
export function addressList(ranges: readonly string[]): BlockList {
  const list = new BlockList()
  for (const range of ranges) {
    const [address = '', bits] = range.split('/')
    const family = isIPv4(address) ? 'ipv4' : 'ipv6'
    if (bits === undefined) list.addAddress(address, family)
    else list.addSubnet(address, Number(bits), family)
  }
  return list
}

/** Groups of 16 bits: 64:ff9b::/96, by which networks without IPv4 reach it. */
const NAT64_PREFIX = [0x64, 0xff9b, 0, 0, 0, 0]
const MAPPED_PREFIX = [0, 0, 0, 0, 0, 0xffff]

function prefixOf(ip: string, { ipv4Bits, ipv6Bits }: { ipv4Bits: 24 | 32; ipv6Bits: 48 | 64 }): string {
  if (isIPv4(ip))
    return ip
      .split('.')
      .slice(0, ipv4Bits / 8)
      .join('.')
  const address = ip.split('%')[0] ?? '' // without the zone of a link-local address
  if (!isIPv6(address)) return 'unknown'
  const groups = ipv6Groups(address)
  if (startsWith(groups, MAPPED_PREFIX) || startsWith(groups, NAT64_PREFIX)) {
    const [high = 0, low = 0] = groups.slice(6)
    return [high >> 8, high & 255, low >> 8, low & 255].slice(0, ipv4Bits / 8).join('.')
  }
  return groups
    .slice(0, ipv6Bits / 16)
    .map((group) => group.toString(16))
    .join(':')
}

function startsWith(groups: readonly number[], prefix: readonly number[]): boolean {
  return prefix.every((group, index) => groups[index] === group)
}

/** The eight groups of a valid IPv6 address. */
function ipv6Groups(address: string): number[] {
  const [head = '', tail] = address.split('::')
  const left = groupsOf(head)
  if (tail === undefined) return left
  const right = groupsOf(tail)
  return [...left, ...Array<number>(8 - left.length - right.length).fill(0), ...right]
}

function groupsOf(text: string): number[] {
  if (text === '') return []
  return text.split(':').flatMap((part) => {
    if (!part.includes('.')) return [Number.parseInt(part, 16)]
    const [a = 0, b = 0, c = 0, d = 0] = part.split('.').map(Number)
    return [(a << 8) | b, (c << 8) | d]
  })
}
