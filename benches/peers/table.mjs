// Makes a table of the records in a folder: `node table.mjs FOLDER > peers.md`. A record is named
// ROW-SERVER-ROUND.json.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const folder = process.argv[2];
const SERVERS = { headcount: 'Headcount', redis: 'Redis', ws: 'ws', tungstenite: 'tokio-tungstenite', uwebsockets: 'uWebSockets' };
const metric = (name) => (record) => record.metrics[name];
const delay = (name, field) => (record) => record.latencies.find((latency) => latency.name === name)?.[field];

// What is shown of a row: which record it comes from, what it is called, how it is read.
const LINES = [
  ['fanout-w2', '1 to 1,000, 64 B, window 2: delivered/s', metric('delivered_per_s'), 'higher'],
  ['fanout-w32', '1 to 1,000, 64 B, window 32: delivered/s', metric('delivered_per_s'), 'higher'],
  ['fanout-w256', '1 to 1,000, 64 B, window 256: delivered/s', metric('delivered_per_s'), 'higher'],
  ['fanout-1k', '1 to 1,000, 1 KiB, window 32: delivered/s', metric('delivered_per_s'), 'higher'],
  ['room-100p', '100 publishers, one channel of 1,000, window 32: delivered/s', metric('delivered_per_s'), 'higher'],
  ['many-w1', '1,000 channels of 10, 100 publishers, window 1: delivered/s', metric('delivered_per_s'), 'higher'],
  ['many-w16', '1,000 channels of 10, 100 publishers, window 16: delivered/s', metric('delivered_per_s'), 'higher'],
  ['latency', '1 to 1 at 1,000/s: p50, us', delay('delivery', 'p50_us'), 'lower'],
  ['latency', '1 to 1 at 1,000/s: p99, us', delay('delivery', 'p99_us'), 'lower'],
  ['churn', 'connect, subscribe, close: connections/s', metric('cycles_per_s'), 'higher'],
  ['churn-hang-up', 'the same, without a closing handshake: connections/s', metric('cycles_per_s'), 'higher'],
  ['idle', 'open connection, nothing sent: resident bytes', metric('server_bytes_per_open'), 'lower'],
  ['idle', 'idle connection, authenticated: resident bytes', metric('server_bytes_per_greeted'), 'lower'],
  ['idle', 'connection with a separate subscription: resident bytes', metric('server_bytes_per_member'), 'lower'],
];

const records = readdirSync(folder)
  .map((file) => /^(.+)-(headcount|redis|ws|tungstenite|uwebsockets)-(\d+)\.json$/.exec(file))
  .filter((match) => match)
  .map(([file, row, server]) => ({ row, server, ...JSON.parse(readFileSync(join(folder, file))) }));
if (records.length === 0) throw new Error(`${folder}: no records`);
const servers = Object.keys(SERVERS).filter((server) => records.some((record) => record.server === server));

const of = (row, server) => records.filter((record) => record.row === row && record.server === server);

