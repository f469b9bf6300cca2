// What a credential permits (foony.md section 4).

import assert from 'node:assert/strict';
import { checks } from './harness/scene.mjs';
import { refused, settled, subscribed, watched } from './harness/sdk.mjs';
import { KEYS, credential } from './harness/server.mjs';
import { token } from './harness/token.mjs';

/** A client whose token permits this. */
const permitted = (scene, capability) =>
  scene.connected('', { token: token('eve', { capability }) });

/** One request of each kind, by the operation that it needs. */
const REQUESTS = {
  subscribe: (channel) => channel.attach(),
  publish: (channel) => channel.publish('n', 1),
  history: (channel) => channel.history(),
  presence: (channel) => channel.presence.enter({}),
};
const OPERATIONS = Object.keys(REQUESTS);

checks('capabilities', ({ once, each }) => {
  for (const operation of OPERATIONS) {
    each(`${operation} is refused with 40301 where only that is lacking`, async (scene) => {
      const room = scene.name();
      const others = OPERATIONS.filter((other) => other !== operation);
      const channel = (await permitted(scene, { [room]: others })).channels.get(room);
      await refused(REQUESTS[operation](channel), 40301);
      // Presence attaches first, so without `subscribe` the SDK cannot enter.
      const possible = others.filter((other) => operation !== 'subscribe' || other !== 'presence');
      for (const other of possible) await REQUESTS[other](channel);
    });

    each(`${operation} in a channel that is not granted is refused with 40302`, async (scene) => {
      const room = scene.name();
      const client = await permitted(scene, { [room]: ['*'] });
      await refused(REQUESTS[operation](client.channels.get(`${room}:below`)), 40302);
      await REQUESTS[operation](client.channels.get(room));
    });
  }

  each('a channel whose subscription is refused is failed', async (scene) => {
    const channel = (await permitted(scene, { nothing: ['*'] })).channels.get(scene.name());
    await assert.rejects(channel.attach());
    assert.equal(channel.state, 'failed');
  });

  each('a refusal leaves the other channels of the connection alone', async (scene) => {
    const room = scene.name();
    const client = await permitted(scene, { [room]: ['*'] });
    const { channel, inbox } = await subscribed(client, room);
    await assert.rejects(client.channels.get('closed').attach());
    await assert.rejects(client.channels.get('closed').publish('n', 1));
    await channel.publish('n', 'still here');
    await inbox.first(1);
    assert.equal(client.getState(), 'connected');
  });

  each('a prefix grants what is below it, however deep, and not itself', async (scene) => {
    const prefix = scene.name('tenant');
    const client = await permitted(scene, { [`${prefix}:*`]: ['publish'] });
    for (const below of ['a', 'a:b:c', '-', 'a:']) {
      await client.channels.get(`${prefix}:${below}`).publish('n', 1);
    }
    for (const other of [prefix, `${prefix}x`, `x${prefix}:a`]) {
      await refused(client.channels.get(other).publish('n', 1), 40302);
    }
  });

  each('what several entries grant is added up', async (scene) => {
    const room = scene.name();
    const grants = { '*': ['history'], [room]: ['publish'], 'room:*': ['subscribe'] };
    const channel = (await permitted(scene, grants)).channels.get(room);
    await channel.attach();
    await channel.publish('n', 1);
    await channel.history();
    await refused(channel.presence.enter(), 40301);
  });

  each('a key is held to its own capability', async (scene) => {
    const client = await scene.connected('narrow', { key: credential(KEYS.narrow) });
    const open = client.channels.get(scene.name('open'));
    await open.attach();
    await open.presence.enter();
    await open.publish('n', 1);
    const hear = client.channels.get(scene.name('hear'));
    await hear.attach();
    await refused(hear.publish('n', 1), 40301);
    const speak = client.channels.get(scene.name('speak'));
    await speak.publish('n', 1);
    await refused(speak.attach(), 40301);
    await refused(client.channels.get(scene.name('closed')).publish('n', 1), 40302);
  });

  each('who may listen and not enter sees messages and is not present', async (scene) => {
    const room = scene.name();
    const { channel, watch } = await watched(await scene.connected('alice'), room);
    const listener = await permitted(scene, { [room]: ['subscribe'] });
    const { inbox, channel: heard } = await subscribed(listener, room);
    await refused(heard.presence.enter(), 40301);
    await channel.publish('n', 1);
    await inbox.first(1);
    await settled(channel);
    assert.equal(watch.events.length, 0);
  });

  each('a publisher is who its token says', async (scene) => {
    const room = scene.name();
    const { inbox } = await subscribed(await scene.connected('alice'), room);
    const eve = scene.realtime({ token: token('eve'), clientId: 'alice' });
    await eve.channels.get(room).publish('n', 1);
    const [message] = await inbox.first(1);
    assert.equal(message.clientId, 'eve');
    assert.equal(eve.getClientId(), 'eve');
  });

  once('presence events are refused to those without presence', async (scene) => {
    const room = scene.name();
    const without = token('eve', { capability: { [room]: ['subscribe', 'publish', 'history'] } });
    const client = await scene.raw('', { token: without });
    assert.equal((await client.ask({ t: 'presSub', channel: room })).code, 40301);
    assert.equal((await client.ask({ t: 'presSub', channel: 'other' })).code, 40302);
  });

  once('a fetch needs the capability to subscribe', async (scene) => {
    const room = scene.name();
    const without = token('eve', { capability: { [room]: ['publish', 'history', 'presence'] } });
    const client = await scene.raw('', { token: without });
    const fetch = { t: 'fetch', channel: room, fromSerial: 1 };
    assert.equal((await client.ask(fetch)).code, 40301);
    assert.equal((await client.ask({ ...fetch, channel: 'other' })).code, 40302);
  });
});
