// Connections that break, and messages that nobody misses (foony.md sections 5.3 to 5.5).

import assert from 'node:assert/strict';
import { checks } from './harness/scene.mjs';
import { Inbox, inState, range, settled, subscribed } from './harness/sdk.mjs';
import { Server } from './harness/server.mjs';
import { pass, until, within } from './harness/wait.mjs';

const ACK = 12;
const MESSAGES = [13, 19];

/** 49 of these are more than the socket buffers of both ends and a send queue hold. */
const PADDING = ' '.repeat(240 * 1024);

/** Keeps every outcome of attaching that comes from here on. */
function outcomes(channel) {
  const seen = [];
  for (const event of ['attached', 'update']) {
    channel.on(event, ({ resumed }) => seen.push(resumed));
  }
  return seen;
}

/** Cuts the link each time another part of `count` messages has arrived. */
function cutEvery(part, count, { inbox, proxy }) {
  const cut = async () => {
    for (let at = part; at < count; at += part) {
      await inbox.first(at);
      proxy.cut();
    }
  };
  const done = cut();
  done.catch(() => {}); // For the case that the check fails before it waits for this.
  return done;
}

checks('resuming', ({ each }) => {
  each('a subscriber that is cut off again and again misses nothing', async (scene) => {
    const [room, proxy] = [scene.name(), await scene.proxy()];
    const client = await scene.connected('listener', { endpoint: proxy.ws });
    const { inbox, channel } = await subscribed(client, room);
    const resumed = outcomes(channel);
    const speaker = (await scene.connected('speaker')).channels.get(room);
    const cuts = cutEvery(40, 300, { inbox, proxy });
    for (const i of range(1, 300)) await speaker.publish('n', i);
    await cuts;
    await inbox.first(300);
    await settled(channel);
    assert.deepEqual(inbox.data, range(1, 300));
    assert.ok(proxy.connections >= 5, `${proxy.connections} connections`);
    assert.ok(resumed.every((ok) => ok), `${resumed}`);
  });

  each('batches are not torn by a cut', async (scene) => {
    const [room, proxy] = [scene.name(), await scene.proxy()];
    const client = await scene.connected('listener', { endpoint: proxy.ws });
    const { inbox } = await subscribed(client, room);
    const speaker = (await scene.connected('speaker')).channels.get(room);
    const cuts = cutEvery(100, 500, { inbox, proxy });
    const batch = (n) => range(10 * n + 1, 10 * n + 10).map((data) => ({ name: 'n', data }));
    for (const n of range(0, 49)) await speaker.publish(batch(n));
    await cuts;
    await inbox.first(500);
    assert.deepEqual(inbox.data, range(1, 500));
  });

  each('what is in flight during a cut is published exactly once', async (scene) => {
    const [room, proxy] = [scene.name(), await scene.proxy()];
    const { inbox, channel } = await subscribed(await scene.connected('listener'), room);
    const client = await scene.connected('speaker', { endpoint: proxy.ws });
    const speaker = client.channels.get(room);
    const cuts = cutEvery(60, 400, { inbox, proxy });
    for (const part of range(0, 19)) {
      const batch = range(20 * part + 1, 20 * part + 20);
      // An array is a publish of its own; single publishes would be joined.
      const published = batch.map((i) => speaker.publish([{ name: 'n', data: i }]));
      await within('acknowledgement of every publish', Promise.all(published));
    }
    await cuts;
    await inbox.first(400);
    const history = await channel.history({ limit: 1000 });
    assert.deepEqual(inbox.data, range(1, 400));
    assert.deepEqual(history.messages.map(({ data }) => data), range(1, 400));
    assert.ok(proxy.connections >= 4, `${proxy.connections} connections`);
  });

  each('a publish whose acknowledgement is lost is published once', async (scene) => {
    const room = scene.name();
    const { inbox, channel } = await subscribed(await scene.connected('listener'), room);
    const relay = await scene.relay();
    const client = await scene.connected('speaker', { endpoint: relay.ws });
    const speaker = client.channels.get(room);
    relay.only((opcode) => opcode !== ACK);
    const published = [speaker.publish('n', 1)];
    await inbox.first(1);
    published.push(speaker.publish([{ name: 'n', data: 2 }, { name: 'n', data: 3 }]));
    await inbox.first(3);
    relay.only(() => true);
    relay.cut();
    await within('acknowledgement of what was sent again', Promise.all(published));
    await speaker.publish('n', 4);
    const [, , , last] = await inbox.first(4);
    assert.equal(last.seq, 3);
    const { messages } = await channel.history();
    assert.deepEqual(messages.map(({ data }) => data), [1, 2, 3, 4]);
  });

  each('what is published without a connection is published later, in order', async (scene) => {
    const [room, proxy] = [scene.name(), await scene.proxy()];
    const { inbox } = await subscribed(await scene.connected('listener'), room);
    const client = await scene.connected('speaker', { endpoint: proxy.ws });
    const speaker = client.channels.get(room);
    await speaker.publish('n', 0);
    const dropped = client.connection.once('disconnected');
    proxy.refuse();
    await within('loss of the connection', dropped);
    const published = range(1, 30).map((i) => speaker.publish([{ name: 'n', data: i }]));
    proxy.accept();
    await within('acknowledgement of every publish', Promise.all(published));
    await inbox.first(31);
    assert.deepEqual(inbox.data, range(0, 30));
  });

  each('a link that stalls and goes on loses nothing', async (scene) => {
    const [room, proxy] = [scene.name(), await scene.proxy()];
    const client = await scene.connected('listener', { endpoint: proxy.ws });
    const { inbox } = await subscribed(client, room);
    proxy.stall();
    const speaker = (await scene.connected('speaker')).channels.get(room);
    for (const i of range(1, 100)) await speaker.publish('n', i);
    assert.equal(inbox.messages.length, 0);
    proxy.resume();
    await inbox.first(100);
    assert.deepEqual(inbox.data, range(1, 100));
    assert.equal(proxy.connections, 1);
  });

  each('a message that is lost on the way is fetched', async (scene) => {
    const room = scene.name();
    const relay = await scene.relay();
    const client = await scene.connected('listener', { endpoint: relay.ws });
    const { inbox } = await subscribed(client, room);
    const speaker = (await scene.connected('speaker')).channels.get(room);
    await speaker.publish('n', 1);
    await inbox.first(1);
    let lost = 0;
    relay.only((opcode) => !(MESSAGES.includes(opcode) && (lost += 1) <= 3));
    for (const i of range(2, 4)) await speaker.publish('n', i);
    await until('loss of three messages', () => lost === 3);
    await speaker.publish('n', 5);
    await inbox.first(5);
    await speaker.publish('n', 6);
    await inbox.first(6);
    assert.deepEqual([...inbox.data].sort(), range(1, 6));
  });

  each('a cursor that is no longer kept is said to be lost', async (scene) => {
    const [room, proxy] = [scene.name('short'), await scene.proxy()];
    const client = await scene.connected('listener', { endpoint: proxy.ws });
    const { inbox, channel } = await subscribed(client, room);
    const speaker = (await scene.connected('speaker')).channels.get(room);
    await speaker.publish('n', 1);
    await inbox.first(1);
    const resumed = outcomes(channel);
    proxy.refuse();
    for (const i of range(2, 12)) await speaker.publish('n', i);
    proxy.accept();
    await until('outcome of the resume', () => resumed.length > 0);
    assert.deepEqual(resumed, [false]);
    await speaker.publish('n', 13);
    await inbox.first(2);
    assert.deepEqual(inbox.data, [1, 13]);
    proxy.cut();
    await until('second outcome', () => resumed.length > 1);
    assert.deepEqual(resumed, [false, true]);
  });

  each('the oldest cursor that is kept is resumed in full', async (scene) => {
    const [room, proxy] = [scene.name('short'), await scene.proxy()];
    const client = await scene.connected('listener', { endpoint: proxy.ws });
    const { inbox, channel } = await subscribed(client, room);
    const speaker = (await scene.connected('speaker')).channels.get(room);
    await speaker.publish('n', 1);
    await inbox.first(1);
    const resumed = outcomes(channel);
    proxy.refuse();
    for (const i of range(2, 6)) await speaker.publish('n', i);
    proxy.accept();
    await until('outcome of the resume', () => resumed.length > 0);
    assert.deepEqual([inbox.data, resumed], [range(1, 6), [true]]);
  });

  each('a detached channel is silent, and catches up when it attaches again', async (scene) => {
    const room = scene.name();
    const { inbox, channel } = await subscribed(await scene.connected('listener'), room);
    const speaker = (await scene.connected('speaker')).channels.get(room);
    await speaker.publish('n', 1);
    await inbox.first(1);
    await channel.detach();
    assert.equal(channel.state, 'detached');
    await speaker.publish('n', 2);
    await speaker.publish('n', 3);
    await settled(channel);
    assert.deepEqual(inbox.data, [1]);
    const resumed = outcomes(channel);
    await channel.attach();
    await speaker.publish('n', 4);
    await inbox.first(4);
    assert.deepEqual([inbox.data, resumed], [[1, 2, 3, 4], [true]]);
  });

  each('a released channel begins anew', async (scene) => {
    const room = scene.name();
    const client = await scene.connected('listener');
    const first = await subscribed(client, room);
    await first.channel.publish('n', 1);
    await first.inbox.first(1);
    client.channels.release(room);
    const second = await subscribed(client, room);
    await second.channel.publish('n', 2);
    await second.inbox.first(1);
    assert.deepEqual([first.inbox.data, second.inbox.data], [[1], [2]]);
  });

  each('resumeFrom gives what came after a stored serial', async (scene) => {
    const room = scene.name();
    const speaker = (await scene.connected('speaker')).channels.get(room);
    for (const i of range(1, 9)) await speaker.publish('n', i);
    const channel = scene.realtime().channels.get(room);
    channel.resumeFrom(6);
    const resumed = outcomes(channel);
    const inbox = new Inbox(channel);
    await inbox.first(3);
    await speaker.publish('n', 10);
    await inbox.first(4);
    assert.deepEqual([inbox.data, resumed], [[7, 8, 9, 10], [true]]);
  }, { since: '0.16.0' });

  each('resumeFrom a serial that is not kept, or is yet to come, is not resumed', async (scene) => {
    const room = scene.name('short');
    const speaker = (await scene.connected('speaker')).channels.get(room);
    for (const i of range(1, 9)) await speaker.publish('n', i);
    for (const serial of [2, 10_000]) {
      const channel = scene.realtime().channels.get(room);
      channel.resumeFrom(serial);
      const resumed = outcomes(channel);
      const inbox = new Inbox(channel);
      await channel.attach();
      await settled(channel);
      assert.deepEqual([inbox.data, resumed], [[], [false]], `from ${serial}`);
    }
  }, { since: '0.16.0' });

  each('a restart without a durable log is not taken for a resume', async (scene) => {
    const server = await Server.start();
    scene.atEnd(() => server.stop());
    const proxy = await scene.proxy();
    proxy.target = server.port;
    const client = await scene.connected('listener', { endpoint: proxy.ws });
    const { inbox, channel } = await subscribed(client, 'room');
    for (const i of range(1, 3)) await channel.publish('n', i);
    await inbox.first(3);
    const resumed = outcomes(channel);
    proxy.refuse();
    await server.restart();
    const rest = scene.rest({ endpoint: server.http });
    for (const i of range(4, 9)) await rest.channels.get('room').publish('n', i);
    proxy.target = server.port;
    proxy.accept();
    await inState(client, 'connected');
    await until('outcome of the resume', () => resumed.length > 0);
    await channel.publish('n', 10);
    await until('newest message', () => inbox.data.includes(10));
    const complete = inbox.data.length === 10;
    assert.equal(resumed[0], complete, `got ${inbox.data} and resumed=${resumed}`);
  });
});

