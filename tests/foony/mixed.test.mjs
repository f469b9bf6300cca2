// Clients of every kind in one channel, and channels on every shard (DESIGN: one member set per
// channel, whatever the dialect).

import { encode } from '@msgpack/msgpack';
import assert from 'node:assert/strict';
import { checks } from './harness/scene.mjs';
import { SDKS, range, settled, subscribed, watched } from './harness/sdk.mjs';
import { SyncClient } from './harness/sync.mjs';
import { token } from './harness/token.mjs';
import { until } from './harness/wait.mjs';
import { JSON_TEXT } from './harness/wire.mjs';

const STATES = [
  null, true, false, 0, 1, -1, 127, 128, 255, 256, -32, -33, -128, -129, 65_535, 65_536, -32_769,
  2 ** 31, 2 ** 32, Number.MAX_SAFE_INTEGER, -Number.MAX_SAFE_INTEGER, 1.5, -0.001, 1e300, '', 'ü😀',
  'x'.repeat(31), 'x'.repeat(32), 'x'.repeat(300), 'x'.repeat(40_000), '"\\\n\u0000', [], {},
  range(1, 15), range(1, 16), range(1, 300), [[[]]], { cursor: 7 },
  { a: { b: [1, null, { c: 'd' }] }, '': '', 'ключ': [true, false] },
  Object.fromEntries(range(1, 20).map((i) => [`k${i}`, i])),
];

/** What is no MessagePack, or none that JSON could say. */
const BINARY_STATES = [
  ['bytes that are no MessagePack', Buffer.from('c1ff00', 'hex')],
  ['MessagePack with something behind it', Buffer.from('0001', 'hex')],
  ['MessagePack that is cut short', Buffer.from('92', 'hex')],
  ['a byte string', Buffer.from(encode(new Uint8Array([1, 2, 3])))],
  ['a map with numbers as keys', Buffer.from('810102', 'hex')],
];

async function syncClient(scene, user) {
  const client = await SyncClient.login(scene.server.syncPort, token(user));
  scene.atEnd(() => client.close());
  return client;
}

const names = (set) => [...set.keys()].sort();
const sameSet = (users) => (set) => names(set).join() === [...users].sort().join();

