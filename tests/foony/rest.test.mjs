// The Rest class of the SDKs against the HTTP interface (foony.md section 1.3).

import assert from 'node:assert/strict';
import { checks } from './harness/scene.mjs';
import { range, subscribed, watched } from './harness/sdk.mjs';
import { KEYS, credential } from './harness/server.mjs';
import { claimsOf, token } from './harness/token.mjs';

const DAY_MS = 24 * 60 * 60 * 1000;

/** The request must be refused with this code and status. */
async function refused(promise, code, statusCode) {
  await assert.rejects(promise, (error) => {
    assert.deepEqual([error.name, error.code, error.statusCode], ['RestError', code, statusCode]);
    assert.ok(error.message);
    return true;
  });
}

/** A channel with the numbers from 1 to `count`, each published alone. */
async function filled(scene, count) {
  const channel = scene.rest().channels.get(scene.name());
  for (const i of range(1, count)) await channel.publish('n', i);
  return channel;
}

/** A capability with its operations in an order of their own. */
const sorted = (capability) =>
  Object.fromEntries(Object.entries(capability).map(([name, may]) => [name, [...may].sort()]));

const data = (page) => page.items.map((item) => item.data);

/** This page and all that follow. */
async function everyPage(page) {
  const pages = [];
  for (; page; page = await page.next()) pages.push(data(page));
  return pages;
}

