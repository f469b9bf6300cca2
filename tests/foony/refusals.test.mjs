// Every request is answered, whatever is wrong with it: SDKs wait for ever (foony.md section 0,
// trap 3). One check per path.

import assert from 'node:assert/strict';
import { checks } from './harness/scene.mjs';
import { range } from './harness/sdk.mjs';
import { KEYS, credential } from './harness/server.mjs';
import { RawJson, record, uvarint } from './harness/wire.mjs';

/** One request of each kind that names a channel. */
const REQUESTS = {
  sub: { t: 'sub' },
  unsub: { t: 'unsub' },
  pub: { t: 'pub', name: 'n', data: 1 },
  pres: { t: 'pres', action: 'enter', data: 1 },
  presSub: { t: 'presSub' },
  presUnsub: { t: 'presUnsub' },
  hist: { t: 'hist' },
  fetch: { t: 'fetch', fromSerial: 1 },
};

const BAD_NAMES = {
  'empty': '',
  'with a space': 'a b',
  'with a dot': 'a.b',
  'with a slash': 'a/b',
  'with a colon in front': ':a',
  'with a letter that is not ASCII': 'ä',
  'of 256 bytes': 'x'.repeat(256),
  'of 70 KiB': 'x'.repeat(70 * 1024),
};

/** The answer must be this refusal, and the connection must live. */
async function refuses(client, frame, code) {
  const answer = await client.ask(frame);
  assert.deepEqual([answer.t, answer.code], ['err', code], JSON.stringify(answer).slice(0, 300));
  assert.ok(answer.message, 'it says why');
  await client.expectAlive();
}

