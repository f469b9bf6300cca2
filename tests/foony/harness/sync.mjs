// A minimal client of the NodeDB sync wire: presence over raw TCP (nodedb.md sections 2.1, 3.2
// and 3.5; frames of 10 header bytes).

import { decode, encode } from '@msgpack/msgpack';
import { connect } from 'node:net';
import { until } from './wait.mjs';

const HANDSHAKE = 0x01;
const HANDSHAKE_ACK = 0x02;
const UPDATE = 0x80;
const BROADCAST = 0x81;
const LEAVE = 0x82;
const HEADER_BYTES = 10;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

export function crc32c(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

function frame(type, body) {
  const bytes = Buffer.from(encode(body));
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt8(1, 0);
  header.writeUInt8(type, 1);
  header.writeUInt32LE(bytes.length, 2);
  header.writeUInt32LE(crc32c(bytes), 6);
  return Buffer.concat([header, bytes]);
}

export class SyncClient {
  /** `{ type, body }` in the order of arrival. */
  received = [];
  #socket;
  #bytes = Buffer.alloc(0);

  /** Connects and greets; throws when the server refuses. */
  static async login(port, token) {
    const client = new SyncClient();
    client.#socket = connect({ port, host: '127.0.0.1', noDelay: true });
    client.#socket.on('error', () => {});
    client.#socket.on('data', (data) => client.#receive(data));
    client.#socket.write(frame(HANDSHAKE, [token, {}, [], '0.1.0', '', 0, 1]));
    const isAck = ({ type }) => type === HANDSHAKE_ACK;
    const ack = await until('sync HandshakeAck', () => client.received.find(isAck));
    if (!ack.body[0]) throw new Error(`the sync session is refused: ${ack.body[3]}`);
    return client;
  }

  /** Announces a state: any value as MessagePack, or bytes as they are. */
  update(channel, state) {
    const bytes = Buffer.isBuffer(state) ? state : encode(state);
    this.#socket.write(frame(UPDATE, [channel, bytes]));
  }

  leave(channel, user) {
    this.#socket.write(frame(LEAVE, [channel, user]));
  }

  /** The newest full set of a channel that `wanted` accepts: user -> bytes of its state. */
  set(what, channel, wanted) {
    const describe = () => `${what}; ${JSON.stringify(this.received.slice(-4))}`;
    const isOurs = ({ type, body }) => type === BROADCAST && body[0] === channel;
    return until(describe, () => {
      const newest = this.received.findLast(isOurs);
      const set = new Map(newest?.body[1].map(([user, state]) => [user, state]));
      return wanted(set) && set;
    });
  }

  /** The state of a user, decoded, once it is `wanted`. */
  async state(channel, user, wanted = () => true) {
    const isThere = (set) => set.has(user) && wanted(decode(set.get(user)));
    const set = await this.set(`state of ${user} in ${channel}`, channel, isThere);
    return decode(set.get(user));
  }

  hasLeft(channel, user) {
    const isLeave = ({ type, body }) => type === LEAVE && body[0] === channel && body[1] === user;
    return until(`leave of ${user} from ${channel}`, () => this.received.some(isLeave));
  }

  close() {
    this.#socket.destroySoon();
  }

  #receive(data) {
    this.#bytes = Buffer.concat([this.#bytes, data]);
    while (this.#bytes.length >= HEADER_BYTES) {
      const end = HEADER_BYTES + this.#bytes.readUInt32LE(2);
      if (this.#bytes.length < end) return;
      const body = decode(this.#bytes.subarray(HEADER_BYTES, end));
      this.received.push({ type: this.#bytes.readUInt8(1), body });
      this.#bytes = this.#bytes.subarray(end);
    }
  }
}