checks('REST publishing', ({ each }) => {
  each('the time is that of the server', async (scene) => {
    const time = await scene.rest({ key: 'nobody.knows:this' }).time();
    assert.ok(Math.abs(time - Date.now()) < 10_000, `${time}`);
  });

  each('a message reaches subscribers and has an id and a serial', async (scene) => {
    const room = scene.name();
    const { inbox } = await subscribed(await scene.connected('listener'), room);
    const channel = scene.rest({ clientId: 'backend' }).channels.get(room);
    const results = [await channel.publish('n', { hi: 1 }), await channel.publish('n', null)];
    assert.deepEqual(results.map(({ serial }) => serial), [1, 2]);
    const messages = await inbox.first(2);
    assert.deepEqual(inbox.data, [{ hi: 1 }, null]);
    for (const [at, message] of messages.entries()) {
      assert.deepEqual([message.clientId, message.name], ['backend', 'n']);
      assert.deepEqual([message.messageId, message.seq], [results[at].messageId, at + 1]);
    }
    assert.notEqual(results[0].messageId, results[1].messageId);
  });

  each('a message without data arrives without data', async (scene) => {
    const room = scene.name();
    const { inbox } = await subscribed(await scene.connected('listener'), room);
    await scene.rest().channels.get(room).publish({ name: 'n' });
    await inbox.first(1);
    assert.deepEqual(inbox.data, [undefined]);
  });

  each('a message with an id is published once however often it is sent', async (scene) => {
    const room = scene.name();
    const { inbox, channel } = await subscribed(await scene.connected('listener'), room);
    const rest = scene.rest().channels.get(room);
    const message = { name: 'n', data: 1, id: 'order-17' };
    for (let i = 0; i < 3; i += 1) {
      assert.deepEqual(await rest.publish(message), { messageId: 'order-17', serial: 1 });
    }
    assert.equal((await rest.publish({ ...message, id: 'order-18' })).serial, 2);
    await inbox.first(2);
    assert.deepEqual(inbox.messages.map(({ messageId }) => messageId), ['order-17', 'order-18']);
    assert.equal((await channel.history()).messages.length, 2);
  });

  each('an array is one batch', async (scene) => {
    const room = scene.name();
    const { inbox } = await subscribed(await scene.connected('listener'), room);
    const channel = scene.rest().channels.get(room);
    const batch = range(1, 5).map((i) => ({ name: `n${i}`, data: i }));
    const result = await channel.publish(batch);
    assert.equal(result.serial, 1);
    const messages = await inbox.first(5);
    assert.deepEqual(inbox.data, range(1, 5));
    const ids = range(0, 4).map((i) => `${result.messageId}:${i}`);
    assert.deepEqual(messages.map(({ messageId }) => messageId), ids);
    assert.equal((await channel.publish('n', 'next')).serial, 2);
    const { items } = await channel.history({ direction: 'forwards' });
    assert.deepEqual(items.map(({ serial }) => serial), [1, 1, 1, 1, 1, 2]);
    assert.ok(items.slice(0, 5).every(({ id }) => id === result.messageId));
  });

  each('an array of one is published', async (scene) => {
    const channel = scene.rest().channels.get(scene.name());
    const result = await channel.publish([{ name: 'n', data: 'only' }]);
    assert.equal(result.serial, 1);
    const { items } = await channel.history();
    assert.deepEqual(items.map((item) => [item.data, item.serial]), [['only', 1]]);
  });

  each('an ephemeral message is delivered, and has no serial', async (scene) => {
    const room = scene.name();
    const { inbox } = await subscribed(await scene.connected('listener'), room);
    const channel = scene.rest().channels.get(room);
    const result = await channel.publish({ name: 'n', data: 'gone', ephemeral: true });
    assert.equal(result.serial, undefined);
    assert.ok(result.messageId);
    assert.equal((await channel.publish('n', 'kept')).serial, 1);
    await inbox.first(2);
    assert.deepEqual(inbox.data, ['gone', 'kept']);
    assert.deepEqual(data(await channel.history()), ['kept']);
  });

  each('with a key a message may be of any client', async (scene) => {
    const channel = scene.rest({ clientId: 'backend' }).channels.get(scene.name());
    await channel.publish({ name: 'n', data: 1, clientId: 'alice' });
    await channel.publish({ name: 'n', data: 2 });
    const { items } = await channel.history({ direction: 'forwards' });
    assert.deepEqual(items.map(({ clientId }) => clientId), ['alice', 'backend']);
  });

  each('with a token a message is of its subject and of nobody else', async (scene) => {
    const channel = scene.rest({ token: token('eve') }).channels.get(scene.name());
    await channel.publish('n', 1);
    await channel.publish({ name: 'n', data: 2, clientId: 'eve' });
    await refused(channel.publish({ name: 'n', data: 3, clientId: 'alice' }), 40300, 403);
    const { items } = await channel.history();
    assert.deepEqual(items.map((item) => [item.clientId, item.data]), [['eve', 2], ['eve', 1]]);
  });

  each('a message of 200 KiB is published, one of 300 KiB refused', async (scene) => {
    const channel = scene.rest().channels.get(scene.name());
    await channel.publish('n', 'x'.repeat(200 * 1024));
    await assert.rejects(channel.publish('n', 'x'.repeat(300 * 1024)), { code: 40001 });
    assert.equal((await channel.publish('n', 1)).serial, 2);
  });
});

