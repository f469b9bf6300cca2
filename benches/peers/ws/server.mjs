// A broadcast server on `ws`, as one would write it: a map of channels, and `send` to everybody in
// one. It speaks what the load generator needs of the Foony protocol's binary records (auth, sub,
// pub, ping), so that every WebSocket server is measured with the same bytes.
import { WebSocketServer } from 'ws';

const AUTH = 1, SUBSCRIBE = 2, PUBLISH = 4, PING = 10;
const CONNECTED = 11, ACK = 12, DELIVERY = 13, PONG = 16;
const channels = new Map(); // name -> { serial, subscribers }

class Reader {
  constructor(bytes) { this.bytes = bytes; this.at = 0; }
  number() {
    for (let value = 0, scale = 1; ; scale *= 128) {
      const byte = this.bytes[this.at++];
      value += (byte & 127) * scale;
      if (!(byte & 128)) return value;
    }
  }
  field() { const length = this.number(); return this.bytes.subarray(this.at, this.at += length); }
}

function number(value) {
  const bytes = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  bytes.push(value);
  return Buffer.from(bytes);
}
const field = (bytes) => Buffer.concat([number(bytes.length), bytes]);
const record = (...parts) => field(Buffer.concat(parts));

function channelOf(name) {
  const key = name.toString();
  if (!channels.has(key)) channels.set(key, { serial: 0, subscribers: new Set() });
  return channels.get(key);
}

function carryOut(socket, request) {
  const opcode = request.bytes[request.at++];
  if (opcode === AUTH) return record(Buffer.from([CONNECTED]), field(Buffer.from('c')), number(15000), field(Buffer.from('s')));
  if (opcode === PING) return record(Buffer.from([PONG]));
  if (opcode === PUBLISH) request.at += 1; // flags
  const id = request.number();
  if (opcode === SUBSCRIBE) {
    request.number(); // cursor
    const channel = channelOf(request.field());
    channel.subscribers.add(socket);
    socket.on('close', () => channel.subscribers.delete(socket));
    return record(Buffer.from([ACK, 0]), number(id), number(0));
  }
  if (opcode !== PUBLISH) throw new Error(`unknown opcode ${opcode}`);
  let [channelName, name, data, encoding, messageId] = Array.from({ length: 5 }, () => request.field());
  request.number(); // reserved
  // SDKs publish a batch of one, beside which the other fields mean nothing.
  if (request.number() === 1) [name, data, encoding] = Array.from({ length: 3 }, () => request.field());
  const channel = channelOf(channelName);
  const serial = number(++channel.serial);
  const delivery = record(Buffer.from([DELIVERY, 1, 0]), number(Date.now()), field(channelName), field(name), field(data),
    field(messageId), field(Buffer.from('p')), field(encoding), serial);
  for (const subscriber of channel.subscribers) subscriber.send(delivery);
  return record(Buffer.from([ACK, 0]), number(id), serial);
}

const server = new WebSocketServer({ host: '127.0.0.1', port: 0, clientTracking: false });
server.on('connection', (socket) => {
  socket.on('error', () => socket.terminate());
  socket.on('message', (message) => {
    const records = new Reader(message), answers = [];
    while (records.at < message.length) answers.push(carryOut(socket, new Reader(records.field())));
    socket.send(Buffer.concat(answers));
  });
});
server.on('listening', () => console.log(`ready http=127.0.0.1:${server.address().port}`));
