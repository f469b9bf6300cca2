// A client that says exactly what it is told to, over a WebSocket of its own.

import { WebSocket } from 'ws';
import { BINARY } from './wire.mjs';
import { until, within } from './wait.mjs';

const ANSWERS = ['ack', 'err', 'histRes', 'fetchRes'];

export class RawClient {
  /** What came and was not asked for yet, oldest first. */
  received = [];
  /** Length of every message that came. */
  messageBytes = [];
  /** `{ code, reason }` once the connection has ended. */
  end = null;
  #codec;
  #socket;
  #lastId = 0;
  #failure = null;

  /** Opens a WebSocket and says nothing. */
  static async open(url, codec = BINARY) {
    const client = new RawClient();
    client.#codec = codec;
    client.#socket = new WebSocket(url);
    const socket = client.#socket;
    socket.on('message', (data, isBinary) => client.#receive(data, isBinary));
    socket.on('close', (code, reason) => {
      client.end = { code, reason: reason.toString() };
    });
    const opened = new Promise((resolve, reject) => {
      socket.on('open', resolve);
      socket.on('error', reject);
    });
    await within('open WebSocket', opened);
    return client;
  }

  /** One message with these frames; over JSON exactly one frame. A Buffer is a bare record. */
  send(...frames) {
    this.#socket.send(this.#codec.encode(...frames));
  }

  /** One message as it is; a string is a text message. */
  sendMessage(data) {
    this.#socket.send(data);
  }

  /** One binary message in several WebSocket frames. */
  sendFragments(parts) {
    parts.forEach((part, at) => this.#socket.send(part, { fin: at === parts.length - 1 }));
  }

  /** A WebSocket ping; true once it is answered. */
  ping() {
    const pong = new Promise((resolve) => this.#socket.once('pong', () => resolve(true)));
    this.#socket.ping();
    return within('WebSocket pong', pong);
  }

  /** Sends `frame` with a fresh id, and gives the answer. */
  ask(frame) {
    this.#lastId += 1;
    this.send({ ...frame, id: this.#lastId });
    return this.answer(this.#lastId);
  }

  /** The answer to a request. */
  answer(id) {
    const isAnswer = (frame) => ANSWERS.includes(frame.t) && frame.id === id;
    return this.next(`answer to request ${id}`, isAnswer);
  }

  /** The next frame that `matches`; others before it are kept. */
  next(what, matches = () => true, ms) {
    const describe = () => `${what}; ${this.#story()}`;
    return until(describe, () => this.#take(matches), ms);
  }

  nextOfType(t) {
    return this.next(t, (frame) => frame.t === t);
  }

  /** The next message of a channel. */
  message(channel) {
    return this.next(`message in ${channel}`, (f) => f.t === 'msg' && f.channel === channel);
  }

  /** Everything of a type that has come, in order, taken away. */
  takeAll(t) {
    const taken = this.received.filter((frame) => frame.t === t);
    this.received = this.received.filter((frame) => frame.t !== t);
    return taken;
  }

  /** The connection is alive, and everything sent before was dealt with. */
  async expectAlive() {
    this.send({ t: 'ping' });
    await this.nextOfType('pong');
  }

  /** How the connection ended. */
  ended(ms) {
    return until(() => `end of the connection; ${this.#story()}`, () => this.end, ms);
  }

  /** The WebSocket goodbye; true once it is answered. */
  async close() {
    this.#socket.close(1000);
    await this.ended();
  }

  /** Leaves without a goodbye: TCP RST. */
  vanish() {
    this.#socket._socket.resetAndDestroy();
  }

  abandon() {
    this.#socket.terminate();
  }

  #receive(data, isBinary) {
    this.messageBytes.push(data.length);
    try {
      this.received.push(...this.#codec.decode(data, isBinary));
    } catch (error) {
      this.#failure = error;
    }
  }

  #take(matches) {
    if (this.#failure) throw this.#failure;
    const at = this.received.findIndex(matches);
    return at < 0 ? null : this.received.splice(at, 1)[0];
  }

  #story() {
    const end = this.end ? `ended with ${this.end.code} ${this.end.reason}` : 'still open';
    return `${end}, received ${JSON.stringify(this.received).slice(0, 600)}`;
  }
}
