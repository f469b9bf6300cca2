// HTTP without an SDK: long polling, REST and CORS (foony.md sections 1.2 to 1.4).

import assert from 'node:assert/strict';
import { checks } from './harness/scene.mjs';
import { range, watched } from './harness/sdk.mjs';
import { KEYS, credential } from './harness/server.mjs';
import { token } from './harness/token.mjs';
import { pass, within } from './harness/wait.mjs';
import { BINARY, framed } from './harness/wire.mjs';

const SESSION = 'foony-lp-session';
const AUTH = { t: 'auth', key: credential(KEYS.main), clientId: 'poller' };
const ORIGIN = { origin: 'https://app.example' };
const basic = (key) => `Basic ${Buffer.from(key).toString('base64')}`;
const MAIN = { authorization: basic(credential(KEYS.main)) };

/** One long-poll request; gives the response with its frames. */
async function lp(scene, path, body, session) {
  const headers = { 'content-type': 'application/octet-stream', ...ORIGIN };
  if (session) headers[SESSION] = session;
  const init = { method: 'POST', headers, body };
  const response = await within(path, fetch(`${scene.server.http}/lp/${path}`, init), 40_000);
  const bytes = Buffer.from(await response.arrayBuffer());
  const frames = response.ok ? BINARY.decode(bytes, true) : [];
  return { status: response.status, headers: response.headers, frames };
}

/** A session that polls when it is told to. */
async function connected(scene, auth = AUTH) {
  const { headers, frames } = await lp(scene, 'connect', framed(auth));
  const session = headers.get(SESSION);
  assert.ok(session, 'a session header');
  assert.equal(frames[0].t, 'connected');
  return {
    poll: () => lp(scene, 'poll', '', session),
    send: (...records) => lp(scene, 'send', framed(...records), session),
    disconnect: () => lp(scene, 'disconnect', undefined, session),
    /** Polls until there are `count` frames. */
    async frames(count) {
      const all = [];
      while (all.length < count) all.push(...(await this.poll()).frames);
      return all;
    },
  };
}

/** One REST request; gives status, headers and JSON. */
async function rest(scene, method, path, { headers = MAIN, body } = {}) {
  const json = body === undefined ? {} : { 'content-type': 'application/json' };
  const init = { method, headers: { ...ORIGIN, ...json, ...headers }, body };
  const response = await within(path, fetch(scene.server.http + path, init));
  const text = await response.text();
  return { status: response.status, headers: response.headers, json: text && JSON.parse(text) };
}

function isError({ status, json }, expectedStatus, code) {
  assert.deepEqual([status, json.error?.code], [expectedStatus, code], JSON.stringify(json));
  assert.equal(json.error.statusCode, status);
  assert.ok(json.error.message);
}