checks('REST reading', ({ each }) => {
  each('history is newest first, or oldest first', async (scene) => {
    const channel = await filled(scene, 5);
    assert.deepEqual(data(await channel.history()), [5, 4, 3, 2, 1]);
    assert.deepEqual(data(await channel.history({ direction: 'backwards' })), [5, 4, 3, 2, 1]);
    assert.deepEqual(data(await channel.history({ direction: 'forwards' })), [1, 2, 3, 4, 5]);
    assert.deepEqual(data(await channel.history({ before: 4 })), [3, 2, 1]);
    assert.deepEqual(data(await scene.rest().channels.get('nobody').history()), []);
  });

  each('pages follow one another to the end, in both directions', async (scene) => {
    const channel = await filled(scene, 12);
    const back = await everyPage(await channel.history({ limit: 5 }));
    assert.deepEqual(back, [[12, 11, 10, 9, 8], [7, 6, 5, 4, 3], [2, 1]]);
    const forth = await everyPage(await channel.history({ limit: 5, direction: 'forwards' }));
    assert.deepEqual(forth, [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12]]);
  });

  each('a page has 100 messages by default', async (scene) => {
    const channel = await filled(scene, 103);
    const page = await channel.history();
    assert.deepEqual([data(page), page.hasNext()], [range(4, 103).reverse(), true]);
    const last = await page.next();
    assert.deepEqual([data(last), last.isLast()], [[3, 2, 1], true]);
  });

  each('history has what realtime clients published, under the same ids', async (scene) => {
    const { channel, inbox } = await subscribed(await scene.connected('alice'), scene.name());
    await channel.publish('n', { a: 1 });
    await channel.publish([{ name: 'x', data: 1 }, { name: 'y', data: 2 }]);
    const live = await inbox.first(3);
    const rest = scene.rest().channels.get(channel.name);
    const { items } = await rest.history({ direction: 'forwards' });
    const shown = items.map(({ name, clientId, serial }) => [name, clientId, serial]);
    assert.deepEqual(shown, [['n', 'alice', 1], ['x', 'alice', 2], ['y', 'alice', 2]]);
    assert.equal(items[0].id, live[0].messageId);
    assert.equal(`${items[2].id}:1`, live[2].messageId);
    assert.equal(items[0].timestamp, live[0].timestamp);
  });

  each('presence is the members, with their data', async (scene) => {
    const room = scene.name();
    const rest = scene.rest().channels.get(room);
    assert.deepEqual((await rest.presence.get()).items, []);
    const alice = await scene.connected('alice');
    await alice.channels.get(room).presence.enter({ n: 1 });
    const [bob, bobToo] = [await scene.connected('bob'), await scene.connected('bob')];
    await bob.channels.get(room).presence.enter();
    await bobToo.channels.get(room).presence.enter('too');
    const page = await rest.presence.get();
    assert.ok(page.isLast());
    const member = page.items.find(({ clientId }) => clientId === 'alice');
    assert.deepEqual([member.action, member.data], ['present', { n: 1 }]);
    assert.equal(member.connectionId, alice.getConnectionId());
    assert.ok(Math.abs(member.timestamp - Date.now()) < 10_000);
    const count = async (params) => (await rest.presence.get(params)).items.length;
    assert.equal(await count(), 3);
    assert.equal(await count({ clientId: 'bob' }), 2);
    assert.equal(await count({ connectionId: bobToo.getConnectionId() }), 1);
    assert.equal(await count({ clientId: 'alice', connectionId: bob.getConnectionId() }), 0);
    assert.equal(await count({ limit: 2 }), 2);
  });

  each('presence is read without becoming present', async (scene) => {
    const room = scene.name();
    const { channel, watch } = await watched(await scene.connected('watcher'), room);
    await scene.rest().channels.get(room).presence.get();
    await channel.history();
    assert.equal(watch.events.length, 0);
  });
});

