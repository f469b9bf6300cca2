// A TCP proxy between client and server that misbehaves on demand.

import { createServer, connect } from 'node:net';
import { once } from 'node:events';

const UPGRADE = /\r\nupgrade: websocket/i;
const FORBIDDEN = 'HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n';

export class Proxy {
  /** Connections accepted so far, those that were refused included. */
  connections = 0;
  bytesUp = 0;
  bytesDown = 0;
  /** Where new connections go. */
  target;
  #mode = 'pass';
  #stalled = false;
  #sockets = new Set();
  #listener;

  static async start(target) {
    const proxy = new Proxy();
    proxy.target = target;
    proxy.#listener = createServer({ noDelay: true }, (client) => proxy.#accept(client));
    proxy.#listener.listen(0, '127.0.0.1');
    await once(proxy.#listener, 'listening');
    return proxy;
  }

  get port() {
    return this.#listener.address().port;
  }

  get ws() {
    return `ws://127.0.0.1:${this.port}`;
  }

  get http() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Resets every connection, both ends. */
  cut() {
    this.#sockets.forEach(reset);
  }

  /** Resets every connection and whoever connects, until `accept`. */
  refuse() {
    this.#mode = 'refuse';
    this.cut();
  }

  /** Answers WebSocket upgrades with 403, as a middlebox does; other requests pass. */
  refuseUpgrades() {
    this.#mode = 'no upgrades';
  }

  accept() {
    this.#mode = 'pass';
  }

  /** Reads nothing more from either end. */
  stall() {
    this.#stalled = true;
    for (const socket of this.#sockets) socket.pause();
  }

  resume() {
    this.#stalled = false;
    for (const socket of this.#sockets) socket.resume();
  }

  async close() {
    this.refuse();
    this.#listener.close();
    await once(this.#listener, 'close');
  }

  #accept(client) {
    this.connections += 1;
    this.#keep(client);
    if (this.#mode === 'refuse') {
      reset(client);
    } else if (this.#mode === 'no upgrades') {
      client.once('data', (head) => {
        if (UPGRADE.test(head.toString('latin1'))) client.end(FORBIDDEN);
        else this.#join(client, head);
      });
    } else {
      this.#join(client);
    }
  }

  #join(client, head) {
    const server = connect({ port: this.target, host: '127.0.0.1', noDelay: true });
    this.#keep(server);
    if (head) server.write(head);
    client.on('data', (data) => {
      this.bytesUp += data.length;
      forward(data, client, server);
    });
    server.on('data', (data) => {
      this.bytesDown += data.length;
      forward(data, server, client);
    });
    for (const [from, to] of [[client, server], [server, client]]) {
      from.on('drain', () => this.#stalled || to.resume());
      from.on('end', () => to.end());
      from.on('close', (failed) => (failed ? reset(to) : to.destroySoon()));
      if (this.#stalled) from.pause();
    }
  }

  #keep(socket) {
    this.#sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => this.#sockets.delete(socket));
  }
}

/** RST, unless the connection is ending: resetting it then makes Node 20 spin at its exit. */
function reset(socket) {
  if (socket.writableEnded) socket.destroy();
  else socket.resetAndDestroy();
}

/** With back pressure: what cannot be passed on is not read. */
function forward(data, from, to) {
  if (!to.write(data)) from.pause();
}