checks('long polling by hand', ({ once }) => {
  for (const [what, auth, code] of [
    ['a wrong key', { key: `${KEYS.main.name}:wrong` }, 40101],
    ['a bad token', { token: token('eve', { secret: 'wrong' }) }, 40101],
    ['an expired token', { token: token('eve', { seconds: -60 }) }, 40102],
  ]) {
    once(`${what} is answered 200 with ${code} and no session`, async (scene) => {
      const greeting = framed({ t: 'auth', ...auth });
      const { status, headers, frames } = await lp(scene, 'connect', greeting);
      assert.equal(status, 200);
      assert.equal(headers.get(SESSION), null);
      assert.deepEqual([frames.length, frames[0].t, frames[0].code], [1, 'err', code]);
    });
  }

  for (const path of ['poll', 'send']) {
    once(`${path} of an unknown session is answered 410, and of none not 2xx`, async (scene) => {
      assert.equal((await lp(scene, path, framed({ t: 'ping' }), 'unknown')).status, 410);
      assert.ok((await lp(scene, path, framed({ t: 'ping' }))).status >= 400);
    });
  }

  once('a poll is held for at least 2 s and released at once by a pong', async (scene) => {
    const session = await connected(scene);
    let answered = false;
    const poll = session.poll().finally(() => (answered = true));
    await pass(2000);
    assert.equal(answered, false, 'still held');
    const sent = Date.now();
    assert.ok((await session.send({ t: 'ping' })).status < 300);
    const { frames } = await poll;
    assert.deepEqual(frames, [{ t: 'pong' }]);
    assert.ok(Date.now() - sent < 1000, `${Date.now() - sent} ms`);
    await session.disconnect();
  });

  once('what came between two polls is answered at once', async (scene) => {
    const session = await connected(scene);
    await session.send({ t: 'ping' }, { t: 'hist', id: 1, channel: scene.name() });
    const asked = Date.now();
    const frames = await session.frames(2);
    assert.deepEqual(frames.map(({ t }) => t), ['pong', 'histRes']);
    assert.ok(Date.now() - asked < 1000);
    await session.disconnect();
  });

  once('many records of one send are answered in order', async (scene) => {
    const channel = scene.name();
    const session = await connected(scene);
    const pubs = range(2, 200).map((id) => ({ t: 'pub', id, channel, name: 'n', data: id }));
    await session.send({ t: 'sub', id: 1, channel }, ...pubs);
    const frames = await session.frames(399);
    assert.deepEqual(frames.filter(({ t }) => t === 'ack').map(({ id }) => id), range(1, 200));
    const messages = frames.filter(({ t }) => t === 'msg');
    assert.deepEqual(messages.map(({ data }) => data), range(2, 200));
    await session.disconnect();
  });

  once('requests behind auth in connect are answered after connected', async (scene) => {
    const request = { t: 'hist', id: 1, channel: scene.name() };
    const { headers, frames } = await lp(scene, 'connect', framed(AUTH, request));
    assert.equal(frames[0].t, 'connected');
    const session = headers.get(SESSION);
    if (frames.length === 1) frames.push(...(await lp(scene, 'poll', '', session)).frames);
    assert.deepEqual(frames.slice(1).map(({ t, id }) => [t, id]), [['histRes', 1]]);
    await lp(scene, 'disconnect', undefined, session);
  });

  once('disconnect leaves at once and ends the session', async (scene) => {
    const channel = scene.name('patient');
    const { watch } = await watched(await scene.connected('watcher'), channel);
    const session = await connected(scene);
    await session.send({ t: 'pres', id: 1, channel, action: 'enter', data: 'bye' });
    await watch.next('enter', 'poller');
    await session.disconnect();
    assert.equal((await watch.next('leave', 'poller')).data, 'bye');
    assert.equal((await session.poll()).status, 410);
    assert.equal((await session.send({ t: 'ping' })).status, 410);
  });

  once('a poll that is held is answered when its session ends', async (scene) => {
    const session = await connected(scene);
    const poll = session.poll();
    await pass(200);
    await session.disconnect();
    const asked = Date.now();
    await poll;
    assert.ok(Date.now() - asked < 3000);
  });

  once('sessions have unguessable names of their own', async (scene) => {
    const names = [];
    for (let i = 0; i < 2; i += 1) {
      const { headers } = await lp(scene, 'connect', framed(AUTH));
      names.push(headers.get(SESSION));
      await lp(scene, 'disconnect', undefined, names[i]);
    }
    assert.notEqual(names[0], names[1]);
    assert.ok(names[0].length >= 16, names[0]);
  });

  once('a session is taken over by a WebSocket under its connection id', async (scene) => {
    const { headers, frames } = await lp(scene, 'connect', framed(AUTH));
    const { connectionId } = frames[0];
    const socket = await scene.raw('poller', { resumeConnectionId: connectionId });
    assert.equal(socket.connected.connectionId, connectionId);
    const session = headers.get(SESSION);
    assert.equal((await lp(scene, 'poll', '', session)).status, 410);
  });
});

