/**
 * Which addresses a webhook must not reach (SSRF): everything that is not the public internet. It judges addresses,
 * never names, and is asked again at each connection (workers/webhooks/post.ts), about the very address that is
 * connected to.
 */
import { isIP } from 'node:net'
import { addressList } from './addresses.ts'

/**
 * What the IANA registries of special-purpose addresses list for IPv4.
 * https://www.iana.org/assignments/iana-ipv4-special-registry
 */
const SPECIAL_IPV4 = [
  '0.0.0.0/8', // this network; on Linux 0.0.0.0 is the machine itself
  '10.0.0.0/8',
  '100.64.0.0/10', // carrier-grade NAT
  '127.0.0.0/8',
  '169.254.0.0/16', // link-local
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.0.2.0/24',
  '192.88.99.0/24',
  '192.168.0.0/16',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/4', // multicast
  '240.0.0.0/4', // reserved, and broadcast
]
/** Of IPv6 only this is the internet: not loopback, unique-local, link-local, IPv4-mapped, NAT64. */
const GLOBAL_IPV6 = '2000::/3'
/** Within it: Teredo and its like, documentation, and 6to4, which holds an IPv4 address. */
const SPECIAL_IPV6 = ['2001::/23', '2001:db8::/32', '2002::/16', '3fff::/20']
/** Where clouds hand out their credentials. Refused also where an operator permits the network around it. */
const METADATA = [
  '169.254.0.0/16',
  '100.100.100.200/32',
  '168.63.129.16/32',
  'fd00:ec2::254/128',
  'fe80::/10',
]

/** Whether a webhook must not be delivered to this address. Anything that is no address is forbidden. */
export type AddressGuard = (address: string) => boolean

/** @param permitted CIDR ranges that are private and yet may be reached; sound ones (isAddressRange) */
export function createAddressGuard(permitted: readonly string[]): AddressGuard {
  const exceptions = addressList(permitted)
  const metadata = addressList(METADATA)
  const special = addressList([...SPECIAL_IPV4, ...SPECIAL_IPV6])
  const globalIpv6 = addressList([GLOBAL_IPV6])

  return (address) => {
    const family = isIP(address) === 4 ? 'ipv4' : 'ipv6'
    if (isIP(address) === 0 || address.includes('%')) return true // a zone is of a link
    if (metadata.check(address, family)) return true
    if (exceptions.check(address, family)) return false
    return special.check(address, family) || (family === 'ipv6' && !globalIpv6.check(address, family))
  }
}