checks('clients of every kind', ({ once, each }) => {
  once('three SDK versions and a sync client see one another in presence', async (scene) => {
    const room = scene.name();
    const users = ['sync', ...SDKS.map(({ version }) => version)];
    const device = await syncClient(scene, 'sync');
    device.update(room, { from: 'sync' });
    const watches = [];
    for (const sdk of SDKS) {
      const client = await scene.connected(sdk.version, { sdk });
      const { channel, watch } = await watched(client, room);
      await channel.presence.enter({ from: sdk.version });
      watches.push(watch);
    }
    for (const watch of watches) {
      const isFull = () => watch.members.size === users.length;
      await until(() => `all members, got ${watch.story}`, isFull);
      const shown = [...watch.members.values()].map(({ clientId, data }) => [clientId, data]);
      assert.deepEqual(shown.sort(), users.map((user) => [user, { from: user }]).sort());
    }
    await device.set('the full set', room, sameSet(users));
    for (const user of users.slice(1)) {
      assert.deepEqual(await device.state(room, user), { from: user });
    }
  });

  each('JSON states arrive on the sync wire as MessagePack, value for value', async (scene) => {
    const room = scene.name();
    const device = await syncClient(scene, 'sync');
    device.update(room, 'here');
    const { presence } = (await scene.connected('alice')).channels.get(room);
    for (const [at, state] of STATES.entries()) {
      await presence.update({ at, state });
      const got = await device.state(room, 'alice', (found) => found.at === at);
      assert.deepEqual(got.state, state);
    }
  });

  each('MessagePack states arrive at the SDK as JSON, value for value', async (scene) => {
    const room = scene.name();
    const { watch } = await watched(await scene.connected('watcher'), room);
    const device = await syncClient(scene, 'sync');
    device.update(room, null);
    assert.equal((await watch.next('enter', 'sync')).data, null);
    for (const state of STATES.slice(1)) {
      device.update(room, state);
      const event = await watch.next('update', 'sync');
      assert.deepEqual([event.data, event.encoding], [state, undefined]);
    }
  });

  each('states that JSON cannot say arrive in base64', async (scene) => {
    const room = scene.name();
    const { watch } = await watched(await scene.connected('watcher'), room);
    const device = await syncClient(scene, 'sync');
    device.update(room, 'first');
    await watch.next('enter', 'sync');
    for (const [what, bytes] of BINARY_STATES) {
      device.update(room, bytes);
      const event = await watch.next('update', 'sync');
      assert.deepEqual([event.data, event.encoding], [bytes.toString('base64'), 'base64'], what);
    }
  });

  each('no state is no state on either side', async (scene) => {
    const room = scene.name();
    const { channel, watch } = await watched(await scene.connected('alice'), room);
    const device = await syncClient(scene, 'sync');
    device.update(room, Buffer.alloc(0));
    assert.equal((await watch.next('enter', 'sync')).data, undefined);
    await channel.presence.enter();
    const set = await device.set('alice', room, (found) => found.has('alice'));
    assert.equal(set.get('alice').length, 0);
  });

  each('who leaves one kind of client leaves the other', async (scene) => {
    const room = scene.name('grace');
    const client = await scene.connected('alice');
    const { channel, watch } = await watched(client, room);
    const devices = [await syncClient(scene, 'one'), await syncClient(scene, 'two')];
    devices[0].update(room, { n: 1 });
    await watch.next('enter', 'one');
    devices[1].update(room, { n: 2 });
    await watch.next('enter', 'two');
    await channel.presence.enter('here');
    await watch.next('enter', 'alice');
    devices[1].leave(room, 'two');
    assert.deepEqual((await watch.next('leave', 'two')).data, { n: 2 });
    await channel.presence.leave();
    await devices[0].hasLeft(room, 'alice');
    await watch.next('leave', 'alice');
    devices[0].close();
    assert.deepEqual((await watch.next('leave', 'one')).data, { n: 1 });
  });

  each('an SDK client that closes leaves the sync client at once', async (scene) => {
    const room = scene.name('patient');
    const device = await syncClient(scene, 'sync');
    device.update(room, 0);
    const client = await scene.connected('alice');
    await client.channels.get(room).presence.enter();
    await device.set('alice', room, (set) => set.has('alice'));
    await client.close();
    await device.hasLeft(room, 'alice');
  });

  each('REST shows members of every kind', async (scene) => {
    const room = scene.name();
    const device = await syncClient(scene, 'sync');
    const { channel, watch } = await watched(await scene.connected('alice'), room);
    await channel.presence.enter(1);
    await watch.next('enter', 'alice');
    device.update(room, { n: 2 });
    await watch.next('enter', 'sync');
    const { items } = await scene.rest().channels.get(room).presence.get();
    const shown = items.map(({ clientId, data }) => [clientId, data]);
    assert.deepEqual(shown.sort(), [['alice', 1], ['sync', { n: 2 }]]);
  });

  for (const one of SDKS) {
    for (const other of SDKS.filter((sdk) => sdk !== one)) {
      once(`messages of ${one.version} reach ${other.version}`, async (scene) => {
        const room = scene.name();
        const { inbox } = await subscribed(await scene.connected('listener', { sdk: other }), room);
        const speaker = (await scene.connected('speaker', { sdk: one })).channels.get(room);
        await speaker.publish('n', { ü: 1 });
        await speaker.publish([{ name: 'a', data: 2 }, { name: 'b' }]);
        await speaker.publish('n', null, { ephemeral: true });
        await inbox.first(4);
        assert.deepEqual(inbox.data, [{ ü: 1 }, 2, undefined, null]);
      });
    }
  }

  each('a JSON client and this one hear and see each other', async (scene) => {
    const room = scene.name();
    const { channel, inbox } = await subscribed(await scene.connected('modern'), room);
    const { watch } = await watched(await scene.connected('watcher'), room);
    const old = await scene.raw('old', { codec: JSON_TEXT });
    await old.ask({ t: 'sub', channel: room });
    await old.ask({ t: 'pub', channel: room, name: 'n', data: { from: 'old' } });
    const [heard] = await inbox.first(1);
    assert.deepEqual([heard.data, heard.clientId, heard.seq], [{ from: 'old' }, 'old', 1]);
    await old.message(room);
    await channel.publish('n', { from: 'modern' });
    const message = await old.message(room);
    assert.deepEqual([message.data, message.clientId], [{ from: 'modern' }, 'modern']);
    await old.ask({ t: 'pres', channel: room, action: 'enter', data: 1 });
    await watch.next('enter', 'old');
    await channel.presence.enter({ n: 2 });
    const isModern = (frame) => frame.t === 'presEvt' && frame.clientId === 'modern';
    const event = await old.next('enter of the modern client', isModern);
    assert.deepEqual([event.action, event.data, event.channel], ['enter', { n: 2 }, room]);
  });
});

