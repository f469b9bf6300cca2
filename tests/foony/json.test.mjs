// The JSON protocol of SDKs 0.0.1 to 0.12, which npm no longer has, by hand (foony.md section 2).

import assert from 'node:assert/strict';
import { checks } from './harness/scene.mjs';
import { range } from './harness/sdk.mjs';
import { KEYS, credential } from './harness/server.mjs';
import { token } from './harness/token.mjs';
import { JSON_TEXT } from './harness/wire.mjs';

const login = (scene, clientId, auth) => scene.raw(clientId, { codec: JSON_TEXT, ...auth });

/** A connection that has subscribed to a channel. */
async function joined(scene, clientId, channel, frame) {
  const client = await login(scene, clientId);
  const ack = await client.ask({ t: 'sub', channel, ...frame });
  assert.equal(ack.t, 'ack', JSON.stringify(ack));
  return client;
}

/** Publishes the numbers from 1 to `count`; gives the acknowledgements. */
async function fill(client, channel, count) {
  const acks = [];
  for (const data of range(1, count)) {
    acks.push(await client.ask({ t: 'pub', channel, name: 'n', data, messageId: `m${data}` }));
  }
  return acks;
}

checks('the JSON protocol', ({ once }) => {
  once('a key is answered with connected', async (scene) => {
    const { connected } = await login(scene, 'alice');
    assert.equal(connected.clientId, 'alice');
    assert.ok(connected.connectionId);
    assert.ok(connected.keepAliveMs >= 0);
  });

  once('a token is answered with connected, as its subject', async (scene) => {
    const { connected } = await login(scene, undefined, { token: token('bob') });
    assert.equal(connected.clientId, 'bob');
  });

  for (const [what, auth, code] of [
    ['a wrong key', { key: `${KEYS.main.name}:wrong` }, 40101],
    ['a bad token', { token: token('eve', { secret: 'wrong' }) }, 40101],
    ['an expired token', { token: token('eve', { seconds: -60 }) }, 40102],
    ['neither key nor token', {}, 40101],
  ]) {
    once(`${what} is answered with ${code} and the end`, async (scene) => {
      const client = await scene.socket(JSON_TEXT);
      client.send({ t: 'auth', ...auth });
      const [error] = [await client.next('first frame')];
      assert.deepEqual([error.t, error.code, !!error.id], ['err', code, false]);
      assert.equal(typeof error.message, 'string');
      await client.ended();
    });
  }

  once('a message has the fields that it always had', async (scene) => {
    const room = scene.name();
    const client = await joined(scene, 'alice', room);
    const before = Date.now();
    const ack = await client.ask({ t: 'pub', channel: room, name: 'greeting', data: { hi: 1 } });
    assert.equal(ack.t, 'ack');
    const message = await client.message(room);
    assert.deepEqual([message.name, message.data], ['greeting', { hi: 1 }]);
    assert.equal(message.clientId, 'alice');
    assert.ok(Math.abs(message.timestamp - before) < 10_000);
    assert.ok(message.messageId);
  });

  once('a publisher that has not subscribed receives nothing', async (scene) => {
    const room = scene.name();
    const client = await login(scene, 'alice');
    await fill(client, room, 1);
    await client.expectAlive();
    assert.deepEqual(client.received, []);
  });

  once('payloads of every kind arrive', async (scene) => {
    const room = scene.name();
    const client = await joined(scene, 'alice', room);
    for (const data of [null, 0, -1.5, '', 'ü😀\u2028', [], {}, [null, [1]], { id: 1 }, true]) {
      await client.ask({ t: 'pub', channel: room, name: 'n', data });
      assert.deepEqual((await client.message(room)).data, data);
    }
  });

  once('unsub ends the messages', async (scene) => {
    const room = scene.name();
    const client = await joined(scene, 'alice', room);
    assert.equal((await client.ask({ t: 'unsub', channel: room })).t, 'ack');
    await fill(await login(scene, 'bob'), room, 1);
    await client.ask({ t: 'hist', channel: room });
    assert.deepEqual(client.takeAll('msg'), []);
  });

  once('presence comes with every subscription', async (scene) => {
    const room = scene.name();
    const watcher = await joined(scene, 'watcher', room);
    const alice = await joined(scene, 'alice', room);
    for (const [action, data] of [['enter', { n: 1 }], ['update', { n: 2 }], ['leave']]) {
      assert.equal((await alice.ask({ t: 'pres', channel: room, action, data })).t, 'ack');
      const event = await watcher.nextOfType('presEvt');
      assert.deepEqual([event.action, event.clientId, event.channel], [action, 'alice', room]);
      assert.equal(event.connectionId, alice.connected.connectionId);
      assert.deepEqual(event.data, data ?? { n: 2 });
      assert.equal(typeof event.timestamp, 'number');
    }
  });

  once('presSub and presUnsub of 0.11 are acknowledged', async (scene) => {
    const room = scene.name();
    const client = await login(scene, 'alice');
    assert.equal((await client.ask({ t: 'presSub', channel: room })).t, 'ack');
    await client.ask({ t: 'pres', channel: room, action: 'enter' });
    assert.equal((await client.nextOfType('presEvt')).action, 'enter');
    assert.equal((await client.ask({ t: 'presUnsub', channel: room })).t, 'ack');
  });

  once('history is a page, oldest first', async (scene) => {
    const room = scene.name();
    const client = await login(scene, 'alice');
    await fill(client, room, 5);
    const page = await client.ask({ t: 'hist', channel: room, limit: 3 });
    assert.deepEqual([page.t, page.channel, page.more], ['histRes', room, true]);
    assert.deepEqual(page.messages.map(({ data }) => data), [3, 4, 5]);
    const before = await client.ask({ t: 'hist', channel: room, before: 3 });
    assert.deepEqual(before.messages.map(({ data }) => data), [1, 2]);
    assert.ok(!before.more);
    const start = await client.ask({ t: 'hist', channel: room, start: 'm4', limit: 2 });
    assert.deepEqual(start.messages.map(({ messageId }) => messageId), ['m2', 'm3']);
  });

  once('acknowledgements and messages of 0.10 have serials', async (scene) => {
    const room = scene.name();
    const client = await joined(scene, 'alice', room);
    const acks = await fill(client, room, 3);
    assert.deepEqual(acks.map(({ seq }) => seq), [1, 2, 3]);
    for (const seq of [1, 2, 3]) assert.equal((await client.message(room)).seq, seq);
  });

  for (const [what, cursor] of [
    ['the id of the last message, as of 0.9,', { lastMessageId: 'm2' }],
    ['the last serial, as of 0.10,', { lastSerial: 2 }],
  ]) {
    once(`${what} is resumed from`, async (scene) => {
      const room = scene.name();
      await fill(await login(scene, 'alice'), room, 4);
      const late = await login(scene, 'late');
      const ack = await late.ask({ t: 'sub', channel: room, ...cursor });
      assert.equal(ack.resumed, true);
      assert.deepEqual(late.takeAll('msg').map(({ data }) => data), [3, 4]);
    });
  }

  once('a message id that nobody knows is not resumed from', async (scene) => {
    const room = scene.name();
    await fill(await login(scene, 'alice'), room, 2);
    const late = await login(scene, 'late');
    const ack = await late.ask({ t: 'sub', channel: room, lastMessageId: 'unheard-of' });
    assert.equal(ack.resumed, false);
    assert.deepEqual(late.takeAll('msg'), []);
  });

  once('fetch of 0.10 gives what is missing', async (scene) => {
    const room = scene.name();
    const client = await login(scene, 'alice');
    await fill(client, room, 4);
    const fetched = await client.ask({ t: 'fetch', channel: room, fromSerial: 2 });
    assert.deepEqual([fetched.t, fetched.resumed], ['fetchRes', true]);
    assert.deepEqual(fetched.messages.map(({ data }) => data), [3, 4]);
  });

  once('batches of 0.4 and ephemeral messages of 0.9 are delivered', async (scene) => {
    const room = scene.name();
    const client = await joined(scene, 'alice', room);
    const messages = [{ name: 'a', data: 1 }, { name: 'b', data: 2, encoding: 'x' }];
    const ack = await client.ask({ t: 'pub', channel: room, name: '', data: null, messages });
    assert.equal(ack.seq, 1);
    assert.deepEqual((await client.message(room)).messages, messages);
    await client.ask({ t: 'pub', channel: room, name: 'n', data: 3, ephemeral: true });
    const message = await client.message(room);
    assert.deepEqual([message.data, message.ephemeral, message.seq], [3, true, undefined]);
  });

  once('a resend is published once', async (scene) => {
    const room = scene.name();
    const client = await joined(scene, 'alice', room);
    assert.equal((await fill(client, room, 1))[0].seq, 1);
    assert.equal((await fill(client, room, 1))[0].seq, 1);
    await client.expectAlive();
    assert.equal(client.takeAll('msg').length, 1);
  });

  once('fields that are unknown or of later versions do no harm', async (scene) => {
    const room = scene.name();
    const more = { ttlMs: 5000, nonsense: { deep: [1] }, encoding: null, v: 2 };
    const client = await joined(scene, 'alice', room, more);
    await client.ask({ t: 'pub', channel: room, name: 'n', data: 1, ...more });
    assert.equal((await client.message(room)).data, 1);
  });

  once('a ping is answered', async (scene) => {
    await (await login(scene, 'alice')).expectAlive();
  });

  once('names with dots are accepted, and names with colons', async (scene) => {
    for (const name of ['a.b.c', 'a:b:c', 'a-b_c']) {
      const room = `${name}${scene.name('').replace(':', '')}`;
      const client = await joined(scene, 'alice', room);
      await fill(client, room, 1);
      assert.equal((await client.message(room)).data, 1);
    }
  });

  for (const [what, code, frame] of [
    ['a bad channel name', 40001, { t: 'sub', channel: 'a b' }],
    ['a name that begins with a dot', 40001, { t: 'sub', channel: '.a' }],
    ['no channel', 40001, { t: 'pub', name: 'n', data: 1 }],
    ['an unknown presence action', 40001, { t: 'pres', channel: 'room', action: 'dance' }],
    ['an unknown type with an id', 40001, { t: 'dance', channel: 'room' }],
    ['a channel that is no text', 40001, { t: 'sub', channel: { room: 1 } }],
    ['a channel that is not granted', 40302, { t: 'sub', channel: 'closed' }],
    ['an operation that is not granted', 40301, { t: 'hist', channel: 'exact' }],
  ]) {
    once(`${what} is refused with ${code} and its id`, async (scene) => {
      const client = await login(scene, 'narrow', { key: credential(KEYS.narrow) });
      const error = await client.ask(frame);
      assert.deepEqual([error.t, error.code], ['err', code], JSON.stringify(error));
      assert.equal(typeof error.message, 'string');
      await client.expectAlive();
    });
  }

  for (const text of ['{', '[]', '"sub"', '{"t":"sub","id":1,"channel":"a"}{"t":"ping"}', '{}']) {
    once(`${text} is refused, without an id`, async (scene) => {
      const client = await login(scene, 'alice');
      client.sendMessage(text);
      const error = await client.nextOfType('err');
      assert.equal(error.code, 40001);
    });
  }

  once('requests behind auth are answered in order, connected first', async (scene) => {
    const room = scene.name();
    const client = await scene.socket(JSON_TEXT);
    client.send({ t: 'auth', key: credential(KEYS.main) });
    client.send({ t: 'sub', id: 1, channel: room });
    client.send({ t: 'pub', id: 2, channel: room, name: 'n', data: 1 });
    client.send({ t: 'hist', id: 3, channel: room });
    assert.equal((await client.next('first frame')).t, 'connected');
    const answered = [];
    for (const id of [1, 2, 3]) answered.push((await client.answer(id)).t);
    assert.deepEqual(answered, ['ack', 'ack', 'histRes']);
    assert.equal((await client.message(room)).data, 1);
  });
});
