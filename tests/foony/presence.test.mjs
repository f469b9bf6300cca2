// Who is here (foony.md section 5.7).

import assert from 'node:assert/strict';
import { checks } from './harness/scene.mjs';
import { Watch, inState, range, refused, settled, watched } from './harness/sdk.mjs';
import { pass, until } from './harness/wait.mjs';

const GRACE_MS = 1500; // Of the namespace `grace:*`.

/** What REST says about who is present. */
async function present(scene, room) {
  const page = await scene.rest().channels.get(room).presence.get();
  return page.items.map(({ clientId }) => clientId).sort();
}

checks('presence', ({ each }) => {
  each('enter, update and leave reach a watcher with their data', async (scene) => {
    const room = scene.name();
    const { watch } = await watched(await scene.connected('watcher'), room);
    const client = await scene.connected('alice');
    const { presence } = client.channels.get(room);
    const before = Date.now();
    await presence.enter({ status: 'here' });
    const entered = await watch.next('enter', 'alice');
    assert.deepEqual(entered.data, { status: 'here' });
    assert.deepEqual([entered.channel, entered.connectionId], [room, client.getConnectionId()]);
    assert.ok(Math.abs(entered.timestamp - before) < 10_000);
    await presence.update({ status: 'away' });
    assert.deepEqual((await watch.next('update', 'alice')).data, { status: 'away' });
    await presence.leave();
    assert.deepEqual((await watch.next('leave', 'alice')).data, { status: 'away' });
  });

  each('a member that watches sees itself', async (scene) => {
    const { channel, watch } = await watched(await scene.connected('alice'), scene.name());
    await channel.presence.enter(1);
    await watch.next('enter', 'alice');
    await channel.presence.update(2);
    await watch.next('update', 'alice');
    await channel.presence.leave();
    assert.equal((await watch.next('leave', 'alice')).data, 2);
  });

  each('who comes late is shown everybody, itself too, as entering', async (scene) => {
    const room = scene.name();
    for (const who of ['alice', 'bob', 'carol']) {
      await (await scene.connected(who)).channels.get(room).presence.enter({ who });
    }
    const dan = await scene.connected('dan');
    await dan.channels.get(room).presence.enter({ who: 'dan' });
    const { watch } = await watched(dan, room);
    await until('four members', () => watch.events.length >= 4);
    assert.ok(watch.events.every(({ action }) => action === 'enter'), watch.story);
    const shown = watch.events.map(({ clientId, data }) => [clientId, data.who]).sort();
    const all = ['alice', 'bob', 'carol', 'dan'].map((who) => [who, who]);
    assert.deepEqual(shown, all);
  });

  each('a member shows what it said last to who comes late', async (scene) => {
    const room = scene.name();
    const { presence } = (await scene.connected('alice')).channels.get(room);
    await presence.enter({ n: 1 });
    await presence.update({ n: 2 });
    const { watch } = await watched(await scene.connected('late'), room);
    assert.deepEqual((await watch.next('enter', 'alice')).data, { n: 2 });
  });

  each('every kind of JSON can be a state, and none', async (scene) => {
    const room = scene.name();
    const { watch } = await watched(await scene.connected('watcher'), room);
    const { presence } = (await scene.connected('alice')).channels.get(room);
    await presence.enter();
    assert.equal((await watch.next('enter', 'alice')).data, undefined);
    for (const data of [null, 0, 1.5, 'ü😀', [], [1, [2]], { a: { b: null } }, false, undefined]) {
      await presence.update(data);
      assert.deepEqual((await watch.next('update', 'alice')).data, data);
    }
  });

  each('two connections of one client id are two members', async (scene) => {
    const room = scene.name();
    const { watch } = await watched(await scene.connected('watcher'), room);
    const [one, two] = [await scene.connected('alice'), await scene.connected('alice')];
    await one.channels.get(room).presence.enter(1);
    await watch.next('enter', 'alice');
    await two.channels.get(room).presence.enter(2);
    await watch.next('enter', 'alice');
    assert.deepEqual(await present(scene, room), ['alice', 'alice']);
    await one.channels.get(room).presence.leave();
    const left = await watch.next('leave', 'alice');
    assert.deepEqual([left.connectionId, left.data], [one.getConnectionId(), 1]);
    assert.deepEqual(await present(scene, room), ['alice']);
  });

  each('clients that enter at the same instant see each other', async (scene) => {
    const rooms = range(1, 12).map((i) => scene.name(`room${i}`));
    const clients = [await scene.connected('alice'), await scene.connected('bob')];
    const watches = clients.map((client) => rooms.map((room) => {
      const channel = client.channels.get(room);
      void channel.presence.enter(room);
      return new Watch(channel);
    }));
    for (const watch of watches.flat()) {
      await watch.find('enter', 'alice');
      await watch.find('enter', 'bob');
    }
  });

  each('a clean close leaves at once, whatever the grace', async (scene) => {
    const rooms = range(1, 5).map((i) => scene.name(`patient:${i}`));
    const watcher = await scene.connected('watcher');
    const watches = await Promise.all(rooms.map((room) => watched(watcher, room)));
    const client = await scene.connected('alice');
    for (const room of rooms) await client.channels.get(room).presence.enter(room);
    for (const { watch } of watches) await watch.next('enter', 'alice');
    await client.close();
    for (const { watch, channel } of watches) {
      assert.equal((await watch.next('leave', 'alice')).data, channel.name);
    }
  });

  each('an abrupt loss leaves when the grace is over, and not before', async (scene) => {
    const [room, proxy] = [scene.name('grace'), await scene.proxy()];
    const { watch } = await watched(await scene.connected('watcher'), room);
    const options = { endpoint: proxy.ws, initialReconnectDelayMs: 60_000 };
    const client = await scene.connected('alice', { ...options, maxReconnectDelayMs: 60_000 });
    await client.channels.get(room).presence.enter('last words');
    await watch.next('enter', 'alice');
    const cut = Date.now();
    proxy.refuse();
    assert.equal((await watch.next('leave', 'alice')).data, 'last words');
    const took = Date.now() - cut;
    assert.ok(took >= GRACE_MS, `left after ${took} ms`);
    assert.ok(took < GRACE_MS + 4000, `left after ${took} ms`);
    assert.deepEqual(await present(scene, room), []);
  });

  each('who comes back within the grace was never away', async (scene) => {
    const [room, proxy] = [scene.name('grace'), await scene.proxy()];
    const { watch } = await watched(await scene.connected('watcher'), room);
    const client = await scene.connected('alice', { endpoint: proxy.ws });
    const { presence } = client.channels.get(room);
    await presence.enter('here');
    await watch.next('enter', 'alice');
    for (const connections of [2, 3]) {
      proxy.cut();
      await until('new connection', () => proxy.connections === connections);
      await inState(client, 'connected');
    }
    await pass(GRACE_MS + 1000);
    await presence.update('still here');
    const update = await watch.next('update', 'alice');
    assert.equal(update.data, 'still here');
    assert.equal(watch.events.length, 2, watch.story);
    assert.equal(update.connectionId, client.getConnectionId());
  });

  each('who comes back after the grace enters again by itself', async (scene) => {
    const [room, proxy] = [scene.name('grace'), await scene.proxy()];
    const { watch } = await watched(await scene.connected('watcher'), room);
    const client = await scene.connected('alice', { endpoint: proxy.ws });
    await client.channels.get(room).presence.enter('me');
    await watch.next('enter', 'alice');
    proxy.refuse();
    await watch.next('leave', 'alice');
    proxy.accept();
    assert.equal((await watch.next('enter', 'alice')).data, 'me');
  });

  each('a watcher that comes back is shown who is there', async (scene) => {
    const [room, proxy] = [scene.name(), await scene.proxy()];
    const { watch } = await watched(await scene.connected('watcher', { endpoint: proxy.ws }), room);
    await (await scene.connected('alice')).channels.get(room).presence.enter(1);
    await watch.next('enter', 'alice');
    proxy.refuse();
    await (await scene.connected('bob')).channels.get(room).presence.enter(2);
    proxy.accept();
    await watch.find('enter', 'bob');
    const members = [...watch.members.values()].map(({ clientId }) => clientId).sort();
    assert.deepEqual(members, ['alice', 'bob']);
  });

  each('who stops watching hears nothing and stays present', async (scene) => {
    const room = scene.name();
    const { channel, watch } = await watched(await scene.connected('alice'), room);
    await channel.presence.enter();
    await watch.next('enter', 'alice');
    channel.presence.off();
    await settled(channel);
    const bob = (await scene.connected('bob')).channels.get(room);
    await bob.presence.enter();
    await bob.presence.leave();
    await settled(channel);
    assert.equal(watch.events.length, 1);
    assert.deepEqual(await present(scene, room), ['alice']);
  });

  each('presence without a message listener and messages without presence', async (scene) => {
    const room = scene.name();
    const listener = (await scene.connected('listener')).channels.get(room);
    const seen = [];
    listener.subscribe((message) => seen.push(message.data));
    await listener.attach();
    const presences = [];
    listener.presence.emitPresence = (event) => presences.push(event);
    const alice = (await scene.connected('alice')).channels.get(room);
    await alice.presence.enter();
    await alice.publish('n', 1);
    await until('message', () => seen.length === 1);
    await settled(listener);
    assert.deepEqual([seen, presences], [[1], []]);
  });

  each('who detaches is no longer present', async (scene) => {
    const room = scene.name();
    const { watch } = await watched(await scene.connected('watcher'), room);
    const channel = (await scene.connected('alice')).channels.get(room);
    await channel.presence.enter('bye');
    await watch.next('enter', 'alice');
    await channel.detach();
    assert.equal((await watch.next('leave', 'alice')).data, 'bye');
  });

  each('an update by somebody who never entered enters', async (scene) => {
    const room = scene.name();
    const { watch } = await watched(await scene.connected('watcher'), room);
    await (await scene.connected('alice')).channels.get(room).presence.update('hello');
    const event = await until('event', () => watch.events[0]);
    assert.deepEqual([event.clientId, event.data], ['alice', 'hello']);
    assert.deepEqual(await present(scene, room), ['alice']);
  });

  each('a state of 100 KiB is refused, and the state before stays', async (scene) => {
    const room = scene.name();
    const { watch } = await watched(await scene.connected('watcher'), room);
    const { presence } = (await scene.connected('alice')).channels.get(room);
    await presence.enter('small');
    await refused(presence.update('x'.repeat(100 * 1024)), 40001);
    await presence.update('x'.repeat(50 * 1024));
    await watch.next('enter', 'alice');
    assert.equal((await watch.next('update', 'alice')).data.length, 50 * 1024);
  });

  each('forty members are shown to all, and all leave', async (scene) => {
    const room = scene.name();
    const { watch } = await watched(await scene.connected('watcher'), room);
    const crowd = await Promise.all(range(1, 40).map((i) => scene.connected(`m${i}`)));
    await Promise.all(crowd.map((client, i) => client.channels.get(room).presence.enter(i)));
    await until(() => `40 members, got ${watch.members.size}`, () => watch.members.size === 40);
    assert.equal(watch.events.length, 40);
    await Promise.all(crowd.map((client) => client.close()));
    await until(() => `nobody, got ${watch.members.size}`, () => watch.members.size === 0);
    assert.equal(watch.events.length, 80);
  });
});
