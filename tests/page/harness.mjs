// A server as a newcomer starts it, and Chromium without a window.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const BUILT = fileURLToPath(new URL('../../target/release/headcount', import.meta.url));
const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js');
const PATIENCE_MS = 10_000;

/** Starts a server without keys, unless `more` of the configuration says otherwise. */
export async function serve(more = '', { admin = '127.0.0.1:0' } = {}) {
  const home = mkdtempSync(join(tmpdir(), 'headcount-page-'));
  const listen = `[listen]\nhttp = "127.0.0.1:0"\nsync_tcp = "127.0.0.1:0"\nadmin = "${admin}"\n`;
  writeFileSync(join(home, 'headcount.toml'), `${listen}[data]\ndir = ${JSON.stringify(join(home, 'data'))}\n${more}`);
  const exposed = admin.startsWith('127.') ? [] : ['--insecure-plaintext'];
  const child = spawn(process.env.HEADCOUNT_BIN ?? BUILT, ['serve', '--config', 'headcount.toml', ...exposed], {
    cwd: home, stdio: ['ignore', 'pipe', 'pipe'],
  });
  process.once('exit', () => child.kill('SIGKILL'));
  let log = '';
  child.stderr.on('data', (data) => { log += data; });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const ready = new Promise((resolve) => {
    createInterface({ input: child.stdout }).on('line', (line) => line.startsWith('ready ') && resolve(line));
  });
  const line = await Promise.race([ready, ended.then((code) => { throw new Error(`it ended with ${code}\n${log}`); })]);
  const address = (name) => line.match(new RegExp(`\\b${name}=(\\S+)`))[1];
  return {
    http: `http://${address('http')}`,
    ws: `ws://${address('http')}`,
    admin: `http://${address('admin')}`,
    pid: child.pid,
    ended,
    log: () => log,
    key: () => readFileSync(join(home, 'data/dev-key'), 'utf8').trim(),
    async stop() {
      child.kill('SIGTERM');
      await ended;
      rmSync(home, { recursive: true, force: true });
    },
  };
}

export async function browse() {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  return chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] });
}

/** Opens a page whose errors fail the test at `check`. */
export async function open(context, url) {
  const page = await context.newPage();
  const errors = [];
  page.setDefaultTimeout(PATIENCE_MS);
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
  await page.goto(url);
  return Object.assign(page, { errors });
}

/** Waits until `check` gives something true. */
export async function until(what, check, ms = PATIENCE_MS) {
  const end = Date.now() + ms;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await sleep(20);
  }
}

/** What axe-core finds, in both colour schemes and at the width of a phone. */
export async function violations(page) {
  const found = [];
  for (const colorScheme of ['light', 'dark']) {
    for (const width of [1280, 360]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 800 });
      await page.addScriptTag({ path: AXE }).catch(() => page.evaluate(readFileSync(AXE, 'utf8')));
      const { violations } = await page.evaluate(() => globalThis.axe.run());
      for (const { id, nodes } of violations) {
        found.push(`${colorScheme} ${width}: ${id}: ${nodes.map((node) => node.html).join(' | ')}`);
      }
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      if (wide > 0) found.push(`${colorScheme} ${width}: the page is ${wide} px too wide`);
    }
  }
  return found;
}
