// The demo page, in two tabs.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Realtime } from 'sdk-0.16.0';
import WebSocket from 'ws';
import { browse, open, serve, until, violations } from './harness.mjs';

let server;
let browser;
let context;

before(async () => {
  server = await serve();
  browser = await browse();
});

beforeEach(async () => {
  context = await browser.newContext();
});

afterEach(async () => {
  await context.close();
});

after(async () => {
  await browser.close();
  await server.stop();
});

const text = (page, selector) => page.locator(selector).innerText();
const members = (page) => page.locator('#members li:not(.gone)').allInnerTexts();
const here = (page, count) => until(`${count} members`, async () => (await members(page)).length === count);

async function tab(name) {
  const page = await open(context, server.http);
  await page.locator('#status', { hasText: 'connected' }).waitFor();
  await page.locator('#name').fill(name);
  return page;
}

test('the first line of the banner is the address of the page', () => {
  assert.match(server.log().split('\n')[0], new RegExp(`${server.http}/`));
});

test('two tabs see each other: names, cursors, typing, chat with history', async () => {
  const ann = await tab('Ann');
  const bob = await tab('Bob');
  for (const page of [ann, bob]) {
    await until('both names', async () => /Ann/.test(await members(page)) && /Bob/.test(await members(page)));
    assert.equal(await text(page, '#count'), '2');
  }
  const stage = await bob.locator('#stage').boundingBox();
  await bob.mouse.move(stage.x + stage.width / 2, stage.y + stage.height / 2);
  const cursor = ann.locator('.cursor', { hasText: 'Bob' });
  await cursor.waitFor();
  const [at, box] = [await cursor.boundingBox(), await ann.locator('#stage').boundingBox()];
  assert.ok(Math.abs(at.x - box.x - box.width / 2) < 5 && Math.abs(at.y - box.y - box.height / 2) < 5, JSON.stringify(at));
  await bob.mouse.move(5, 5);
  await cursor.waitFor({ state: 'detached' });

  await bob.locator('#text').pressSequentially('hel');
  await ann.locator('#typing', { hasText: 'Bob typing' }).waitFor();
  await bob.locator('#text').fill('hello <b>Ann</b>');
  await bob.keyboard.press('Enter');
  await ann.locator('#messages li', { hasText: 'hello <b>Ann</b>' }).waitFor();
  await until('nobody types', async () => (await text(ann, '#typing')).trim() === '');

  const late = await tab('Cat');
  assert.deepEqual(await late.locator('#messages li').allInnerTexts(), ['Bob hello <b>Ann</b>']);
  await here(ann, 3);
  await late.close();
  await here(ann, 2);
  for (const page of [ann, bob]) {
    assert.deepEqual(page.errors, []);
  }
});

test('a tab that closes leaves at once, a lost connection has its grace', async () => {
  const ann = await tab('Ann');
  const bob = await tab('Bob');
  await here(ann, 2);
  await bob.locator('#drop').click();
  await bob.locator('#status', { hasText: 'connection lost' }).waitFor();
  await sleep(1_500);
  await bob.locator('#drop').click();
  await bob.locator('#status', { hasText: 'connected' }).waitFor();
  assert.equal((await members(ann)).length, 2);
  await bob.locator('#drop').click();
  await sleep(3_000);
  assert.equal((await members(ann)).length, 2, 'within the grace');
  await here(ann, 1);
  await bob.locator('#drop').click();
  await here(ann, 2);
  const closed = Date.now();
  await bob.close();
  await here(ann, 1);
  assert.ok(Date.now() - closed < 1_500, `${Date.now() - closed} ms`);
});

test('what the page offers to copy does what it says', async () => {
  const page = await tab('Ann');
  const [sdk, plain] = [await text(page, '#snippet-sdk'), await text(page, '#snippet-plain')];
  for (const snippet of [sdk, plain]) {
    assert.ok(snippet.split('\n').length <= 12, snippet);
    assert.ok(!snippet.includes('{endpoint}') && !snippet.includes('{token}'), snippet);
  }
  const body = sdk.replace(/^import .*$/m, '');
  const AsyncFunction = (async () => {}).constructor;
  const realtime = await new AsyncFunction('Realtime', 'console', `${body}\nreturn realtime;`)(Realtime, { log() {} });
  await page.locator('#members li', { hasText: 'Alice is typing' }).waitFor();
  await page.locator('#messages li', { hasText: /^Alice hello$/ }).waitFor();
  realtime.close();
  await here(page, 1);
  const socket = new Function('WebSocket', 'console', `${plain}\nreturn socket;`)(WebSocket, { log() {} });
  await page.locator('#members li', { hasText: 'Bob' }).waitFor();
  await page.locator('#messages li', { hasText: /^Bob hello$/ }).waitFor();
  socket.close(1000);
  await here(page, 1);
});

test('the page has no accessibility violation, in both colours and on a phone', async () => {
  const ann = await tab('Ann');
  const bob = await tab('Bob');
  await here(ann, 2);
  assert.deepEqual(await violations(ann), []);
});

test('its token is for the demo, and for no page of another site', async () => {
  const answer = await fetch(server.http);
  assert.equal(answer.headers.get('access-control-allow-origin'), null);
  const [, token] = (await answer.text()).match(/const TOKEN = '([^']+)'/);
  const ask = (channel) => fetch(`${server.http}/channels/${channel}/messages`, { headers: { Authorization: `Bearer ${token}` } });
  assert.equal((await ask('demo:lobby')).status, 200);
  assert.equal((await ask('chat:1')).status, 403);
  for (const headers of [{ 'X-Forwarded-For': '203.0.113.7' }, { Forwarded: 'for=203.0.113.7' }]) {
    assert.doesNotMatch(await (await fetch(server.http, { headers })).text(), /TOKEN/);
  }
  const curl = spawnSync('curl', ['-s', '-H', 'Host: rebound.example', server.http]);
  assert.match(String(curl.stdout), /Headcount/);
  assert.doesNotMatch(String(curl.stdout), /TOKEN/);
});

test('with keys there is no demo unless it is asked for', async () => {
  const key = '[[auth.key]]\nname = "demo.main"\nsecret = "sk_main"\n';
  for (const [more, is] of [[key, false], [`${key}[debug]\ndemo = true\n`, true], ['[debug]\ndemo = false\n', false]]) {
    const other = await serve(more);
    assert.equal(/TOKEN/.test(await (await fetch(other.http)).text()), is, more);
    assert.equal(new RegExp(`${other.http}/ in two`).test(other.log()), is, more);
    await other.stop();
  }
});
