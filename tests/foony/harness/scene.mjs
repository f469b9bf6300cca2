// What every test file is made of: one server, and named checks that run at the same time, each
// with clients of its own in channels of its own.

import { after, before, describe, test } from 'node:test';
import { Proxy } from './proxy.mjs';
import { RawClient } from './raw.mjs';
import { Relay } from './relay.mjs';
import { QUICK, SDKS, bounded } from './sdk.mjs';
import { KEYS, Server, credential } from './server.mjs';
import { within } from './wait.mjs';

const CHECK_MS = 60_000;
let scenes = 0;

class Scene {
  #ends = [];
  #number = (scenes += 1);

  constructor(server, sdk) {
    this.server = server;
    this.sdk = sdk;
  }

  /** A channel that no other check uses. */
  name(prefix = 'room') {
    return `${prefix}:${this.#number}`;
  }

  /** A client of the check's SDK with the main key. Any credential replaces the key. */
  realtime({ sdk = this.sdk, ...options } = {}) {
    const hasCredential = options.token ?? options.authCallback;
    const key = hasCredential ? {} : { key: credential(KEYS.main) };
    const client = new sdk.Realtime({ endpoint: this.server.ws, ...QUICK, ...key, ...options });
    this.atEnd(() => client.close());
    return bounded(client, sdk);
  }

  /** A client that is connected as `clientId`. */
  async connected(clientId, options) {
    const client = this.realtime({ clientId, ...options });
    await client.connect();
    return client;
  }

  rest({ sdk = this.sdk, ...options } = {}) {
    const hasCredential = options.token ?? options.authCallback;
    const key = hasCredential ? {} : { key: credential(KEYS.main) };
    return bounded(new sdk.Rest({ endpoint: this.server.http, ...key, ...options }), sdk);
  }

  async proxy() {
    const proxy = await Proxy.start(this.server.port);
    this.atEnd(() => proxy.close());
    return proxy;
  }

  async relay() {
    const relay = await Relay.start(this.server.ws);
    this.atEnd(() => relay.close());
    return relay;
  }

  /** A WebSocket on which nothing was said. */
  async socket(codec, path = '/') {
    const client = await RawClient.open(this.server.ws + path, codec);
    this.atEnd(() => client.abandon());
    return client;
  }

  /** A raw client that is connected with the main key, or as `auth` says. */
  async raw(clientId, { codec, ...auth } = {}) {
    const client = await this.socket(codec);
    const key = auth.token ? {} : { key: credential(KEYS.main), clientId };
    client.send({ t: 'auth', ...key, ...auth });
    client.connected = await client.nextOfType('connected');
    return client;
  }

  /** Does this when the check is over, the last first. */
  atEnd(end) {
    this.#ends.push(end);
  }

  /** Ends everything, whatever fails; gives the outcomes. */
  end() {
    const ending = (end) => within('end of a client or proxy', end());
    return Promise.allSettled(this.#ends.reverse().map(ending));
  }
}

/**
 * Declares checks that share a server and run `together`. `define` is given `once(name, body)` for
 * a check that runs once and `each(name, body, { since })` for one that runs with every SDK from a
 * version on.
 */
export function checks(title, define, { together = 8 } = {}) {
  describe(title, { concurrency: together }, () => {
    let server;
    let isGood = true;
    before(async () => {
      server = await Server.start();
    });
    after(async () => {
      if (server && !isGood) console.error(`log of the server for ${title}:\n${server.log}`);
      await server?.stop();
    });
    const check = (name, body, sdk) =>
      test(name, { timeout: CHECK_MS }, async () => {
        const scene = new Scene(server, sdk);
        const [outcome] = await Promise.allSettled([body(scene)]);
        const outcomes = [outcome, ...(await scene.end())];
        const failure = outcomes.find(({ status }) => status === 'rejected');
        if (failure) {
          isGood = false;
          throw failure.reason;
        }
      });
    define({
      once: (name, body) => check(name, body, SDKS.at(-1)),
      each: (name, body, { since = '' } = {}) => {
        const sdks = SDKS.filter((sdk) => sdk.version >= since);
        sdks.forEach((sdk) => check(`${sdk.version}: ${name}`, body, sdk));
      },
    });
  });
}