checks('refusals', ({ once }) => {
  for (const [t, frame] of Object.entries(REQUESTS)) {
    once(`${t} of a bad channel name is refused with 40001`, async (scene) => {
      const client = await scene.raw('alice');
      for (const channel of Object.values(BAD_NAMES)) {
        await refuses(client, { ...frame, channel }, 40001);
      }
    });
  }

  for (const [what, channel] of Object.entries(BAD_NAMES)) {
    once(`a channel name ${what} is refused with 40001`, async (scene) => {
      await refuses(await scene.raw('alice'), { t: 'sub', channel }, 40001);
    });
  }

  for (const channel of ['x'.repeat(255), 'a:', 'a::b', '-', '_', '0', 'A-z_0:9']) {
    once(`a channel name ${channel.slice(0, 10)} is accepted`, async (scene) => {
      const client = await scene.raw('alice');
      for (const frame of Object.values(REQUESTS)) {
        assert.notEqual((await client.ask({ ...frame, channel })).t, 'err', frame.t);
      }
    });
  }

  for (const t of ['sub', 'pub', 'pres', 'presSub', 'hist', 'fetch']) {
    once(`${t} of a channel that is not granted is refused with 40302`, async (scene) => {
      const client = await scene.raw('narrow', { key: credential(KEYS.narrow) });
      await refuses(client, { ...REQUESTS[t], channel: 'closed' }, 40302);
    });

    once(`${t} that is not granted in a granted channel is refused with 40301`, async (scene) => {
      const client = await scene.raw('narrow', { key: credential(KEYS.narrow) });
      const channel = t === 'pub' ? 'hear:1' : 'speak:1';
      await refuses(client, { ...REQUESTS[t], channel }, 40301);
    });
  }

  for (const text of ['{', 'nul', '1 2', '{"a":}', '"\xff"', "'a'", '[1,]', '\u0000', 'NaN']) {
    const data = new RawJson(Buffer.from(text, text.includes('\xff') ? 'latin1' : 'utf8'));
    const what = JSON.stringify(text);

    once(`the payload ${what} is refused with 40001, and serials stay dense`, async (scene) => {
      const room = scene.name();
      const client = await scene.raw('alice');
      await client.ask({ t: 'sub', channel: room });
      const good = { t: 'pub', channel: room, name: 'n', data: 1 };
      await refuses(client, { ...good, data }, 40001);
      await refuses(client, { ...good, data, ephemeral: true }, 40001);
      const messages = [{ name: 'a', data: 1 }, { name: 'b', data }];
      await refuses(client, { ...good, messages }, 40001);
      assert.equal((await client.ask(good)).seq, 1);
      assert.equal((await client.message(room)).data, 1);
      assert.deepEqual(client.takeAll('msg'), []);
    });

    once(`the state ${what} is refused with 40001`, async (scene) => {
      const channel = scene.name();
      await refuses(await scene.raw('alice'), { t: 'pres', action: 'enter', channel, data }, 40001);
    });
  }

  once('JSON of 10,000 levels is refused with 40001', async (scene) => {
    const channel = scene.name();
    const data = new RawJson('['.repeat(10_000) + ']'.repeat(10_000));
    const client = await scene.raw('alice');
    await refuses(client, { t: 'pub', channel, name: 'n', data }, 40001);
    await refuses(client, { t: 'pres', action: 'enter', channel, data }, 40001);
  });

  once('a publish of 300 KiB is refused with 40001', async (scene) => {
    const client = await scene.raw('alice');
    const [channel, data] = [scene.name(), 'x'.repeat(300 * 1024)];
    await refuses(client, { t: 'pub', channel, name: 'n', data }, 40001);
    await refuses(client, { t: 'pub', channel, name: 'n', data, ephemeral: true }, 40001);
    const messages = [{ name: 'n', data: 1 }, { name: 'n', data }];
    await refuses(client, { t: 'pub', channel, name: '', messages }, 40001);
    assert.equal((await client.ask({ t: 'pub', channel, name: 'n', data: 1 })).seq, 1);
  });

  once('a state of 100 KiB is refused with 40001', async (scene) => {
    const data = 'x'.repeat(100 * 1024);
    const frame = { t: 'pres', action: 'enter', channel: scene.name(), data };
    await refuses(await scene.raw('alice'), frame, 40001);
  });

  once('an unknown presence action is refused with 40001', async (scene) => {
    const client = await scene.raw('alice');
    const bytes = record({ t: 'pres', id: 77, action: 'enter', channel: 'room' });
    bytes[1] = 9;
    client.send(bytes);
    assert.deepEqual((await client.answer(77)).code, 40001);
    await client.expectAlive();
  });

  for (const [t, frame] of Object.entries(REQUESTS)) {
    once(`${t} that is cut short behind its id is refused with its id`, async (scene) => {
      const client = await scene.raw('alice');
      const bytes = record({ ...frame, id: 77, channel: 'a-room-with-a-long-name' });
      client.send(bytes.subarray(0, 12));
      assert.deepEqual((await client.answer(77)).code, 40001);
      await client.expectAlive();
    });
  }

  for (const [what, bytes] of [
    ['an unknown opcode', Buffer.from('630102', 'hex')],
    ['an opcode of a server', record({ t: 'ping' }).fill(16)],
    ['an empty record', Buffer.alloc(0)],
    ['an opcode and nothing else', Buffer.from('02', 'hex')],
  ]) {
    once(`${what} is not answered by an id, and what follows is answered`, async (scene) => {
      const client = await scene.raw('alice');
      client.send(bytes, { t: 'hist', id: 1, channel: 'room' });
      assert.equal((await client.answer(1)).t, 'histRes');
      assert.ok(client.received.every(({ t, id }) => t === 'err' && !id));
    });
  }

  once('bytes behind the fields of a record are ignored', async (scene) => {
    const client = await scene.raw('alice');
    const bytes = record({ t: 'hist', id: 1, channel: scene.name() });
    client.send(Buffer.concat([bytes, Buffer.from('more')]));
    assert.equal((await client.answer(1)).t, 'histRes');
  });

  once('a record that claims more bytes than there are harms nothing before it', async (scene) => {
    const client = await scene.raw('alice');
    const ping = Buffer.from('010a', 'hex');
    client.sendMessage(Buffer.concat([ping, uvarint(1000), Buffer.from('0102', 'hex')]));
    await client.nextOfType('pong');
  });
});