checks('REST credentials', ({ each }) => {
  each('a requested token connects, realtime and REST', async (scene) => {
    const room = scene.name();
    const capability = { [room]: ['subscribe', 'publish'] };
    const before = Date.now();
    const asked = { clientId: 'dora', ttl: 60_000, capability };
    const details = await scene.rest().auth.requestToken(asked);
    assert.deepEqual([details.keyName, details.clientId], [KEYS.main.name, 'dora']);
    assert.deepEqual(sorted(JSON.parse(details.capability)), sorted(capability));
    assert.ok(Math.abs(details.issued - before) < 10_000);
    assert.equal(details.expires - details.issued, 60_000);
    const claims = claimsOf(details.token, KEYS.main);
    assert.equal(claims.sub, 'dora');
    assert.deepEqual(sorted(JSON.parse(claims.cap)), sorted(capability));
    const client = scene.realtime({ token: details.token });
    const { inbox } = await subscribed(client, room);
    assert.equal(client.getClientId(), 'dora');
    await scene.rest({ token: details.token }).channels.get(room).publish('n', 1);
    await inbox.first(1);
    await assert.rejects(client.channels.get(room).history(), /40301/);
  });

  each('a token is for an hour and what the key may, unless asked otherwise', async (scene) => {
    const rest = scene.rest({ key: credential(KEYS.narrow) });
    const details = await rest.auth.requestToken({ clientId: 'ed' });
    assert.equal(details.expires - details.issued, 3_600_000);
    assert.deepEqual(sorted(JSON.parse(details.capability)), sorted(KEYS.narrow.capability));
    const capability = '{"exact":["publish"]}';
    const less = await rest.auth.requestToken({ clientId: 'ed', capability });
    assert.deepEqual(JSON.parse(less.capability), { exact: ['publish'] });
  });

  each('a token is never for more than a day', async (scene) => {
    const asked = scene.rest().auth.requestToken({ clientId: 'ed', ttl: 3 * DAY_MS });
    const details = await asked.catch((error) => assert.equal(error.statusCode, 400));
    if (details) assert.ok(details.expires - details.issued <= DAY_MS);
  });

  each('a token for more than the key may is refused with 40301', async (scene) => {
    const { auth } = scene.rest({ key: credential(KEYS.narrow) });
    await refused(auth.requestToken({ clientId: 'ed', capability: { '*': ['*'] } }), 40301, 403);
    const more = { exact: ['publish', 'history'] };
    await refused(auth.requestToken({ clientId: 'ed', capability: more }), 40301, 403);
  });

  each('a wrong key is refused with 40101, for tokens too', async (scene) => {
    for (const key of [`${KEYS.main.name}:wrong`, 'demo.nobody:x', 'nonsense:x']) {
      const rest = scene.rest({ key });
      await refused(rest.channels.get('room').publish('n', 1), 40101, 401);
      await refused(rest.auth.requestToken({ clientId: 'ed' }), 40101, 401);
    }
  });

  each('a bad token is refused with 40101 and an expired one with 40102', async (scene) => {
    const bad = scene.rest({ token: token('eve', { secret: 'wrong' }) });
    await refused(bad.channels.get('room').history(), 40101, 401);
    const late = scene.rest({ token: token('eve', { seconds: -60 }) });
    await refused(late.channels.get('room').history(), 40102, 401);
  });

  each('an expired token of authCallback is replaced once', async (scene) => {
    let calls = 0;
    const authCallback = () => token('eve', { seconds: (calls += 1) === 1 ? -60 : 3600 });
    const channel = scene.rest({ authCallback }).channels.get(scene.name());
    assert.equal((await channel.publish('n', 1)).serial, 1);
    assert.equal(calls, 2);
    const never = scene.rest({ authCallback: () => token('eve', { seconds: -60 }) });
    await refused(never.channels.get('room').history(), 40102, 401);
  });

  each('what a key may not is refused with its code', async (scene) => {
    const rest = scene.rest({ key: credential(KEYS.narrow) });
    await refused(rest.channels.get('hear:1').publish('n', 1), 40301, 403);
    await refused(rest.channels.get('speak:1').history(), 40301, 403);
    await refused(rest.channels.get('exact').presence.get(), 40301, 403);
    await refused(rest.channels.get('closed').publish('n', 1), 40302, 403);
    await refused(rest.channels.get('closed').history(), 40302, 403);
    await refused(rest.channels.get('closed').presence.get(), 40302, 403);
    assert.ok((await rest.channels.get('exact').publish('n', 1)).serial);
  });

  each('a bad channel name is refused with 40001', async (scene) => {
    const rest = scene.rest();
    for (const name of [':room', 'a b', 'a/b', 'a.b', 'ü', '%41', 'x'.repeat(256)]) {
      await refused(rest.channels.get(name).publish('n', 1), 40001, 400);
      await refused(rest.channels.get(name).history(), 40001, 400);
      await refused(rest.channels.get(name).presence.get(), 40001, 400);
    }
  });
});