checks('shards', ({ each }) => {
  each('every client hears every channel, wherever both of them live', async (scene) => {
    const [clients, channels] = [range(1, 10), range(1, 24)];
    const rooms = channels.map((i) => scene.name(`room${i}`));
    const boxes = await Promise.all(clients.map(async (n) => {
      const client = await scene.connected(`c${n}`);
      // A client lives where its first channel does: another one for each.
      const order = [...rooms.slice(n * 2), ...rooms.slice(0, n * 2)];
      const inboxes = [];
      for (const room of order) inboxes.push(await subscribed(client, room));
      return inboxes;
    }));
    await Promise.all(boxes.flat().map(({ channel }) => channel.publish('n', channel.name)));
    for (const { inbox, channel } of boxes.flat()) {
      const messages = await inbox.first(clients.length);
      assert.ok(inbox.data.every((data) => data === channel.name));
      assert.deepEqual(messages.map(({ seq }) => seq), clients);
      assert.equal(new Set(messages.map(({ clientId }) => clientId)).size, clients.length);
    }
  });

  each('pairs in many channels at once stay in order', async (scene) => {
    const pairs = await Promise.all(range(1, 16).map(async (i) => {
      const room = scene.name(`pair${i}`);
      // Both have been elsewhere first, so that they live on shards of their own.
      const [speaker, listener] = [await scene.connected('s'), await scene.connected('l')];
      await speaker.channels.get(scene.name(`s${i}`)).attach();
      await listener.channels.get(scene.name(`l${i}`)).attach();
      const { inbox } = await subscribed(listener, room);
      return { inbox, speaker: speaker.channels.get(room) };
    }));
    const burst = ({ speaker }) =>
      range(1, 50).map((data) => speaker.publish([{ name: 'n', data }]));
    await Promise.all(pairs.flatMap(burst));
    for (const { inbox } of pairs) {
      await inbox.first(50);
      assert.deepEqual(inbox.data, range(1, 50));
    }
  });

  each('presence is the same from everywhere', async (scene) => {
    const room = scene.name();
    const clients = await Promise.all(range(1, 8).map(async (n) => {
      const client = await scene.connected(`c${n}`);
      await client.channels.get(scene.name(`home${n}`)).attach();
      return watched(client, room);
    }));
    await Promise.all(clients.map(({ channel }, n) => channel.presence.enter(n)));
    await Promise.all(clients.map(({ channel }, n) => channel.presence.update(n + 100)));
    for (const { watch, channel } of clients) {
      const updated = () => [...watch.members.values()].filter(({ data }) => data >= 100).length;
      await until(() => `8 updated members, got ${watch.story}`, () => updated() === 8);
      await settled(channel);
      assert.equal(watch.events.length, 16, watch.story);
    }
  });
});