checks('large backlogs', ({ each }) => {
  for (const policy of ['gap', 'close']) {
    each(`who reads too slowly gets everything in the end (${policy})`, async (scene) => {
      const [room, proxy] = [scene.name(`slow:${policy}`), await scene.proxy()];
      const client = await scene.connected('listener', { endpoint: proxy.ws });
      const { inbox, channel } = await subscribed(client, room);
      const resumed = outcomes(channel);
      const speaker = (await scene.connected('speaker')).channels.get(room);
      await speaker.publish('n', 1);
      await inbox.first(1);
      proxy.stall();
      for (const i of range(2, 50)) await speaker.publish('n', i + PADDING);
      proxy.resume();
      const numbers = () => inbox.messages.filter(({ name }) => name === 'n');
      await until(() => `every message, got ${numbers().length}, resumed ${resumed}`, async () => {
        await pass(50);
        await speaker.publish('poke', null); // Shows the gap to the SDK, which then fetches.
        return numbers().length === 50;
      }, 30_000);
      const seen = numbers().map(({ data }) => parseInt(data));
      assert.deepEqual(seen.sort((a, b) => a - b), range(1, 50));
      assert.ok(resumed.every((ok) => ok), `${resumed}`);
    });
  }

  each('a replay of 12 MiB arrives', async (scene) => {
    const [room, proxy] = [scene.name(), await scene.proxy()];
    const client = await scene.connected('listener', { endpoint: proxy.ws });
    const { inbox, channel } = await subscribed(client, room);
    await channel.publish('n', 1);
    await inbox.first(1);
    const resumed = outcomes(channel);
    proxy.refuse();
    const speaker = (await scene.connected('speaker')).channels.get(room);
    for (const i of range(2, 50)) await speaker.publish('n', i + PADDING);
    proxy.accept();
    await inbox.first(50);
    await until('outcome of the resume', () => resumed.length > 0);
    assert.deepEqual(inbox.data.map((data) => parseInt(data)), range(1, 50));
    assert.deepEqual(resumed, [true]);
  });
}, { together: 2 });
