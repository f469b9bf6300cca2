// The real packages, and how the tests speak about their versions.

import assert from 'node:assert/strict';
import { until, within } from './wait.mjs';

const VERSIONS = ['0.14.0', '0.15.2', '0.16.0'];

export const SDKS = await Promise.all(
  VERSIONS.map(async (version) => ({ version, ...(await import(`sdk-${version}`)) })),
);

/** Fast enough for tests; the doubling stays. */
export const QUICK = { initialReconnectDelayMs: 20, maxReconnectDelayMs: 200 };

/**
 * An object of an SDK as it is, but that whoever waits for its promises does not wait for ever:
 * the SDKs would.
 */
export function bounded(object, sdk) {
  const isOfTheSdk = (value) => Object.values(sdk).includes(value?.constructor);
  const wrap = (value, key) => {
    if (value instanceof Promise) return given(within(`answer to ${key}`, value), key);
    return isOfTheSdk(value) || key === 'channels' ? bounded(value, sdk) : value;
  };
  const given = (promise, key) => {
    const wrapped = promise.then((value) => wrap(value, key));
    wrapped.catch(() => {}); // Not everything that is begun is waited for.
    return wrapped;
  };
  return new Proxy(object, {
    get(_, key) {
      const value = object[key];
      if (typeof value !== 'function') return wrap(value, key);
      return (...args) => wrap(value.apply(object, args), key);
    },
  });
}

/** Listens to a channel and keeps what comes, in order. */
export class Inbox {
  messages = [];

  constructor(channel, events) {
    const keep = (message) => this.messages.push(message);
    this.stop = events === undefined ? channel.subscribe(keep) : channel.subscribe(events, keep);
  }

  get data() {
    return this.messages.map((message) => message.data);
  }

  /** The first `count` messages, once there are so many; patient as long as more come. */
  async first(count) {
    const what = () => `message ${count}, got ${JSON.stringify(this.data).slice(0, 400)}`;
    for (let had = this.messages.length; had < count; had = this.messages.length) {
      await until(what, () => this.messages.length > had);
    }
    return this.messages.slice(0, count);
  }
}

/** An attached channel and what comes in it. */
export async function subscribed(client, name, options) {
  const channel = client.channels.get(name, options);
  const inbox = new Inbox(channel);
  await channel.attach();
  return { channel, inbox };
}

/** Watches the presence of a channel and keeps the events, in order. */
export class Watch {
  events = [];
  #seen = 0;

  constructor(channel) {
    channel.presence.on((event) => this.events.push(event));
  }

  /** The next event, which must be this one; gives it. */
  async next(action, clientId) {
    const what = () => `${action} of ${clientId}, got ${this.story}`;
    const event = await until(what, () => this.events[this.#seen]);
    assert.deepEqual([event.action, event.clientId], [action, clientId], this.story);
    this.#seen += 1;
    return event;
  }

  /** The first event of this kind, whatever comes besides. */
  find(action, clientId) {
    const is = (event) => event.action === action && event.clientId === clientId;
    return until(() => `${action} of ${clientId}, got ${this.story}`, () => this.events.find(is));
  }

  /** Members by what the events say: connection id -> event. */
  get members() {
    const members = new Map();
    for (const event of this.events) {
      if (event.action === 'leave') members.delete(event.connectionId);
      else members.set(event.connectionId, event);
    }
    return members;
  }

  get story() {
    const told = this.events.map(({ action, clientId, data }) => [action, clientId, data]);
    return JSON.stringify(told).slice(0, 600);
  }
}

/** A channel whose presence is watched from here on. */
export async function watched(client, name, options) {
  const channel = client.channels.get(name, options);
  await channel.attach();
  const watch = new Watch(channel);
  await settled(channel);
  return { channel, watch };
}

/**
 * What was asked on this connection about this channel is done, and its effects have arrived: a
 * connection is answered in order.
 */
export async function settled(channel) {
  await channel.history({ limit: 1 });
}

/** The refusal must have this code, which some SDK errors have only in their text. */
export async function refused(promise, code) {
  await assert.rejects(promise, (error) => {
    const found = error.code ?? Number(error.message.match(/\b(\d{5})\b/)?.[1]);
    assert.equal(found, code, error.message);
    return true;
  });
}

/** Waits for a state of a connection. */
export const inState = (client, state) =>
  until(() => `state ${state}, it is ${client.getState()}`, () => client.getState() === state);

/** Whole numbers from `first` to `last`. */
export const range = (first, last) => Array.from({ length: last - first + 1 }, (_, i) => first + i);
