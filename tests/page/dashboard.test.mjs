// The dashboard at the admin address.

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import WebSocket from 'ws';
import { browse, open, serve, until, violations } from './harness.mjs';

const MEMBERS = 120;

let server;
let browser;
let context;
let sockets;

/** A member of `chat:big` who receives its messages. */
function member(user) {
  const socket = new WebSocket(server.ws);
  const send = (frame) => socket.send(JSON.stringify({ id: 1, channel: 'chat:big', ...frame }));
  return new Promise((resolve, reject) => {
    socket.on('open', () => send({ t: 'auth', key: server.key(), clientId: user }));
    socket.on('message', (data) => {
      const frame = JSON.parse(data);
      if (frame.t === 'connected') send({ t: 'sub' });
      if (frame.t === 'connected') send({ t: 'pres', id: 2, action: 'enter', data: { typing: false, who: user } });
      if (frame.t === 'ack' && frame.id === 2) resolve({ socket, send });
    });
    socket.on('error', reject);
  });
}

before(async () => {
  server = await serve('[cores]\nshards = 2\n');
  browser = await browse();
  sockets = await Promise.all(Array.from({ length: MEMBERS }, (_, n) => member(`user-${n}`)));
});

after(async () => {
  await browser.close();
  sockets.forEach(({ socket }) => socket.terminate());
  await server.stop();
});

beforeEach(async () => {
  context = await browser.newContext();
});

afterEach(async () => {
  await context.close();
});

const rows = (page, table) => page.locator(`#${table} tbody tr`).allInnerTexts();

async function dashboard() {
  const page = await open(context, server.admin);
  await page.locator('#status', { hasText: 'ready' }).waitFor();
  return page;
}

test('shards are columns with load, turn duration and rates', async () => {
  const page = await dashboard();
  assert.ok(!await page.locator('#login').isVisible(), 'nothing to log in to');
  assert.deepEqual((await page.locator('#shards thead th').allInnerTexts()).slice(1), ['shard 0', 'shard 1']);
  const timer = setInterval(() => sockets[0].send({ t: 'pub', id: 9, name: 'x', data: 1 }), 5);
  try {
    const cells = async (name) => (await rows(page, 'shards')).find((row) => row.startsWith(name))?.split('\t').slice(1);
    const total = (row) => row.reduce((sum, cell) => sum + Number(cell.replace(/[,%]/g, '')), 0);
    await until('deliveries', async () => total(await cells('delivered /s') ?? []) > 5_000);
    assert.equal(total(await cells('connections')), MEMBERS);
    assert.equal(total(await cells('members')), MEMBERS);
    await until('load', async () => total(await cells('load')) > 0);
    await until('turn duration', async () => total(await cells('turn p99.9, ms')) > 0);
    await until('the hottest channel first', async () => {
      const [first] = await rows(page, 'channels');
      return /^chat:big\t120\t/.test(first ?? '') && Number(first.split('\t')[2]) > 50;
    });
    assert.match(await page.locator('#turns-now').innerText(), /p50 [\d.]+, p99 [\d.]+, p99.9 [\d.]+/);
  } finally {
    clearInterval(timer);
  }
  assert.deepEqual(page.errors, []);
});

test('a channel shows its members page by page, and finds one', async () => {
  const page = await dashboard();
  await page.locator('#prefix').fill('chat:');
  await page.keyboard.press('Enter');
  await page.locator('#channels button', { hasText: 'chat:big' }).click();
  const detail = page.locator('#detail');
  await detail.getByText('120 members, 120 users').waitFor();
  const listed = () => detail.locator('tbody tr').count();
  await until('a page', async () => await listed() === 100);
  await detail.getByRole('button', { name: 'More members' }).click();
  await until('all of them', async () => await listed() === 120);
  await detail.locator('#member-search').fill('user-77');
  assert.match(await detail.locator('tbody tr').innerText(), /user-77\t\{"typing":false,"who":"user-77"\}/);
  assert.equal(await listed(), 1);
  await page.keyboard.press('Escape');
  await detail.waitFor({ state: 'hidden' });
});

test('a connection shows what it takes part in, and can be ended', async () => {
  const page = await dashboard();
  await page.locator('#user').fill('user-7');
  await page.keyboard.press('Enter');
  await until('one connection', async () => (await rows(page, 'connections')).length === 1);
  await page.locator('#connections button').click();
  const detail = page.locator('#detail');
  await detail.getByText('subscriber of messages').waitFor();
  assert.match(await detail.innerText(), /foony over websocket/);
  assert.match(await detail.innerText(), /chat:big\s+member/);
  const closed = new Promise((resolve) => sockets[7].socket.once('close', (code, reason) => resolve(`${code} ${reason}`)));
  await detail.getByRole('button', { name: 'Disconnect' }).click();
  assert.equal(await closed, '1008 closed by the operator');
  await until('it is gone', async () => /none/.test((await rows(page, 'connections')).join()));
  await page.locator('#drops', { hasText: 'disconnects: operator' }).waitFor();
  sockets[7] = await member('user-7');
});

test('publish and enter from the page', async () => {
  const page = await dashboard();
  const got = new Promise((resolve) => sockets[3].socket.on('message', (data) => {
    const frame = JSON.parse(data);
    for (const part of frame.bundle ?? [frame]) if (part.t === 'msg' || part.name === 'note') resolve(part.data);
  }));
  await page.locator('#publish-channel').fill('chat:big');
  await page.locator('#publish-name').fill('note');
  await page.locator('#publish-data').fill('{"from":"dashboard"}');
  await page.getByRole('button', { name: 'Publish' }).click();
  await page.locator('#publish-result', { hasText: /published, serial \d+/ }).waitFor();
  assert.deepEqual(await got, { from: 'dashboard' });
  await page.locator('#publish-data').fill('{');
  await page.getByRole('button', { name: 'Publish' }).click();
  await page.locator('#publish-result.bad').waitFor();

  await page.locator('#enter-channel').fill('chat:small');
  await page.getByRole('button', { name: 'Enter' }).click();
  await page.locator('#enter-result', { hasText: 'operator is in chat:small' }).waitFor();
  const members = async () => (await (await fetch(`${server.admin}/v1/apps/demo/channels/chat:small/members`)).json()).members;
  assert.deepEqual((await members()).map((entry) => [entry.user, entry.state]), [['operator', { typing: false }]]);
  await page.getByRole('button', { name: 'Leave' }).click();
  await until('left', async () => (await members()).length === 0);
});

test('the dashboard has no accessibility violation, in both colours and on a phone', async () => {
  const page = await dashboard();
  await until('channels', async () => /chat:big/.test((await rows(page, 'channels')).join()));
  assert.deepEqual(await violations(page), []);
  await page.locator('#channels button', { hasText: 'chat:big' }).click();
  await page.locator('#detail').getByText('user-5').first().waitFor();
  assert.deepEqual(await violations(page), []);
});

test('on other addresses than loopback it asks for the admin token', async () => {
  const key = '[[auth.key]]\nname = "demo.main"\nsecret = "sk_main"\n';
  const other = await serve(`${key}[admin]\ntoken = "secret-token"\n`, { admin: '0.0.0.0:0' });
  const page = await open(context, other.admin.replace('0.0.0.0', '127.0.0.1'));
  await page.locator('#token').fill('secret-token');
  await page.getByRole('button', { name: 'Show' }).click();
  await page.locator('#status', { hasText: 'ready' }).waitFor();
  await until('shards', async () => (await rows(page, 'shards')).length > 1);
  await other.stop();
});
