// Both codecs of the protocol, written from foony.md sections 2 and 3: frames as the objects that
// the SDK uses, `{ t: 'sub', id: 1, channel: 'room' }`.

const OPCODES = {
  auth: 1, sub: 2, unsub: 3, pub: 4, pres: 5, presSub: 6, presUnsub: 7, hist: 8, fetch: 9, ping: 10,
};
const ACTIONS = ['enter', 'enter', 'leave', 'update'];

/** Bytes that are sent where JSON text belongs. */
export class RawJson {
  constructor(text) {
    this.bytes = Buffer.from(text);
  }
}

export function uvarint(value) {
  const bytes = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Buffer.from([...bytes, value]);
}

const prefixed = (bytes) => Buffer.concat([uvarint(bytes.length), bytes]);
const text = (value = '') => prefixed(Buffer.from(value));

function json(value) {
  if (value instanceof RawJson) return prefixed(value.bytes);
  return text(value === undefined ? '' : JSON.stringify(value));
}

const member = ({ name, data, encoding }) => [text(name), json(data), text(encoding)];

const FIELDS = {
  auth: (f) => [[0], text(f.token), text(f.key), text(f.clientId), text(f.resumeConnectionId)],
  sub: (f) => [uvarint(f.id), uvarint(f.lastSerial ?? 0), text(f.channel)],
  pub(f) {
    const members = f.messages ?? [];
    return [
      [f.ephemeral ? 1 : 0], uvarint(f.id), text(f.channel), ...member(f), text(f.messageId),
      [0], uvarint(members.length), ...members.flatMap(member),
    ];
  },
  pres(f) {
    const action = [ACTIONS.lastIndexOf(f.action)];
    return [action, uvarint(f.id), text(f.channel), json(f.data), text(f.encoding)];
  },
  hist(f) {
    return [uvarint(f.id), uvarint(f.limit ?? 0), text(f.channel), uvarint(f.before ?? 0)];
  },
  fetch: (f) => [uvarint(f.id), uvarint(f.fromSerial), text(f.channel)],
  ping: () => [],
};
const idAndChannel = (f) => [uvarint(f.id), text(f.channel)];

/** One record, without its length. */
export function record(frame) {
  const fields = (FIELDS[frame.t] ?? idAndChannel)(frame);
  return Buffer.concat([[OPCODES[frame.t]], ...fields].map((field) => Buffer.from(field)));
}

class Reader {
  at = 0;

  constructor(bytes) {
    this.bytes = bytes;
  }

  get done() {
    return this.at >= this.bytes.length;
  }

  byte() {
    if (this.done) throw new Error('a record ends too soon');
    return this.bytes[this.at++];
  }