function spread(values) {
  const sorted = values.filter((value) => value !== undefined).sort((a, b) => a - b);
  if (sorted.length === 0) return undefined;
  const middle = (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
  return { min: sorted[0], median: middle, max: sorted.at(-1) };
}

function short(value) {
  if (value >= 1e6) return `${(value / 1e6).toPrecision(3)} M`;
  if (value >= 1e4) return `${(value / 1e3).toPrecision(3)} k`;
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

const cell = (s) => (s ? `${short(s.min)} / **${short(s.median)}** / ${short(s.max)}` : '-');

/// Headcount's median by the best peer's; above 1 is good where higher is better.
function ratio(spreads, better) {
  const { headcount, ...peers } = spreads;
  const medians = Object.values(peers).flatMap((s) => (s ? [s.median] : []));
  if (!headcount || medians.length === 0) return '-';
  const best = better === 'higher' ? Math.max(...medians) : Math.min(...medians);
  const value = headcount.median / best;
  return `**${value.toPrecision(3)}** (${better} is better)`;
}

function table(head, lines) {
  return [head, head.map(() => '---'), ...lines].map((line) => `| ${line.join(' | ')} |`).join('\n');
}

const spreadsOf = (row, read) => Object.fromEntries(servers.map((server) => [server, spread(of(row, server).map(read))]));
const lines = LINES.filter(([row]) => records.some((record) => record.row === row));
const names = servers.map((server) => SERVERS[server]);

const results = lines.map(([row, name, read, better]) => {
  const spreads = spreadsOf(row, read);
  return [name, ...servers.map((server) => cell(spreads[server])), ratio(spreads, better)];
});

const busy = lines.filter(([row, , read]) => row !== 'idle' && read(of(row, servers[0])[0] ?? records[0]) !== undefined);
const rowsOnce = [...new Map(busy.map((line) => [line[0], line])).values()];
const nsPerUnit = (record) => record.metrics.server_ns_per_delivery ?? record.metrics.server_ns_per_connection;
const costs = rowsOnce.map(([row, name]) => {
  const cost = (server) => {
    const median = (read) => spread(of(row, server).map(read))?.median;
    const [ns, cpu, busy] = [nsPerUnit, metric('server_cpu_percent'), metric('generator_busy_percent')].map(median);
    return ns === undefined ? '-' : `${short(ns)} ns; ${cpu.toFixed(0)} %; ${busy.toFixed(0)} %`;
  };
  return [name.replace(/:.*/, ''), ...servers.map(cost)];
});

const faults = ['lost', 'duplicated', 'reordered', 'disconnected'];
const faulty = records.filter((record) => faults.some((fault) => record.metrics[fault] > 0));
const fault = (record) => `- ${SERVERS[record.server]}, ${record.row}: ${faults.map((f) => `${f} ${record.metrics[f] ?? 0}`).join(', ')}`;
const [first] = records;
const commits = [...new Set(records.map((record) => record.commit ?? 'unknown'))].join(', ');
const rounds = Math.max(...lines.flatMap(([row]) => servers.map((server) => of(row, server).length)));
const versionsFile = join(folder, 'versions');
const versions = existsSync(versionsFile) ? readFileSync(versionsFile, 'utf8').trim().split('\n').join(', ') : 'versions unknown';
const counts = [...new Set(records.filter((record) => record.scenario === 'fanout').map((record) => record.options.window_counts ?? 'acks'))];
const counted = counts.includes('acks')
  ? 'In some or all of these runs a publish was done when the server had acknowledged it (Redis: with its reply to PUBLISH), whether it had delivered it or not.'
  : 'A publish is done when its last subscriber has received it.';
const gib = (first.machine.memory_bytes / 2 ** 30).toFixed(0);

console.log(`# Headcount compared with other servers

\`benches/peers/run\`, ${new Date(first.taken_at_unix_s * 1000).toISOString().slice(0, 10)}, Headcount at commit ${commits}. ${first.machine.cpu_model},
${first.machine.cpus} CPUs, ${gib} GiB, Linux ${first.machine.kernel}, ${first.machine.congestion_control}. Every server alone on one CPU, the load generator busy-polling on
another one, loopback, no TLS, no persistence. Rounds: ${rounds}, the servers in turn in each, a fresh process for every number;
${first.options.duration} measured after ${first.options.warm_up} of warm-up. Minimum / **median** / maximum. Peers: ${versions}.

\`window\` publishes of each publisher are in flight. ${counted}
The WebSocket servers exchange the same bytes; Redis uses RESP over TCP, without an upgrade, masks, serials and a
credential. The last column is Headcount's median by that of the best peer.

${table(['work', ...names, 'Headcount / best peer'], results)}

## CPU of the server per delivery or connection; its CPU; utilization of the generator

Medians. A generator near 100 % is the bottleneck, and the server may be faster than shown.

${table(['work', ...names], costs)}

## Faults

${faulty.length === 0 ? 'Lost, duplicated, reordered and disconnected: 0 in all runs.' : faulty.map(fault).join('\n')}`);