checks('requests with nothing to do', ({ once }) => {
  for (const [what, frame] of [
    ['unsub of a channel that was not subscribed', { t: 'unsub' }],
    ['presUnsub of a channel that was not watched', { t: 'presUnsub' }],
    ['leave of somebody who is no member', { t: 'pres', action: 'leave' }],
  ]) {
    once(`${what} is acknowledged, again and again`, async (scene) => {
      const client = await scene.raw('alice');
      const channel = scene.name();
      for (let i = 0; i < 3; i += 1) {
        assert.equal((await client.ask({ ...frame, channel })).t, 'ack');
      }
    });
  }

  once('history of a channel that nobody used is empty', async (scene) => {
    const client = await scene.raw('alice');
    const channel = scene.name();
    const page = await client.ask({ t: 'hist', channel });
    assert.deepEqual([page.t, page.channel, page.messages], ['histRes', channel, []]);
    assert.equal(page.more, undefined);
  });

  once('a fetch from a channel that nobody used is answered as not resumed', async (scene) => {
    const client = await scene.raw('alice');
    const fetched = await client.ask({ t: 'fetch', channel: scene.name(), fromSerial: 5 });
    assert.deepEqual([fetched.t, fetched.messages, fetched.resumed], ['fetchRes', [], false]);
  });

  for (const [what, more] of [
    ['of any size', { limit: 2 ** 40 }],
    ['before any serial', { before: 2 ** 53 - 1 }],
    ['of one message', { limit: 1 }],
  ]) {
    once(`a page ${what} is answered`, async (scene) => {
      const client = await scene.raw('alice');
      const channel = scene.name();
      for (const data of [1, 2]) await client.ask({ t: 'pub', channel, name: 'n', data });
      const page = await client.ask({ t: 'hist', channel, ...more });
      assert.deepEqual(page.messages.map(({ data }) => data), more.limit === 1 ? [2] : [1, 2]);
    });
  }
});

checks('large and long', ({ once }) => {
  for (const count of [1, 2, 1000]) {
    once(`a batch of ${count} is published`, async (scene) => {
      const client = await scene.raw('alice');
      const channel = scene.name();
      await client.ask({ t: 'sub', channel });
      const messages = range(1, count).map((data) => ({ name: 'n', data }));
      const ack = await client.ask({ t: 'pub', channel, name: '', data: null, messages });
      assert.equal(ack.seq, 1);
      const message = await client.message(channel);
      const data = message.messages?.map((part) => part.data) ?? [message.data];
      assert.deepEqual(data, range(1, count));
    });
  }

  once('a batch of none is a message of its own', async (scene) => {
    const client = await scene.raw('alice');
    const channel = scene.name();
    await client.ask({ t: 'sub', channel });
    await client.ask({ t: 'pub', channel, name: 'n', data: 'own', messages: [] });
    assert.equal((await client.message(channel)).data, 'own');
  });

  once('a batch of 100,000 is refused with 40001', async (scene) => {
    const client = await scene.raw('alice');
    const messages = Array(100_000).fill({ name: '', data: undefined });
    await refuses(client, { t: 'pub', channel: scene.name(), name: '', messages }, 40001);
  });

  once('a batch that claims more members than it has is refused with its id', async (scene) => {
    const client = await scene.raw('alice');
    const one = record({ t: 'pub', id: 77, channel: 'room', name: 'n', messages: [] });
    client.send(Buffer.concat([one.subarray(0, -1), uvarint(2 ** 40)]));
    assert.equal((await client.answer(77)).code, 40001);
    await client.expectAlive();
  });

  for (const [what, more] of [
    ['event name', { name: 'n'.repeat(70 * 1024) }],
    ['message id', { messageId: 'm'.repeat(70 * 1024) }],
    ['encoding', { encoding: 'e'.repeat(70 * 1024) }],
  ]) {
    once(`a publish with a ${what} of 70 KiB is answered`, async (scene) => {
      const client = await scene.raw('alice');
      const frame = { t: 'pub', channel: scene.name(), name: 'n', data: 1, ...more };
      assert.ok(['ack', 'err'].includes((await client.ask(frame)).t));
      await client.expectAlive();
    });
  }

  once('200 subscriptions of one connection are all answered', async (scene) => {
    const client = await scene.raw('alice');
    for (const i of range(1, 200)) {
      const answer = await client.ask({ t: 'sub', channel: scene.name(`many${i}`) });
      assert.ok(answer.t === 'ack' || [40001, 40300].includes(answer.code), JSON.stringify(answer));
    }
  });

  once('200 memberships of one connection are all answered', async (scene) => {
    const client = await scene.raw('alice');
    for (const i of range(1, 200)) {
      const frame = { t: 'pres', action: 'enter', channel: scene.name(`many${i}`) };
      assert.ok(['ack', 'err'].includes((await client.ask(frame)).t));
    }
  });

  once('a message larger than the server takes ends the connection with 1009', async (scene) => {
    const client = await scene.raw('alice');
    client.sendMessage(Buffer.alloc(8 * 1024 * 1024, 1));
    assert.equal((await client.ended()).code, 1009);
  });
});