checks('REST by hand', ({ once }) => {
  once('the time needs no credential', async (scene) => {
    const { status, json } = await rest(scene, 'GET', '/time', { headers: {} });
    assert.equal(status, 200);
    assert.ok(Array.isArray(json) && json.length === 1 && Math.abs(json[0] - Date.now()) < 10_000);
  });

  once('a publish is answered 201 with channel, id and serial', async (scene) => {
    const channel = scene.name();
    const body = JSON.stringify({ name: 'n', data: 1, id: 'mine' });
    const { status, json } = await rest(scene, 'POST', `/channels/${channel}/messages`, { body });
    assert.equal(status, 201);
    assert.deepEqual(json, { channel, messageId: 'mine', serial: 1 });
  });

  once('a colon in a path may be written as it is or encoded', async (scene) => {
    const channel = scene.name();
    const body = JSON.stringify({ name: 'n', data: 1 });
    for (const name of [channel, encodeURIComponent(channel)]) {
      const { json } = await rest(scene, 'POST', `/channels/${name}/messages`, { body });
      assert.equal(json.channel, channel);
    }
    const { json } = await rest(scene, 'GET', `/channels/${channel}/messages`);
    assert.deepEqual(json.map(({ serial }) => serial), [2, 1]);
  });

  for (const [what, headers, code] of [
    ['no credential', {}, 40101],
    ['a wrong secret', { authorization: basic(`${KEYS.main.name}:wrong`) }, 40101],
    ['Basic that is no base64', { authorization: 'Basic %%%' }, 40101],
    ['a key without a secret', { authorization: basic(KEYS.main.name) }, 40101],
    ['an unknown scheme', { authorization: 'Digest x' }, 40101],
    ['a bad token', { authorization: 'Bearer nonsense' }, 40101],
    ['an expired token', { authorization: `Bearer ${token('eve', { seconds: -60 })}` }, 40102],
  ]) {
    once(`${what} is answered 401 with ${code}`, async (scene) => {
      isError(await rest(scene, 'GET', '/channels/room/messages', { headers }), 401, code);
      const body = '{"name":"n"}';
      isError(await rest(scene, 'POST', '/channels/room/messages', { headers, body }), 401, code);
      isError(await rest(scene, 'GET', '/channels/room/presence', { headers }), 401, code);
    });
  }

  for (const [what, body] of [
    ['no JSON', 'nonsense'],
    ['nothing', ''],
    ['neither object nor array', '"text"'],
    ['an empty array', '[]'],
    ['an array of something else', '[1]'],
    ['a name that is no text', '{"name":1}'],
    ['JSON of 10,000 levels', `{"name":"n","data":${'['.repeat(10_000)}${']'.repeat(10_000)}}`],
  ]) {
    once(`a body with ${what} is answered 400 with 40001`, async (scene) => {
      const channel = scene.name();
      isError(await rest(scene, 'POST', `/channels/${channel}/messages`, { body }), 400, 40001);
      assert.deepEqual((await rest(scene, 'GET', `/channels/${channel}/messages`)).json, []);
    });
  }

  for (const name of ['%3Aroom', 'a%20b', 'a%2Fb', 'a.b', '%C3%BC', '%253A', 'x'.repeat(256)]) {
    once(`the channel ${name.slice(0, 10)} is answered 400 with 40001`, async (scene) => {
      const path = `/channels/${name}/messages`;
      isError(await rest(scene, 'GET', path), 400, 40001);
      isError(await rest(scene, 'POST', path, { body: '{"name":"n"}' }), 400, 40001);
    });
  }

  once('an unknown path is answered 404 with 40400', async (scene) => {
    isError(await rest(scene, 'GET', '/channels/room/nothing'), 404, 40400);
    isError(await rest(scene, 'POST', '/keys/demo.kid_main/nothing', { body: '{}' }), 404, 40400);
  });

  once('the next page is an absolute path without a comma', async (scene) => {
    const path = `/channels/${encodeURIComponent(scene.name())}/messages`;
    for (const data of range(1, 5)) {
      await rest(scene, 'POST', path, { body: JSON.stringify({ name: 'n', data }) });
    }
    const first = await rest(scene, 'GET', `${path}?limit=2`);
    const link = first.headers.get('link');
    const [, next] = link.match(/^<(\/[^>,]*)>; *rel="next"$/) ?? assert.fail(link);
    const second = await rest(scene, 'GET', next);
    assert.deepEqual(second.json.map(({ data }) => data), [3, 2]);
    const last = await rest(scene, 'GET', `${path}?limit=5`);
    assert.equal(last.headers.get('link'), null);
  });

  once('a token is not given without a client id, nor for another key', async (scene) => {
    const path = '/keys/demo.kid_main/requestToken';
    isError(await rest(scene, 'POST', path, { body: '{}' }), 400, 40001);
    const other = '/keys/demo.kid_narrow/requestToken';
    const { status } = await rest(scene, 'POST', other, { body: '{"clientId":"ed"}' });
    assert.ok([401, 403].includes(status), `${status}`);
    const bearer = { authorization: `Bearer ${token('eve')}` };
    const minted = await rest(scene, 'POST', path, { headers: bearer, body: '{"clientId":"ed"}' });
    assert.ok([401, 403].includes(minted.status), `${minted.status}`);
  });
});

checks('CORS', ({ once }) => {
  for (const path of ['/lp/connect', '/lp/poll', '/channels/a/messages', '/keys/k/requestToken']) {
    once(`a preflight of ${path} is allowed`, async (scene) => {
      const asked = {
        'access-control-request-method': 'POST',
        'access-control-request-headers': `authorization,content-type,${SESSION}`,
      };
      const { status, headers } = await rest(scene, 'OPTIONS', path, { headers: asked });
      assert.ok(status >= 200 && status < 300, `${status}`);
      assert.match(headers.get('access-control-allow-origin'), /^(\*|https:\/\/app\.example)$/);
      const list = (name) => headers.get(name).toLowerCase().split(/ *, */);
      for (const method of ['get', 'post', 'options']) {
        assert.ok(list('access-control-allow-methods').includes(method), method);
      }
      for (const header of ['authorization', 'content-type', SESSION]) {
        assert.ok(list('access-control-allow-headers').includes(header), header);
      }
      assert.ok(Number(headers.get('access-control-max-age')) > 0);
    });
  }

  once('answers and refusals may be read by any page', async (scene) => {
    for (const { headers } of [
      await rest(scene, 'GET', '/time'),
      await rest(scene, 'GET', '/channels/room/messages'),
      await rest(scene, 'GET', '/channels/room/messages', { headers: {} }),
      await rest(scene, 'GET', '/channels/a.b/messages'),
      await lp(scene, 'connect', framed({ t: 'auth', key: 'wrong' })),
      await lp(scene, 'poll', '', 'unknown'),
    ]) {
      assert.match(headers.get('access-control-allow-origin'), /^(\*|https:\/\/app\.example)$/);
    }
  });

  once('pages may read the session and the next page', async (scene) => {
    const { headers } = await lp(scene, 'connect', framed(AUTH));
    const exposed = headers.get('access-control-expose-headers').toLowerCase().split(/ *, */);
    assert.ok(exposed.includes(SESSION) && exposed.includes('link'), `${exposed}`);
    await lp(scene, 'disconnect', undefined, headers.get(SESSION));
  });
});
