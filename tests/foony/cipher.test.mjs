// Payloads that only clients can read (foony.md section 6.7).

import assert from 'node:assert/strict';
import { checks } from './harness/scene.mjs';
import { Watch, settled, subscribed } from './harness/sdk.mjs';

console.warn = () => {}; // The SDK warns of every payload that it cannot decrypt.

const SECRET = { pin: '1234', list: [1, 'ü', null] };

checks('encryption', ({ each }) => {
  for (const [bits, encoding] of [
    [128, 'cipher+aes-128-gcm/base64'],
    [256, 'cipher+aes-256-gcm/base64'],
  ]) {
    each(`messages of ${bits} bits are read by those who have the key`, async (scene) => {
      const room = scene.name();
      const cipher = { key: await scene.sdk.generateRandomKey(bits) };
      const { inbox } = await subscribed(await scene.connected('friend'), room, { cipher });
      const stranger = await subscribed(await scene.connected('stranger'), room);
      const author = (await scene.connected('author')).channels.get(room, { cipher });
      await author.publish('n', SECRET);
      await author.publish([{ name: 'a', data: 1 }, { name: 'b', data: SECRET }]);
      await author.publish('n', 'gone', { ephemeral: true });
      const messages = await inbox.first(4);
      assert.deepEqual(inbox.data, [SECRET, 1, SECRET, 'gone']);
      assert.deepEqual(messages.map(({ encoding }) => encoding), Array(4).fill(undefined));
      for (const message of await stranger.inbox.first(4)) {
        assert.equal(message.encoding, encoding);
        assert.match(message.data, /^[A-Za-z0-9+/]+=*$/);
      }
    });
  }

  each('encrypted history is read by those who have the key', async (scene) => {
    const room = scene.name();
    const cipher = { key: await scene.sdk.generateRandomKey() };
    const author = (await scene.connected('author')).channels.get(room, { cipher });
    await author.publish('n', SECRET);
    await author.publish([{ name: 'n', data: 1 }, { name: 'n', data: 2 }]);
    const friend = (await scene.connected('friend')).channels.get(room, { cipher });
    const data = ({ messages }) => messages.map((message) => message.data);
    assert.deepEqual(data(await friend.history()), [SECRET, 1, 2]);
    const stranger = (await scene.connected('stranger')).channels.get(room);
    for (const { encoding } of (await stranger.history()).messages) {
      assert.match(encoding, /^cipher/);
    }
  });

  each('encrypted presence is read by those who have the key, last words too', async (scene) => {
    const room = scene.name();
    const cipher = { key: await scene.sdk.generateRandomKey() };
    const watcher = (await scene.connected('friend')).channels.get(room, { cipher });
    const watch = new Watch(watcher);
    await settled(watcher);
    const { presence } = (await scene.connected('alice')).channels.get(room, { cipher });
    await presence.enter(SECRET);
    assert.deepEqual((await watch.next('enter', 'alice')).data, SECRET);
    await presence.update('changed');
    assert.equal((await watch.next('update', 'alice')).data, 'changed');
    const rest = scene.rest().channels.get(room);
    const [member] = (await rest.presence.get()).items;
    assert.match(member.encoding, /^cipher/);
    const friend = scene.rest().channels.get(room, { cipher });
    assert.equal((await friend.presence.get()).items[0].data, 'changed');
    await presence.leave();
    assert.equal((await watch.next('leave', 'alice')).data, 'changed');
  });

  each('REST and realtime read what the other encrypted', async (scene) => {
    const room = scene.name();
    const cipher = { key: await scene.sdk.generateRandomKey() };
    const rest = scene.rest().channels.get(room, { cipher });
    const { channel, inbox } = await subscribed(await scene.connected('friend'), room, { cipher });
    await rest.publish('n', SECRET);
    await rest.publish([{ name: 'n', data: 1 }, { name: 'n', data: 2 }]);
    await channel.publish('n', 'from realtime');
    await inbox.first(4);
    assert.deepEqual(inbox.data, [SECRET, 1, 2, 'from realtime']);
    const { items } = await rest.history({ direction: 'forwards' });
    assert.deepEqual(items.map(({ data }) => data), inbox.data);
  });

  each('who has another key reads nothing and loses nothing else', async (scene) => {
    const room = scene.name();
    const [key, other] = [await scene.sdk.generateRandomKey(), await scene.sdk.generateRandomKey()];
    const reader = await scene.connected('reader');
    const { inbox } = await subscribed(reader, room, { cipher: { key: other } });
    const author = await scene.connected('author');
    await author.channels.get(room, { cipher: { key } }).publish('n', SECRET);
    await (await scene.connected('plain')).channels.get(room).publish('n', 'plain');
    await inbox.first(1);
    assert.deepEqual(inbox.data, ['plain']);
  });
});
