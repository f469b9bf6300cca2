// The binary protocol frame by frame (foony.md sections 0, 3 and 5).

import assert from 'node:assert/strict';
import { checks } from './harness/scene.mjs';
import { range } from './harness/sdk.mjs';
import { KEYS, credential } from './harness/server.mjs';
import { token } from './harness/token.mjs';
import { pass } from './harness/wait.mjs';
import { framed } from './harness/wire.mjs';

const AUTH = { t: 'auth', key: credential(KEYS.main) };

const pub = (channel, data, more) => ({ t: 'pub', channel, name: 'n', data, ...more });

/** A connection that has subscribed to a channel. */
async function joined(scene, clientId, channel) {
  const client = await scene.raw(clientId);
  assert.equal((await client.ask({ t: 'sub', channel })).t, 'ack');
  return client;
}

/** Publishes the numbers from 1 to `count`, each alone. */
async function fill(client, channel, count) {
  for (const i of range(1, count)) assert.equal((await client.ask(pub(channel, i))).seq, i);
}

const numbers = (messages) => messages.map(({ data }) => data);

checks('greeting', ({ once }) => {
  once('a binary auth is answered in binary, with connected as the first record', async (scene) => {
    const { connected } = await scene.raw('alice');
    assert.equal(connected.clientId, 'alice');
    const { keepAliveMs } = connected;
    const isSane = keepAliveMs === 0 || (keepAliveMs >= 1000 && keepAliveMs <= 60_000);
    assert.ok(isSane, `${keepAliveMs}`);
  });

  once('requests in the message of auth are answered after connected, in order', async (scene) => {
    const room = scene.name();
    const client = await scene.socket();
    client.send(
      AUTH,
      { t: 'sub', id: 1, channel: room },
      { ...pub(room, 'echo'), id: 2 },
      { t: 'hist', id: 3, channel: room },
      { t: 'ping' },
    );
    await client.nextOfType('pong');
    assert.equal(client.received[0].t, 'connected');
    const order = client.received.filter(({ id }) => id).map(({ t, id }) => `${t} ${id}`);
    assert.deepEqual(order, ['ack 1', 'ack 2', 'histRes 3']);
    assert.equal((await client.message(room)).data, 'echo');
  });

  once('messages behind auth are answered after connected, in order', async (scene) => {
    const room = scene.name();
    const client = await scene.socket();
    client.send(AUTH);
    for (const id of range(1, 20)) client.send({ ...pub(room, id), id });
    client.send({ t: 'ping' });
    assert.equal((await client.next('first frame')).t, 'connected');
    await client.nextOfType('pong');
    const acks = client.takeAll('ack').map(({ id, seq }) => [id, seq]);
    assert.deepEqual(acks, range(1, 20).map((i) => [i, i]));
  });

  once('a request before auth is refused with an err as the first record', async (scene) => {
    const client = await scene.socket();
    client.send({ t: 'sub', id: 1, channel: 'room' });
    assert.equal((await client.next('first frame')).t, 'err');
  });

  for (const [what, auth, code] of [
    ['a wrong key', { key: `${KEYS.main.name}:wrong` }, 40101],
    ['no credential', {}, 40101],
    ['an expired token', { token: token('eve', { seconds: -60 }) }, 40102],
  ]) {
    once(`${what} is answered with ${code} as the first record, then the end`, async (scene) => {
      const client = await scene.socket();
      client.send({ t: 'auth', ...auth });
      const error = await client.next('first frame');
      assert.deepEqual([error.t, error.id, error.code], ['err', 0, code]);
      await client.ended();
    });
  }

  once('a client id beside a token does not replace its subject', async (scene) => {
    const client = await scene.socket();
    client.send({ t: 'auth', token: token('eve'), clientId: 'alice' });
    const answer = await client.next('first frame');
    assert.ok(answer.t === 'err' || answer.clientId === 'eve', JSON.stringify(answer));
  });

  once('a client id of 300 bytes is refused as the first record', async (scene) => {
    const client = await scene.socket();
    client.send({ ...AUTH, clientId: 'x'.repeat(300) });
    assert.equal((await client.next('first frame')).t, 'err');
  });

  once('a connection that says nothing is closed after 5 s, not before 4', async (scene) => {
    const opened = Date.now();
    const client = await scene.socket();
    await client.ended(9000);
    const took = Date.now() - opened;
    assert.ok(took >= 4000 && took < 8000, `after ${took} ms`);
  });

  once('a connection that is greeted stays longer than that', async (scene) => {
    const client = await scene.raw('alice');
    await pass(6500);
    await client.expectAlive();
  });

  once('an auth in several WebSocket fragments is accepted', async (scene) => {
    const client = await scene.socket();
    const bytes = framed(AUTH, { t: 'ping' });
    client.sendFragments([bytes.subarray(0, 3), bytes.subarray(3, 20), bytes.subarray(20)]);
    assert.equal((await client.next('first frame')).t, 'connected');
    await client.nextOfType('pong');
  });

  once('WebSocket pings and goodbyes are answered', async (scene) => {
    const client = await scene.raw('alice');
    assert.ok(await client.ping());
    await client.close();
    assert.equal(client.end.code, 1000);
  });
});