  uvarint() {
    for (let value = 0, scale = 1; ; scale *= 128) {
      const byte = this.byte();
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  }

  take() {
    const length = this.uvarint();
    const taken = this.bytes.subarray(this.at, this.at + length);
    if (taken.length < length) throw new Error('a field ends too soon');
    this.at += length;
    return taken;
  }

  text() {
    return this.take().toString('utf8');
  }

  json() {
    const bytes = this.take();
    return bytes.length === 0 ? undefined : JSON.parse(bytes.toString('utf8'));
  }

  times(count, read) {
    return Array.from({ length: count }, read);
  }
}

const part = (r) => ({ name: r.text(), data: r.json(), encoding: r.text() });

function batch(r) {
  const head = { timestamp: r.uvarint(), channel: r.text(), messageId: r.text() };
  Object.assign(head, { clientId: r.text(), seq: r.uvarint(), name: '' });
  return { t: 'msg', ...head, messages: r.times(r.uvarint(), () => part(r)) };
}

function message(r) {
  const flags = r.byte();
  const ephemeral = (flags & 1) !== 0;
  if (flags & 2) return { ...batch(r), ephemeral };
  const head = { t: 'msg', timestamp: r.uvarint(), channel: r.text(), name: r.text() };
  const content = { data: r.json(), messageId: r.text(), clientId: r.text(), encoding: r.text() };
  return { ...head, ...content, seq: r.uvarint(), ephemeral };
}

function bundle(r) {
  const messages = r.times(r.uvarint(), () => message(r));
  if (messages.length === 1) return messages[0];
  return { t: 'msg', channel: messages.at(-1)?.channel, bundle: messages };
}

const EVENTS = {
  11: (r) => ({
    t: 'connected', connectionId: r.text(), keepAliveMs: r.uvarint(), clientId: r.text(),
  }),
  12(r) {
    const flags = r.byte();
    const ack = { t: 'ack', id: r.uvarint(), seq: r.uvarint() };
    return flags & 1 ? { ...ack, resumed: (flags & 2) !== 0 } : ack;
  },
  13: bundle,
  14(r) {
    const head = { t: 'presEvt', action: ACTIONS[r.byte()] ?? 'enter', timestamp: r.uvarint() };
    const who = { channel: r.text(), clientId: r.text(), connectionId: r.text() };
    return { ...head, ...who, data: r.json(), encoding: r.text() };
  },
  15: (r) => ({ t: 'err', id: r.uvarint(), code: r.uvarint(), message: r.text() }),
  16: () => ({ t: 'pong' }),
  17(r) {
    const more = (r.byte() & 1) !== 0;
    return { t: 'histRes', ...page(r), more };
  },
  18(r) {
    const resumed = (r.byte() & 1) !== 0;
    return { t: 'fetchRes', ...page(r), resumed };
  },
  19(r) {
    const ephemeral = (r.byte() & 1) !== 0;
    return { ...batch(r), ephemeral };
  },
};

function page(r) {
  const head = { id: r.uvarint(), channel: r.text() };
  return { ...head, messages: r.times(r.uvarint(), () => message(r)) };
}

/** Absent text is empty and an absent number 0 on the wire; here they are left out. */
function tidy(value) {
  if (Array.isArray(value)) return value.map(tidy);
  const kept = Object.entries(value).filter(([key, item]) => !isAbsent(key, item));
  return Object.fromEntries(kept.map(([key, item]) => [key, isNested(key) ? tidy(item) : item]));
}

const isNested = (key) => key === 'messages' || key === 'bundle';
const isAbsent = (key, item) =>
  item === undefined ||
  ((key === 'clientId' || key === 'encoding') && item === '') ||
  (key === 'seq' && item === 0) ||
  ((key === 'ephemeral' || key === 'more') && item === false);

/** The records of a message, without their lengths. */
export function recordsOf(bytes) {
  const reader = new Reader(bytes);
  const records = [];
  while (!reader.done) records.push(reader.take());
  return records;
}

function event(bytes) {
  const reader = new Reader(bytes);
  const opcode = reader.byte();
  if (!EVENTS[opcode]) throw new Error(`opcode ${opcode} is not one of a server`);
  return tidy(EVENTS[opcode](reader));
}

/** Records with their lengths, joined to one message. A Buffer is a record already made. */
export function framed(...frames) {
  const records = frames.map((frame) => (Buffer.isBuffer(frame) ? frame : record(frame)));
  return Buffer.concat(records.map(prefixed));
}

/** SDK 0.12.1 and later. Strict: a message with a record that is not whole is an error. */
export const BINARY = {
  encode: framed,
  decode: (data, isBinary) => {
    if (!isBinary) throw new Error(`text where binary belongs: ${data}`);
    return recordsOf(data).map(event);
  },
};

/** SDK 0.0.1 to 0.12.0: one object per text message. */
export const JSON_TEXT = {
  encode: (frame) => (typeof frame === 'string' ? frame : JSON.stringify(frame)),
  decode: (data, isBinary) => {
    if (isBinary) throw new Error(`binary where text belongs: ${data.toString('hex')}`);
    return [JSON.parse(data.toString('utf8'))];
  },
};
