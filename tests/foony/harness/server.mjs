// The process under test: its configuration file, its start, its ready line, its end.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync, openSync, closeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { breakWaits, within } from './wait.mjs';

const BUILT = fileURLToPath(new URL('../../../target/release/headcount', import.meta.url));
const READY_MS = 15_000;
const EXIT_MS = 10_000;
const PANIC = /panicked at/;

const EVERYTHING = { '*': ['*'] };

export const KEYS = {
  main: { name: 'demo.kid_main', secret: 'sk_main_secret', capability: EVERYTHING },
  /** Of another app. */
  other: { name: 'other.kid_other', secret: 'sk_other_secret', capability: EVERYTHING },
  /** May do everything, in some channels only, or some things only. */
  narrow: {
    name: 'demo.kid_narrow',
    secret: 'sk_narrow:with:colons',
    capability: {
      'open:*': ['*'],
      'hear:*': ['subscribe'],
      'speak:*': ['publish'],
      'exact': ['subscribe', 'publish'],
    },
  },
};

/** The key as clients write it. */
export const credential = (key) => `${key.name}:${key.secret}`;

const AMPLE = { history_messages: 2000, history_bytes: 64 * 1024 * 1024 };

/** The first that matches a channel holds for it. */
const NAMESPACES = [
  { match: 'short:*', history_messages: 5 },
  { match: 'grace:*', presence_grace_ms: 1500 },
  { match: 'patient:*', presence_grace_ms: 60_000 },
  { match: 'slow:gap:*', slow_consumer: 'gap', ...AMPLE },
  { match: 'slow:close:*', slow_consumer: 'close', ...AMPLE },
  { match: '*', ...AMPLE },
];

export class Server {
  #home = mkdtempSync(join(tmpdir(), 'headcount-foony-'));
  #child = null;
  #exit = null;
  #stopping = false;

  static async start() {
    const server = new Server();
    servers.add(server);
    writeFileSync(server.#path('headcount.toml'), configuration(server.#path('data')));
    try {
      await server.#launch();
    } catch (error) {
      await server.stop().catch(() => {});
      throw error;
    }
    return server;
  }

  /** Ends the process and starts another one with the same files. */
  async restart() {
    await this.#terminate();
    await this.#launch();
  }

  /** Ends the process; throws when it does not end well. */
  async stop() {
    try {
      await this.#terminate();
    } finally {
      this.abandon();
    }
  }

  /** Leaves nothing behind, however it is. */
  abandon() {
    servers.delete(this);
    this.#child?.kill('SIGKILL');
    rmSync(this.#home, { recursive: true, force: true });
  }

  get log() {
    return readFileSync(this.#path('stderr'), 'utf8');
  }

  #path(name) {
    return join(this.#home, name);
  }

  async #launch() {
    const binary = process.env.HEADCOUNT_BIN ?? BUILT;
    const stderr = openSync(this.#path('stderr'), 'a');
    const child = spawn(binary, ['serve', '--config', this.#path('headcount.toml')], {
      cwd: this.#home,
      stdio: ['ignore', 'pipe', stderr],
    });
    closeSync(stderr);
    this.#child = child;
    this.#stopping = false;
    this.#exit = new Promise((resolve) => {
      child.once('error', (error) => resolve(`${binary}: ${error.message} (set HEADCOUNT_BIN)`));
      child.once('exit', (code, signal) => resolve(code === 0 ? '' : `${signal ?? code}`));
    });
    void this.#exit.then((how) => this.#ended(how));
    const lines = createInterface({ input: child.stdout });
    const ready = new Promise((resolve) => {
      lines.on('line', (line) => line.startsWith('ready ') && resolve(line));
    });
    const what = () => `ready line of the server\n${this.log}`;
    this.#addresses(await within(what, ready, READY_MS));
  }

  #ended(how) {
    if (this.#stopping) return;
    const log = this.log.split('\n').slice(-40).join('\n');
    breakWaits(new Error(`the server ended by itself (${how || 'exit code 0'})\n${log}`));
  }

  #addresses(line) {
    const port = (name) => {
      const found = line.match(new RegExp(`\\b${name}=127\\.0\\.0\\.1:(\\d+)`));
      if (!found) throw new Error(`no ${name}= in ${line}`);
      return Number(found[1]);
    };
    this.port = port('http');
    this.syncPort = port('sync_tcp');
    this.ws = `ws://127.0.0.1:${this.port}`;
    this.http = `http://127.0.0.1:${this.port}`;
  }

  async #terminate() {
    this.#stopping = true;
    this.#child.kill('SIGTERM');
    const how = await within('end of the server after SIGTERM', this.#exit, EXIT_MS);
    if (how || PANIC.test(this.log)) throw new Error(`the server ended with ${how}\n${this.log}`);
  }
}

/** What is still there when this process ends, however it ends. */
const servers = new Set();
process.on('exit', () => servers.forEach((server) => server.abandon()));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));

function configuration(dataDir) {
  return [
    section('cores', { shards: Number(process.env.HEADCOUNT_TEST_SHARDS ?? 2) }),
    section('listen', {
      http: '127.0.0.1:0',
      sync_tcp: '127.0.0.1:0',
      admin: '127.0.0.1:0',
    }),
    section('data', { dir: dataDir }),
    section('auth', { anonymous: true }),
    ...Object.values(KEYS).map((key) => section('[auth.key]', key)),
    ...NAMESPACES.map((namespace) => section('[namespace]', namespace)),
  ].join('\n');
}

function section(name, settings) {
  const lines = Object.entries(settings).map(([key, value]) => `${key} = ${toml(value)}\n`);
  return `[${name}]\n${lines.join('')}`;
}

function toml(value) {
  if (typeof value !== 'object' || Array.isArray(value)) return JSON.stringify(value);
  const entry = ([key, item]) => `${JSON.stringify(key)} = ${toml(item)}`;
  return `{ ${Object.entries(value).map(entry).join(', ')} }`;
}
