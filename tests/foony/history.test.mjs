// What is kept, and how it is paged (foony.md section 5.6).

import assert from 'node:assert/strict';
import { checks } from './harness/scene.mjs';
import { range, refused } from './harness/sdk.mjs';
import { KEYS, credential } from './harness/server.mjs';

/** A channel in which the numbers from 1 to `count` were published, each alone. */
async function filled(scene, count, prefix) {
  const channel = scene.realtime({ clientId: 'author' }).channels.get(scene.name(prefix));
  for (const i of range(1, count)) await channel.publish('n', i);
  return channel;
}

const data = ({ messages }) => messages.map((message) => message.data);

checks('history', ({ each }) => {
  each('a channel that nobody used has none', async (scene) => {
    const channel = scene.realtime().channels.get(scene.name());
    assert.deepEqual(await channel.history(), { messages: [], more: false });
  });

  each('a page is the newest messages, oldest first', async (scene) => {
    const channel = await filled(scene, 10);
    const page = await channel.history({ limit: 4 });
    assert.deepEqual([data(page), page.more], [[7, 8, 9, 10], true]);
    const all = await channel.history({ limit: 10 });
    assert.deepEqual([data(all), all.more], [range(1, 10), false]);
  });

  each('pages go back without gap or overlap', async (scene) => {
    const channel = await filled(scene, 25);
    const pages = [];
    for (let before; ;) {
      const page = await channel.history({ limit: 7, before });
      pages.unshift(data(page));
      if (!page.more) break;
      before = page.messages[0].seq;
      assert.ok(before > 1, 'there is more before the oldest of the page');
    }
    assert.deepEqual(pages.map((page) => page.length), [4, 7, 7, 7]);
    assert.deepEqual(pages.flat(), range(1, 25));
    assert.deepEqual(await channel.history({ before: 1 }), { messages: [], more: false });
  });

  each('a page without a limit has 100 messages', async (scene) => {
    const channel = await filled(scene, 105);
    const page = await channel.history();
    assert.deepEqual([data(page), page.more], [range(6, 105), true]);
  });

  each('messages say who published them, when, and their serial', async (scene) => {
    const before = Date.now();
    const channel = await filled(scene, 3);
    const { messages } = await channel.history();
    for (const [at, message] of messages.entries()) {
      assert.deepEqual([message.channel, message.name], [channel.name, 'n']);
      assert.deepEqual([message.clientId, message.seq], ['author', at + 1]);
      assert.ok(Math.abs(message.timestamp - before) < 20_000);
      assert.equal(message.ephemeral, undefined);
    }
    assert.ok(messages[0].timestamp <= messages[2].timestamp);
  });

  each('batches are shown as their messages', async (scene) => {
    const channel = await filled(scene, 1);
    await channel.publish([{ name: 'a', data: 'x' }, { name: 'b', data: 'y' }]);
    await channel.publish('n', 2);
    const page = await channel.history({ limit: 10 });
    assert.deepEqual(data(page), [1, 'x', 'y', 2]);
    assert.deepEqual(page.messages.map(({ name }) => name), ['n', 'a', 'b', 'n']);
    assert.equal(page.messages[3].seq, 3);
  });

  each('history does not need a subscription and leaves none behind', async (scene) => {
    const channel = await filled(scene, 1);
    const reader = await scene.connected('reader');
    const seen = [];
    const late = reader.channels.get(channel.name);
    reader.connection.registerChannel(late.name, { message: (frame) => seen.push(frame) });
    assert.deepEqual(data(await late.history()), [1]);
    await channel.publish('n', 2);
    assert.deepEqual(data(await late.history()), [1, 2]);
    assert.deepEqual(seen, []);
  });

  each('a namespace keeps as many messages as it says', async (scene) => {
    const channel = await filled(scene, 12, 'short');
    const page = await channel.history({ limit: 100 });
    assert.deepEqual([data(page), page.more], [range(8, 12), false]);
  });

  each('history is read by everybody of the app and by nobody of another', async (scene) => {
    const channel = await filled(scene, 2);
    const stranger = scene.realtime({ key: credential(KEYS.other) });
    assert.deepEqual(data(await stranger.channels.get(channel.name).history()), []);
    const reader = scene.realtime();
    assert.deepEqual(data(await reader.channels.get(channel.name).history()), [1, 2]);
  });

  each('history without the capability is refused with 40301', async (scene) => {
    const narrow = scene.realtime({ key: credential(KEYS.narrow) });
    await refused(narrow.channels.get('exact').history(), 40301);
    await refused(narrow.channels.get(scene.name('closed')).history(), 40302);
  });
});
