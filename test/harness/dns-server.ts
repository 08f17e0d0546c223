/** A DNS server on loopback, for names that no other server knows: it answers as it is told, or not at all. */
import { createSocket } from 'node:dgram'

/** What becomes of a question: an IPv4 address, an error, or silence. */
export type DnsAnswer = `${number}.${number}.${number}.${number}` | 'SERVFAIL' | 'NXDOMAIN' | 'silence'

export interface DnsServer {
  port: number
  answerWith(answer: DnsAnswer): void
  /** Questions for an IPv4 address so far. */
  questions(): number
  close(): void
}

const TYPE_A = 1
const HEADER_BYTES = 12
const RESPONSE = 0x8180
const RCODES: Partial<Record<string, number>> = { SERVFAIL: 2, NXDOMAIN: 3 }

/** Answers every name alike. Questions other than for an IPv4 address have no answer. */
export async function startDnsServer({
  host = '127.0.0.1',
  port = 0,
}: {
  host?: string
  port?: number
} = {}): Promise<DnsServer> {
  let answer: DnsAnswer = '127.0.0.1'
  let questions = 0
  const socket = createSocket('udp4')
  socket.on('message', (message, { address, port }) => {
    const question = questionOf(message)
    const isForAddress = question.readUInt16BE(question.length - 4) === TYPE_A
    if (isForAddress) questions += 1
    if (answer !== 'silence') socket.send(respond(message, question, isForAddress, answer), port, address)
  })
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject)
    socket.bind(port, host, resolve)
  })
  return {
    port: socket.address().port,
    answerWith(next) {
      answer = next
    },
    questions: () => questions,
    close: () => void socket.close(),
  }
}

/** The name and, in the last four bytes, type and class. */
function questionOf(message: Buffer): Buffer {
  let end = HEADER_BYTES
  while (message[end]) end += 1 + (message[end] ?? 0)
  return message.subarray(HEADER_BYTES, end + 5)
}

/** RFC 1035, section 4. */
function respond(message: Buffer, question: Buffer, isForAddress: boolean, answer: string): Buffer {
  const rcode = RCODES[answer] ?? 0
  const hasAnswer = rcode === 0 && isForAddress
  const header = Buffer.alloc(HEADER_BYTES)
  message.copy(header, 0, 0, 2)
  header.writeUInt16BE(RESPONSE | rcode, 2)
  header.writeUInt16BE(1, 4)
  header.writeUInt16BE(hasAnswer ? 1 : 0, 6)
  if (!hasAnswer) return Buffer.concat([header, question])
  // A pointer to the name of the question, type A, class IN, a life of 0 s, four bytes.
  const record = Buffer.from([0xc0, HEADER_BYTES, 0, TYPE_A, 0, 1, 0, 0, 0, 0, 0, 4, ...octets(answer)])
  return Buffer.concat([header, question, record])
}

function octets(address: string): number[] {
  return address.split('.').map(Number)
}
