// The SDKs where WebSockets are not to be had (foony.md section 1.2).

import assert from 'node:assert/strict';
import { checks } from './harness/scene.mjs';
import { inState, range, refused, subscribed, watched } from './harness/sdk.mjs';
import { token } from './harness/token.mjs';
import { until } from './harness/wait.mjs';

const SINCE = { since: '0.15.2' };

/** A connected client that polls. */
const polling = (scene, clientId, options) =>
  scene.connected(clientId, { transport: 'long-polling', ...options });

/** A fetch that keeps the paths it was asked for. */
function spy() {
  const paths = [];
  const spying = (url, init) => {
    paths.push(new URL(url).pathname);
    return fetch(url, init);
  };
  return { paths, fetch: spying };
}

checks('long polling', ({ each }) => {
  each('a client connects, with a key and with a token', async (scene) => {
    assert.equal((await polling(scene, 'alice')).getClientId(), 'alice');
    const bob = await polling(scene, '', { token: token('bob') });
    assert.equal(bob.getClientId(), 'bob');
  }, SINCE);

  for (const [code, options] of [
    [40101, { key: 'demo.kid_main:wrong' }],
    [40101, { token: token('eve', { secret: 'wrong' }) }],
    [40102, { token: token('eve', { seconds: -60 }) }],
  ]) {
    each(`a bad ${Object.keys(options)[0]} ends in failed with ${code}`, async (scene) => {
      const client = scene.realtime({ transport: 'long-polling', ...options });
      await assert.rejects(client.connect(), new RegExp(`${code}`));
      await inState(client, 'failed');
    }, SINCE);
  }

  each('messages go both ways between polling and WebSocket', async (scene) => {
    const room = scene.name();
    const slow = await subscribed(await polling(scene, 'poller'), room);
    const fast = await subscribed(await scene.connected('socket'), room);
    await slow.channel.publish('n', 'from the poller');
    await fast.inbox.first(1);
    await fast.channel.publish('n', 'from the socket');
    for (const { inbox } of [slow, fast]) {
      await inbox.first(2);
      assert.deepEqual(inbox.data, ['from the poller', 'from the socket']);
      assert.deepEqual(inbox.messages.map(({ seq }) => seq), [1, 2]);
    }
  }, SINCE);

  each('bursts arrive in order and once, both ways', async (scene) => {
    const room = scene.name();
    const slow = await subscribed(await polling(scene, 'poller'), room);
    await Promise.all(range(1, 300).map((i) => slow.channel.publish('n', i)));
    const fast = (await scene.connected('socket')).channels.get(room);
    for (const i of range(301, 500)) await fast.publish('n', i);
    await slow.inbox.first(500);
    assert.deepEqual(slow.inbox.data, range(1, 500));
  }, SINCE);

  each('a large message goes both ways', async (scene) => {
    const { channel, inbox } = await subscribed(await polling(scene, 'poller'), scene.name());
    const data = 'ü'.repeat(100 * 1024);
    await channel.publish('n', data);
    await inbox.first(1);
    assert.deepEqual(inbox.data, [data]);
    await refused(channel.publish('n', data + data), 40001);
    assert.equal((await channel.history()).messages[0].data, data);
  }, SINCE);

  each('ephemeral messages, batches and history work', async (scene) => {
    const { channel, inbox } = await subscribed(await polling(scene, 'poller'), scene.name());
    await channel.publish([{ name: 'a', data: 1 }, { name: 'b', data: 2 }]);
    await channel.publish('n', 'gone', { ephemeral: true });
    await inbox.first(3);
    const { messages } = await channel.history();
    assert.deepEqual(messages.map(({ data }) => data), [1, 2]);
  }, SINCE);

  each('presence is seen and shown', async (scene) => {
    const room = scene.name();
    const alice = await watched(await polling(scene, 'alice'), room);
    await alice.channel.presence.enter({ n: 1 });
    await alice.watch.next('enter', 'alice');
    const bob = await watched(await scene.connected('bob'), room);
    assert.deepEqual((await bob.watch.next('enter', 'alice')).data, { n: 1 });
    await bob.channel.presence.enter();
    await alice.watch.next('enter', 'bob');
    await alice.channel.presence.update(2);
    await bob.watch.find('update', 'alice');
    await bob.channel.presence.leave();
    await alice.watch.find('leave', 'bob');
  }, SINCE);

  each('a client that closes leaves at once', async (scene) => {
    const room = scene.name('patient');
    const { watch } = await watched(await scene.connected('watcher'), room);
    const client = await polling(scene, 'alice');
    await client.channels.get(room).presence.enter('bye');
    await watch.next('enter', 'alice');
    await client.close();
    assert.equal((await watch.next('leave', 'alice')).data, 'bye');
  }, SINCE);

  each('a client whose requests are cut misses nothing and stays present', async (scene) => {
    const [room, proxy] = [scene.name('grace'), await scene.proxy()];
    const { watch } = await watched(await scene.connected('watcher'), room);
    const client = await polling(scene, 'alice', { endpoint: proxy.http });
    const { channel, inbox } = await subscribed(client, room);
    await channel.presence.enter();
    await watch.next('enter', 'alice');
    const id = client.getConnectionId();
    const speaker = (await scene.connected('speaker')).channels.get(room);
    for (const i of range(1, 60)) {
      await speaker.publish('n', i);
      if (i % 20 === 10) proxy.cut();
      if (i % 20 === 0) await inbox.first(i);
    }
    assert.deepEqual(inbox.data, range(1, 60));
    assert.equal(client.getConnectionId(), id);
    await channel.presence.update('still here');
    await watch.next('update', 'alice');
    assert.equal(watch.events.length, 2, watch.story);
  }, SINCE);

  each('what is in flight during a cut is published exactly once', async (scene) => {
    const [room, proxy] = [scene.name(), await scene.proxy()];
    const { inbox } = await subscribed(await scene.connected('listener'), room);
    const client = await polling(scene, 'speaker', { endpoint: proxy.http });
    const speaker = client.channels.get(room);
    for (const part of range(0, 4)) {
      const numbers = range(20 * part + 1, 20 * part + 20);
      const published = numbers.map((i) => speaker.publish([{ name: 'n', data: i }]));
      await until('first of them', () => inbox.messages.length > 20 * part);
      proxy.cut();
      await Promise.all(published);
    }
    await inbox.first(100);
    assert.deepEqual(inbox.data, range(1, 100));
  }, SINCE);

  each('a client whose WebSocket is refused falls back to polling by itself', async (scene) => {
    const [room, proxy] = [scene.name(), await scene.proxy()];
    proxy.refuseUpgrades();
    const { paths, fetch } = spy();
    const client = await scene.connected('alice', { endpoint: proxy.ws, fetch });
    assert.equal(paths[0], '/lp/connect');
    const { channel, inbox } = await subscribed(client, room);
    await channel.publish('n', 1);
    await inbox.first(1);
    await client.close();
    await until('goodbye', () => paths.includes('/lp/disconnect'));
  }, SINCE);

  each('a client that may choose takes the WebSocket', async (scene) => {
    const { paths, fetch } = spy();
    const client = await scene.connected('alice', { fetch });
    await client.channels.get(scene.name()).publish('n', 1);
    assert.deepEqual(paths, []);
  }, SINCE);

  each('a client that was told to use WebSockets does not fall back', async (scene) => {
    const proxy = await scene.proxy();
    proxy.refuseUpgrades();
    const { paths, fetch } = spy();
    const options = { endpoint: proxy.ws, fetch, transport: 'websocket' };
    const client = scene.realtime({ clientId: 'alice', ...options });
    await assert.rejects(client.connect());
    proxy.accept();
    await inState(client, 'connected');
    assert.deepEqual(paths, []);
  }, SINCE);

  each('nobody falls back after a refused credential', async (scene) => {
    const { paths, fetch } = spy();
    const client = scene.realtime({ key: 'demo.kid_main:wrong', fetch });
    await assert.rejects(client.connect(), /40101/);
    await inState(client, 'failed');
    assert.deepEqual(paths, []);
  }, SINCE);

  each('an idle poller still hears what comes later', async (scene) => {
    const room = scene.name();
    const { inbox } = await subscribed(await polling(scene, 'poller'), room);
    const speaker = scene.rest().channels.get(room);
    for (const i of range(1, 3)) {
      const sent = Date.now();
      await speaker.publish('n', i);
      await inbox.first(i);
      assert.ok(Date.now() - sent < 2000, 'without waiting for a poll to time out');
    }
  }, SINCE);
});
