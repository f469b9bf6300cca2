// What is published arrives: where, when, in which order, and what is refused (foony.md 5.1-5.3).

import assert from 'node:assert/strict';
import { checks } from './harness/scene.mjs';
import { Inbox, SDKS, range, refused, settled, subscribed } from './harness/sdk.mjs';

const PAYLOADS = [
  null, undefined, true, false, 0, -1, 1.5, -0.001, 1e21, 5e-324, Number.MAX_SAFE_INTEGER, '',
  'text', '"\\\b\f\n\r\t', 'Grüße 日本語 😀 \u2028\u2029', '\u0000\u001f\u007f', '\ud800',
  '</script>', [], {}, [[], [{}], [null]], { a: { b: { c: [1, 'two', { three: 3 }] } } },
  { '': 0, 'ключ': 'значение' }, { constructor: 'c', t: 'ack', id: 1 }, range(1, 300),
];

/** JSON with `depth` arrays in one another. */
const nested = (depth) => JSON.parse('['.repeat(depth) + ']'.repeat(depth));

checks('publishing', ({ once, each }) => {
  each('a message reaches every subscriber once, its publisher too', async (scene) => {
    const room = scene.name();
    const alice = await subscribed(await scene.connected('alice'), room);
    const bob = await subscribed(await scene.connected('bob'), room);
    const before = Date.now();
    await alice.channel.publish('greeting', { hi: 1 });
    for (const { inbox, channel } of [alice, bob]) {
      const [message] = await inbox.first(1);
      assert.deepEqual([message.name, message.data], ['greeting', { hi: 1 }]);
      assert.deepEqual([message.channel, message.clientId], [room, 'alice']);
      assert.ok(Math.abs(message.timestamp - before) < 10_000, `time ${message.timestamp}`);
      assert.match(message.messageId, /^\d+-[0-9a-f]{8}/);
      await settled(channel);
      assert.equal(inbox.messages.length, 1);
    }
  });

  each('a publisher that has not subscribed receives nothing', async (scene) => {
    const room = scene.name();
    const { inbox } = await subscribed(await scene.connected('listener'), room);
    const client = await scene.connected('speaker');
    const channel = client.channels.get(room);
    const seen = [];
    client.connection.registerChannel(room, { message: (frame) => seen.push(frame) });
    await channel.publish('n', 1);
    await inbox.first(1);
    await settled(channel);
    assert.deepEqual(seen, []);
  });

  each('listeners receive the events of their names', async (scene) => {
    const channel = (await scene.connected('alice')).channels.get(scene.name());
    const all = new Inbox(channel);
    const tea = new Inbox(channel, 'tea');
    const hot = new Inbox(channel, ['tea', 'coffee']);
    await channel.attach();
    for (const name of ['tea', 'coffee', 'juice', '', 'chat.message', 'чай']) {
      await channel.publish(name, name);
    }
    await all.first(6);
    assert.deepEqual(all.data, ['tea', 'coffee', 'juice', '', 'chat.message', 'чай']);
    assert.deepEqual(tea.data, ['tea']);
    assert.deepEqual(hot.data, ['tea', 'coffee']);
  });

  each('every kind of JSON arrives as it was sent', async (scene) => {
    const room = scene.name();
    const { inbox } = await subscribed(await scene.connected('listener'), room);
    const speaker = (await scene.connected('speaker')).channels.get(room);
    await Promise.all(PAYLOADS.map((data, i) => speaker.publish(`n${i}`, data)));
    for (const data of PAYLOADS) await speaker.publish('alone', data);
    await speaker.publish(PAYLOADS.map((data) => ({ name: 'batch', data })));
    await inbox.first(3 * PAYLOADS.length);
    assert.deepEqual(inbox.data, [...PAYLOADS, ...PAYLOADS, ...PAYLOADS]);
    const history = await speaker.history({ limit: 1000 });
    assert.deepEqual(history.messages.map(({ data }) => data), inbox.data);
  });

  each('a payload of 64 levels arrives', async (scene) => {
    const { channel, inbox } = await subscribed(await scene.connected('deep'), scene.name());
    await channel.publish('n', nested(64));
    await inbox.first(1);
    assert.deepEqual(inbox.data, [nested(64)]);
  });

  each('a payload of 200 KiB arrives whole', async (scene) => {
    const { channel, inbox } = await subscribed(await scene.connected('large'), scene.name());
    const data = { text: 'ü'.repeat(100 * 1024), end: true };
    await channel.publish('n', data);
    await inbox.first(1);
    assert.deepEqual(inbox.data, [data]);
    assert.deepEqual((await channel.history()).messages[0].data, data);
  });

  each('a payload of 300 KiB is refused and the connection lives', async (scene) => {
    const { channel, inbox } = await subscribed(await scene.connected('larger'), scene.name());
    await refused(channel.publish('n', 'x'.repeat(300 * 1024)), 40001);
    const half = { name: 'n', data: 'x'.repeat(150 * 1024) };
    await refused(channel.publish('n', half.data + half.data, { ephemeral: true }), 40001);
    await channel.publish('n', 'small');
    await inbox.first(1);
    assert.deepEqual([inbox.data, inbox.messages[0].seq], [['small'], 1]);
  });

  each('single messages have dense serials from 1', async (scene) => {
    const { channel, inbox } = await subscribed(await scene.connected('alice'), scene.name());
    for (const i of range(1, 20)) await channel.publish('n', i);
    await inbox.first(20);
    assert.deepEqual(inbox.messages.map(({ seq }) => seq), range(1, 20));
  });

  each('a burst of 600 messages arrives in order and once', async (scene) => {
    const room = scene.name();
    const { inbox } = await subscribed(await scene.connected('listener'), room);
    const speaker = (await scene.connected('speaker')).channels.get(room);
    await Promise.all(range(1, 600).map((i) => speaker.publish('n', i)));
    await inbox.first(600);
    assert.deepEqual(inbox.data, range(1, 600));
    assert.equal(new Set(inbox.messages.map(({ messageId }) => messageId)).size, 600);
  });

  each('a batch arrives whole, in order, under one id', async (scene) => {
    const { channel, inbox } = await subscribed(await scene.connected('alice'), scene.name());
    await channel.publish(range(0, 9).map((i) => ({ name: `n${i}`, data: i })));
    const messages = await inbox.first(10);
    const [id] = messages[0].messageId.split(':');
    const ids = range(0, 9).map((i) => `${id}:${i}`);
    assert.deepEqual(messages.map(({ messageId }) => messageId), ids);
    assert.deepEqual(messages.map(({ name }) => name), range(0, 9).map((i) => `n${i}`));
    assert.deepEqual(inbox.data, range(0, 9));
  });

  each('a batch takes one serial', async (scene) => {
    const { channel, inbox } = await subscribed(await scene.connected('alice'), scene.name());
    await channel.publish('n', 'one');
    await channel.publish(range(1, 5).map((data) => ({ name: 'n', data })));
    await channel.publish('n', 'three');
    const messages = await inbox.first(7);
    assert.equal(messages[0].seq, 1);
    assert.equal(messages[6].seq, 3);
  });

  each('batches of several publishers are not mixed', async (scene) => {
    const room = scene.name();
    const { inbox } = await subscribed(await scene.connected('listener'), room);
    const speakers = await Promise.all(['a', 'b', 'c'].map((who) => scene.connected(who)));
    const batch = (who, n) => range(1, 10).map((i) => ({ name: who, data: `${who}${n}.${i}` }));
    await Promise.all(speakers.flatMap((speaker) => range(1, 10).map((n) =>
      speaker.channels.get(room).publish(batch(speaker.getClientId(), n)))));
    await inbox.first(300);
    for (let at = 0; at < 300; at += 10) {
      const [who, n] = [inbox.data[at][0], inbox.data[at].slice(1).split('.')[0]];
      const expected = batch(who, n).map(({ data }) => data);
      assert.deepEqual(inbox.data.slice(at, at + 10), expected);
    }
  });

  each('all subscribers see one order, whoever publishes', async (scene) => {
    const room = scene.name();
    const clients = await Promise.all(SDKS.map((sdk, i) => scene.connected(`c${i}`, { sdk })));
    const rooms = await Promise.all(clients.map((client) => subscribed(client, room)));
    await Promise.all(rooms.flatMap(({ channel }, who) =>
      range(1, 50).map((i) => channel.publish('n', `${who}.${i}`))));
    for (const { inbox } of rooms) {
      await inbox.first(50 * rooms.length);
      assert.deepEqual(inbox.data, rooms[0].inbox.data);
    }
  });

  each('an ephemeral message is delivered and not kept', async (scene) => {
    const room = scene.name();
    const { inbox } = await subscribed(await scene.connected('listener'), room);
    const speaker = (await scene.connected('speaker')).channels.get(room);
    await speaker.publish('n', 'kept 1');
    await speaker.publish('n', 'gone', { ephemeral: true });
    await speaker.publish([{ name: 'n', data: 'gone 2' }], { ephemeral: true });
    await speaker.publish('n', 'kept 2');
    const messages = await inbox.first(4);
    assert.deepEqual(inbox.data, ['kept 1', 'gone', 'gone 2', 'kept 2']);
    assert.deepEqual(messages.map(({ seq }) => seq), [1, undefined, undefined, 2]);
    assert.deepEqual(messages.map(({ ephemeral }) => !!ephemeral), [false, true, true, false]);
    const history = await speaker.history();
    assert.deepEqual(history.messages.map(({ data }) => data), ['kept 1', 'kept 2']);
  });

  each('batchPublish reaches every channel', async (scene) => {
    const client = await scene.connected('alice');
    const names = range(1, 8).map((i) => scene.name(`room${i}`));
    const rooms = await Promise.all(names.map((name) => subscribed(client, name)));
    const messages = range(1, 3).map((data) => ({ name: 'n', data }));
    const result = await client.batchPublish({ channels: names, messages });
    assert.deepEqual([result.successCount, result.failureCount], [8, 0]);
    for (const { inbox } of rooms) {
      await inbox.first(3);
      assert.deepEqual(inbox.data, [1, 2, 3]);
    }
  });

  each('batchPublish of 1000 messages is one message', async (scene) => {
    const { channel, inbox } = await subscribed(await scene.connected('alice'), scene.name());
    const messages = range(1, 1000).map((data) => ({ name: 'n', data }));
    const client = await scene.connected('bob');
    await client.batchPublish({ channels: channel.name, messages });
    await channel.publish('n', 'last');
    const received = await inbox.first(1001);
    assert.deepEqual(inbox.data.slice(0, 1000), range(1, 1000));
    assert.equal(received[1000].seq, 2);
  });

  each('batchPublish tells which channel was refused', async (scene) => {
    const { channel, inbox } = await subscribed(await scene.connected('alice'), scene.name());
    const channels = [channel.name, 'no dots. or spaces', ':colon', '', 'x'.repeat(256)];
    const client = await scene.connected('bob');
    const result = await client.batchPublish({ channels, messages: { name: 'n', data: 1 } });
    assert.deepEqual([result.successCount, result.failureCount], [1, 4]);
    const codes = result.results.map(({ error }) => error?.message.match(/\d{5}/)[0]);
    assert.deepEqual(codes, [undefined, '40001', '40001', '40001', '40001']);
    await inbox.first(1);
  });

  each('a message has one id: live, in history and in a replay', async (scene) => {
    const { channel, inbox } = await subscribed(await scene.connected('alice'), scene.name());
    const late = await subscribed(await scene.connected('bob'), channel.name);
    await channel.publish('n', 'first');
    await late.inbox.first(1);
    await late.channel.detach();
    await channel.publish('n', 'alone');
    await channel.publish([{ name: 'n', data: 1 }, { name: 'n', data: 2 }]);
    await late.channel.attach();
    await late.inbox.first(4);
    const ids = (messages) => messages.map(({ messageId }) => messageId);
    const live = ids(await inbox.first(4));
    assert.deepEqual(ids(late.inbox.messages), live);
    assert.deepEqual(ids((await channel.history()).messages), live);
  });

  once('a resend is acknowledged with its serial and delivered once', async (scene) => {
    const room = scene.name();
    const listener = await scene.raw('listener');
    await listener.ask({ t: 'sub', channel: room });
    const message = { t: 'pub', channel: room, name: 'n', data: 1, messageId: 'same' };
    const alice = await scene.raw('alice');
    assert.equal((await alice.ask(message)).seq, 1);
    assert.equal((await alice.ask(message)).seq, 1);
    const again = await scene.raw('alice');
    assert.equal((await again.ask(message)).seq, 1);
    assert.equal((await alice.ask({ ...message, messageId: 'other' })).seq, 2);
    assert.deepEqual((await listener.message(room)).messageId, 'same');
    assert.deepEqual((await listener.message(room)).messageId, 'other');
  });

  once('one client cannot suppress the message of another with its id', async (scene) => {
    const room = scene.name();
    const listener = await scene.raw('listener');
    await listener.ask({ t: 'sub', channel: room });
    const message = { t: 'pub', channel: room, name: 'n', data: 1, messageId: 'same' };
    const serials = [];
    for (const who of ['alice', 'bob']) {
      const client = await scene.raw(who);
      serials.push((await client.ask(message)).seq);
    }
    assert.deepEqual(serials, [1, 2]);
    assert.equal((await listener.message(room)).clientId, 'alice');
    assert.equal((await listener.message(room)).clientId, 'bob');
  });
});
