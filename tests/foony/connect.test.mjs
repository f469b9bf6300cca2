// Who may connect, as whom, and what becomes of those who may not (foony.md section 4).

import assert from 'node:assert/strict';
import { checks } from './harness/scene.mjs';
import { inState, subscribed } from './harness/sdk.mjs';
import { KEYS, credential } from './harness/server.mjs';
import { nowSeconds, token } from './harness/token.mjs';
import { until, within } from './harness/wait.mjs';

/** The client must end in `failed`, and say the code. */
async function fails(client, code) {
  let reason;
  client.connection.on('failed', (_, error) => (reason = error));
  await assert.rejects(within('end of connect', client.connect()), new RegExp(`${code}`));
  await inState(client, 'failed');
  assert.match(reason.message, new RegExp(`${code}`));
}

checks('connecting', ({ once, each }) => {
  each('a key connects under the client id that was asked for', async (scene) => {
    const client = scene.realtime({ clientId: 'alice' });
    await client.connect();
    assert.equal(client.getState(), 'connected');
    assert.equal(client.getClientId(), 'alice');
    assert.ok(client.getConnectionId());
  });

  each('a key without a client id is given one of its own', async (scene) => {
    const ids = [];
    for (const client of [scene.realtime(), scene.realtime()]) {
      await client.connect();
      ids.push(client.getClientId());
    }
    assert.ok(ids[0] && ids[1]);
    assert.notEqual(ids[0], ids[1]);
  });

  each('two connections have two connection ids', async (scene) => {
    const [one, two] = [await scene.connected('alice'), await scene.connected('alice')];
    assert.notEqual(one.getConnectionId(), two.getConnectionId());
  });

  each('a key whose secret has colons connects', async (scene) => {
    const client = await scene.connected('colon', { key: credential(KEYS.narrow) });
    assert.equal(client.getClientId(), 'colon');
  });

  each('a token connects as its subject', async (scene) => {
    const client = scene.realtime({ token: token('subject ü') });
    await client.connect();
    assert.equal(client.getClientId(), 'subject ü');
  });

  each('a token that the SDK has made connects', async (scene) => {
    const capability = { 'chat:*': ['subscribe', 'publish'] };
    const key = credential(KEYS.main);
    const made = await scene.sdk.createJwt({ clientId: 'bob', capability }, { key });
    const client = scene.realtime({ token: made });
    await client.connect();
    assert.equal(client.getClientId(), 'bob');
  });

  each('authCallback gives the token', async (scene) => {
    const client = scene.realtime({ authCallback: async () => token('carol') });
    await client.connect();
    assert.equal(client.getClientId(), 'carol');
  });

  for (const [what, key] of [
    ['a wrong secret', `${KEYS.main.name}:sk_wrong`],
    ['an unknown key', 'demo.kid_nobody:sk_main_secret'],
    ['a key of an unknown app', 'nobody.kid_main:sk_main_secret'],
    ['a key that is none', 'nonsense'],
  ]) {
    each(`${what} ends in failed with 40101`, (scene) => fails(scene.realtime({ key }), 40101));
  }

  for (const [what, bad] of [
    ['a token signed with another secret', token('eve', { secret: 'sk_other' })],
    ['a token of an unknown key', token('eve', { key: { name: 'demo.no', secret: 'x' } })],
    ['an unsigned token', token('eve', { header: { alg: 'none' } })],
    ['a token of another algorithm', token('eve', { header: { alg: 'HS512' } })],
    ['a token without a subject', token('')],
    ['a token that is none', 'nonsense'],
    ['a token that grants more than its key', token('eve', { key: KEYS.narrow })],
  ]) {
    each(`${what} ends in failed with 40101`, (scene) => {
      return fails(scene.realtime({ token: bad }), 40101);
    });
  }

  each('a token that grants less than its key connects', async (scene) => {
    const capability = { 'open:a:*': ['subscribe'], 'exact': ['publish'] };
    const client = scene.realtime({ token: token('dan', { key: KEYS.narrow, capability }) });
    await client.connect();
  });

  each('an expired token ends in failed with 40102', (scene) => {
    return fails(scene.realtime({ token: token('late', { seconds: -60 }) }), 40102);
  });

  each('an expired token of authCallback is followed by a new one', async (scene) => {
    let calls = 0;
    const authCallback = () => token('erin', { seconds: (calls += 1) === 1 ? -60 : 3600 });
    const client = scene.realtime({ authCallback });
    await client.connect().catch(() => {});
    await inState(client, 'connected');
    assert.equal(calls, 2);
  });

  each('a token that expires in use is renewed and nothing is missed', async (scene) => {
    const room = scene.name();
    let calls = 0;
    const authCallback = () => token('frank', { seconds: (calls += 1) === 1 ? 2 : 3600 });
    const client = scene.realtime({ authCallback, initialReconnectDelayMs: 300 });
    const dropped = client.connection.once('disconnected');
    const { inbox } = await subscribed(client, room);
    const others = scene.rest().channels.get(room);
    await others.publish('n', 'before');
    await inbox.first(1);
    await within('end of the connection', dropped);
    await others.publish('n', 'between');
    await inState(client, 'connected');
    await others.publish('n', 'after');
    await inbox.first(3);
    assert.deepEqual(inbox.data, ['before', 'between', 'after']);
    assert.equal(calls, 2);
  });

  each('a static token that expires in use ends in failed', async (scene) => {
    const client = scene.realtime({ token: token('gina', { seconds: 2 }) });
    await client.connect();
    await inState(client, 'failed');
  });

  once('a connection whose token expires is told 40102 and closed', async (scene) => {
    const expires = nowSeconds() + 2;
    const client = await scene.raw('', { token: token('hugo', { claims: { exp: expires } }) });
    const error = await client.nextOfType('err');
    assert.equal(error.code, 40102);
    assert.equal(error.id, 0);
    assert.ok(Date.now() >= expires * 1000, 'not before the time');
    await client.ended();
  });

  each('a client that closed connects again', async (scene) => {
    const client = await scene.connected('ida');
    await client.close();
    assert.equal(client.getState(), 'closed');
    await client.connect();
    assert.equal(client.getState(), 'connected');
  });

  each('a connection that was cut comes back under its connection id', async (scene) => {
    const proxy = await scene.proxy();
    const client = await scene.connected('jack', { endpoint: proxy.ws });
    const id = client.getConnectionId();
    proxy.cut();
    await until('second connection', () => proxy.connections === 2);
    await inState(client, 'connected');
    assert.equal(client.getConnectionId(), id);
  });

  each('channels of one name in two apps are two channels', async (scene) => {
    const room = scene.name();
    const here = await subscribed(await scene.connected('kim'), room);
    const elsewhere = { key: credential(KEYS.other) };
    const there = await subscribed(await scene.connected('kim', elsewhere), room);
    await there.channel.publish('n', 'theirs');
    await here.channel.publish('n', 'ours');
    await there.inbox.first(1);
    await here.inbox.first(1);
    await here.channel.history();
    await there.channel.history();
    assert.deepEqual([here.inbox.data, there.inbox.data], [['ours'], ['theirs']]);
  });

  each('a path and a query in the endpoint are accepted', async (scene) => {
    const room = scene.name();
    const endpoint = `${scene.server.ws}/some/path?x=1&channel=${encodeURIComponent(room)}`;
    const { channel, inbox } = await subscribed(scene.realtime({ endpoint }), room);
    await channel.publish('n', 1);
    await inbox.first(1);
  });

  each('a client that suspends gets what it missed when it connects', async (scene) => {
    const room = scene.name();
    const client = await scene.connected('lea');
    const { channel, inbox } = await subscribed(client, room);
    await channel.publish('n', 1);
    await inbox.first(1);
    await client.suspend();
    await scene.rest().channels.get(room).publish('n', 2);
    await client.connect();
    await inbox.first(2);
    assert.deepEqual(inbox.data, [1, 2]);
  }, { since: '0.16.0' });

  each('what is published before the connection is there is published', async (scene) => {
    const room = scene.name();
    const { inbox } = await subscribed(await scene.connected('mia'), room);
    const early = scene.realtime();
    await early.channels.get(room).publish('n', 'early');
    await inbox.first(1);
  });
});
