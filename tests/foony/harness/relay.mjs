// A proxy that understands WebSocket messages and can lose one on its way to the client.

import { once } from 'node:events';
import { WebSocket, WebSocketServer } from 'ws';
import { framed, recordsOf } from './wire.mjs';

const OPTIONS = { perMessageDeflate: false };

export class Relay {
  #listener;
  #filter = () => true;

  static async start(url) {
    const relay = new Relay();
    relay.#listener = new WebSocketServer({ port: 0, host: '127.0.0.1', ...OPTIONS });
    relay.#listener.on('connection', (client) => relay.#join(client, url));
    await once(relay.#listener, 'listening');
    return relay;
  }

  get ws() {
    return `ws://127.0.0.1:${this.#listener.address().port}`;
  }

  /** Passes on only the records of the server for which `filter(opcode, record)` is true. */
  only(filter) {
    this.#filter = filter;
  }

  /** Ends every connection without a goodbye. */
  cut() {
    for (const client of this.#listener.clients) client.terminate();
  }

  async close() {
    this.cut();
    this.#listener.close();
    await once(this.#listener, 'close');
  }

  #join(client, url) {
    const server = new WebSocket(url, OPTIONS);
    const early = [];
    client.on('message', (data) => early.push(data));
    server.on('open', () => {
      client.removeAllListeners('message');
      client.on('message', (data) => server.send(data));
      early.forEach((data) => server.send(data));
    });
    server.on('message', (data) => {
      const kept = recordsOf(data).filter((record) => this.#filter(record[0], record));
      if (kept.length > 0) client.send(framed(...kept));
    });
    server.on('error', () => client.terminate());
    server.on('close', () => client.close());
    client.on('close', () => server.terminate());
  }
}