checks('connection ids', ({ once }) => {
  once('the same client gets its connection id back', async (scene) => {
    const first = await scene.raw('alice');
    const { connectionId } = first.connected;
    first.vanish();
    const second = await scene.raw('alice', { resumeConnectionId: connectionId });
    assert.equal(second.connected.connectionId, connectionId);
  });

  once('whoever takes over a connection id ends the connection that had it', async (scene) => {
    const first = await scene.raw('alice');
    const { connectionId } = first.connected;
    const second = await scene.raw('alice', { resumeConnectionId: connectionId });
    assert.equal(second.connected.connectionId, connectionId);
    await first.ended();
    await second.expectAlive();
  });

  once('another client does not get it', async (scene) => {
    const alice = await scene.raw('alice');
    const { connectionId } = alice.connected;
    const others = [{ clientId: 'eve' }, { key: credential(KEYS.other) }, { token: token('eve') }];
    for (const auth of others) {
      const eve = await scene.raw('alice', { ...auth, resumeConnectionId: connectionId });
      assert.notEqual(eve.connected.connectionId, connectionId);
    }
    await alice.expectAlive();
  });

  once('an unknown connection id is replaced by a fresh one', async (scene) => {
    const client = await scene.raw('alice', { resumeConnectionId: 'made-up' });
    assert.ok(client.connected.connectionId);
    assert.notEqual(client.connected.connectionId, 'made-up');
  });
});

checks('frames', ({ once }) => {
  once('a publish is acknowledged with its serial, an ephemeral one without', async (scene) => {
    const room = scene.name();
    const client = await scene.raw('alice');
    assert.equal((await client.ask(pub(room, 1))).seq, 1);
    assert.equal((await client.ask(pub(room, 2, { ephemeral: true }))).seq, undefined);
    assert.equal((await client.ask(pub(room, 3))).seq, 2);
  });

  once('a batch of one is delivered as a plain message with its serial', async (scene) => {
    const room = scene.name();
    const client = await joined(scene, 'alice', room);
    await client.ask(pub(room, null, { messageId: 'mine', messages: [{ name: 'a', data: 1 }] }));
    const message = await client.message(room);
    assert.deepEqual([message.messages, message.name, message.data], [undefined, 'a', 1]);
    assert.deepEqual([message.messageId, message.seq, message.clientId], ['mine', 1, 'alice']);
    const page = await client.ask({ t: 'hist', channel: room });
    assert.deepEqual(page.messages, [message]);
  });

  once('a batch is delivered as one record with one serial', async (scene) => {
    const room = scene.name();
    const client = await joined(scene, 'alice', room);
    const messages = range(1, 3).map((data) => ({ name: `n${data}`, data }));
    await client.ask(pub(room, null, { messageId: 'mine', messages }));
    const batch = await client.message(room);
    assert.deepEqual([batch.messages, batch.messageId, batch.seq], [messages, 'mine', 1]);
    const page = await client.ask({ t: 'hist', channel: room });
    assert.deepEqual(page.messages[0].messages, messages);
  });

  once('encoding and data are forwarded as they are', async (scene) => {
    const room = scene.name();
    const client = await joined(scene, 'alice', room);
    await client.ask(pub(room, 'AAEC', { encoding: 'cipher+aes-256-gcm/base64' }));
    const message = await client.message(room);
    assert.deepEqual([message.data, message.encoding], ['AAEC', 'cipher+aes-256-gcm/base64']);
    await client.ask({ t: 'presSub', channel: room });
    await client.ask({ t: 'pres', channel: room, action: 'enter', data: 'AAEC', encoding: 'x/y' });
    assert.equal((await client.nextOfType('presEvt')).encoding, 'x/y');
  });

  once('a publish without an id of its own gets one', async (scene) => {
    const room = scene.name();
    const client = await joined(scene, 'alice', room);
    for (const data of [1, 2]) await client.ask(pub(room, data));
    const ids = [(await client.message(room)).messageId, (await client.message(room)).messageId];
    assert.ok(ids[0] && ids[1] && ids[0] !== ids[1], `${ids}`);
  });

  once('a subscription with a cursor is replayed, acknowledged, then live', async (scene) => {
    const room = scene.name();
    const author = await scene.raw('author');
    await fill(author, room, 5);
    const client = await scene.raw('alice');
    client.send({ t: 'sub', id: 7, channel: room, lastSerial: 2 });
    const ack = await client.answer(7);
    assert.equal(ack.resumed, true);
    assert.deepEqual(numbers(client.takeAll('msg')), [3, 4, 5]);
    await author.ask(pub(room, 6));
    assert.equal((await client.message(room)).seq, 6);
  });

  for (const [what, lastSerial, resumed, replayed] of [
    ['at the head', 9, true, []],
    ['above the head', 10, false, []],
    ['one before the oldest that is kept', 4, true, [5, 6, 7, 8, 9]],
    ['two before the oldest that is kept', 3, false, []],
  ]) {
    once(`a cursor ${what} is${resumed ? '' : ' not'} resumed`, async (scene) => {
      const room = scene.name('short');
      await fill(await scene.raw('author'), room, 9);
      const client = await scene.raw('alice');
      const ack = await client.ask({ t: 'sub', channel: room, lastSerial });
      assert.equal(ack.resumed, resumed);
      assert.deepEqual(numbers(client.takeAll('msg')), replayed);
      const late = await scene.raw('bob');
      const fetched = await late.ask({ t: 'fetch', channel: room, fromSerial: lastSerial });
      assert.equal(fetched.resumed, resumed);
      if (resumed) assert.deepEqual(numbers(fetched.messages), replayed);
    });
  }

  once('a fresh subscription is acknowledged without resumed and has no history', async (scene) => {
    const room = scene.name();
    await fill(await scene.raw('author'), room, 2);
    const client = await scene.raw('alice');
    assert.equal((await client.ask({ t: 'sub', channel: room })).resumed, undefined);
    await client.expectAlive();
    assert.deepEqual(client.takeAll('msg'), []);
  });

  once('a second sub is acknowledged as resumed and doubles nothing', async (scene) => {
    const room = scene.name();
    const author = await scene.raw('author');
    await fill(author, room, 2);
    const client = await scene.raw('alice');
    for (let i = 0; i < 2; i += 1) {
      assert.equal((await client.ask({ t: 'sub', channel: room, lastSerial: 2 })).resumed, true);
    }
    await author.ask(pub(room, 3));
    await client.message(room);
    await client.ask({ t: 'hist', channel: room });
    assert.deepEqual(client.takeAll('msg'), []);
    await client.ask({ t: 'unsub', channel: room });
    await author.ask(pub(room, 4));
    await client.ask({ t: 'hist', channel: room });
    assert.deepEqual(client.takeAll('msg'), [], 'one unsub ends both');
  });

  once('presSub shows the members, once each, before what follows', async (scene) => {
    const room = scene.name();
    const members = [await scene.raw('alice'), await scene.raw('bob')];
    for (const [data, member] of members.entries()) {
      await member.ask({ t: 'pres', channel: room, action: 'enter', data });
    }
    const watcher = await scene.raw('watcher');
    await watcher.ask({ t: 'presSub', channel: room });
    await members[0].ask({ t: 'pres', channel: room, action: 'update', data: 'new' });
    const isUpdate = ({ t, action }) => t === 'presEvt' && action === 'update';
    const update = await watcher.next('update', isUpdate);
    assert.deepEqual([update.clientId, update.data], ['alice', 'new']);
    const shown = watcher.takeAll('presEvt').map(({ action, clientId }) => `${action} ${clientId}`);
    assert.deepEqual(shown.sort(), ['enter alice', 'enter bob']);
  });

  once('entering twice is acknowledged and shows no leave', async (scene) => {
    const room = scene.name();
    const client = await scene.raw('alice');
    await client.ask({ t: 'presSub', channel: room });
    for (let i = 0; i < 2; i += 1) {
      const ack = await client.ask({ t: 'pres', channel: room, action: 'enter', data: 1 });
      assert.equal(ack.t, 'ack');
    }
    await client.expectAlive();
    assert.ok(client.takeAll('presEvt').every(({ action }) => action !== 'leave'));
  });

  once('unsub ends presence events and membership', async (scene) => {
    const room = scene.name();
    const watcher = await scene.raw('watcher');
    await watcher.ask({ t: 'presSub', channel: room });
    const client = await joined(scene, 'alice', room);
    await client.ask({ t: 'presSub', channel: room });
    await client.ask({ t: 'pres', channel: room, action: 'enter' });
    assert.equal((await watcher.nextOfType('presEvt')).action, 'enter');
    assert.equal((await client.ask({ t: 'unsub', channel: room })).t, 'ack');
    assert.equal((await watcher.nextOfType('presEvt')).action, 'leave');
    client.takeAll('presEvt');
    await watcher.ask({ t: 'pres', channel: room, action: 'enter' });
    await client.ask({ t: 'hist', channel: room });
    assert.deepEqual(client.takeAll('presEvt'), []);
  });

  once('many records in one message are answered in order', async (scene) => {
    const room = scene.name();
    const client = await scene.raw('alice');
    client.send(...range(1, 500).map((id) => ({ ...pub(room, id), id })), { t: 'ping' });
    await client.nextOfType('pong');
    const acks = client.takeAll('ack').map(({ id, seq }) => [id, seq]);
    assert.deepEqual(acks, range(1, 500).map((i) => [i, i]));
  });

  once('request ids are echoed exactly, up to 2^53 - 1', async (scene) => {
    const client = await scene.raw('alice');
    for (const id of [1, 127, 128, 2 ** 32, 2 ** 53 - 1]) {
      client.send({ t: 'hist', id, channel: 'room' });
      assert.equal((await client.answer(id)).t, 'histRes');
    }
  });

  once('no message of several records is longer than 32 KiB', async (scene) => {
    const room = scene.name();
    const author = await scene.raw('author');
    const live = await joined(scene, 'live', room);
    const batch = range(1, 400).map((id) => ({ ...pub(room, `${id}`.padEnd(1000)), id }));
    author.send(...batch.slice(0, 200));
    author.send(...batch.slice(200));
    for (const id of range(1, 400)) await author.answer(id);
    const client = await scene.raw('alice');
    await client.ask({ t: 'sub', channel: room, lastSerial: 1 });
    assert.equal(client.takeAll('msg').length, 399);
    for (const seq of range(1, 400)) assert.equal((await live.message(room)).seq, seq);
    for (const { messageBytes } of [client, live, author]) {
      assert.ok(Math.max(...messageBytes) <= 32 * 1024, `${Math.max(...messageBytes)}`);
    }
  });

  once('a pong comes at once', async (scene) => {
    const client = await scene.raw('alice');
    const sent = Date.now();
    for (let i = 0; i < 50; i += 1) await client.expectAlive();
    assert.ok(Date.now() - sent < 5000);
  });
});
