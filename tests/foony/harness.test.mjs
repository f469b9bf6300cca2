// The tests' own codec against the golden bytes, so that a failure elsewhere is not its fault.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { BINARY, record } from './harness/wire.mjs';
import { crc32c } from './harness/sync.mjs';
import { KEYS } from './harness/server.mjs';
import { claimsOf, token } from './harness/token.mjs';

function vectors(name) {
  const text = readFileSync(new URL(`../vectors/${name}`, import.meta.url), 'utf8');
  return text.trim().split('\n').map((line) => JSON.parse(line));
}

const isReadAsTheSdkDoes = ({ kind, name }) => kind !== 'stream' && !name.includes('bundle');

describe('harness', () => {
  test('frames of clients are written as the golden bytes', () => {
    const ours = vectors('foony.jsonl').filter(({ dir, kind }) => dir === 'c2s' && !kind);
    assert.ok(ours.length > 25, 'there are vectors');
    for (const { name, frame, hex } of ours) {
      assert.equal(record(frame).toString('hex'), hex, name);
    }
  });

  test('golden bytes of servers are read as the SDK reads them', () => {
    const theirs = vectors('foony.jsonl').filter(({ dir }) => dir === 's2c');
    assert.ok(theirs.length > 25, 'there are vectors');
    for (const { name, framed, decoded } of theirs.filter(isReadAsTheSdkDoes)) {
      assert.deepEqual(BINARY.decode(Buffer.from(framed, 'hex'), true), [decoded], name);
    }
  });

  test('a record that is not whole is an error', () => {
    assert.throws(() => BINARY.decode(Buffer.from('0210', 'hex'), true), /too soon/);
    assert.throws(() => BINARY.decode(Buffer.from('020c00', 'hex'), true), /too soon/);
  });

  test('tokens are signed as the golden one', () => {
    const [golden] = vectors('foony_auth.jsonl');
    const [name, secret] = golden.key.split(':');
    const { sub, ...claims } = golden.payload;
    assert.equal(token(sub, { key: { name, secret }, claims }), golden.token);
    assert.deepEqual(claimsOf(golden.token, { secret }), golden.payload);
    assert.throws(() => claimsOf(golden.token, KEYS.main), /signature/);
  });

  test('checksums of sync frames are those of the specification', () => {
    assert.equal(crc32c(Buffer.from('123456789')), 0xe3069283);
  });
});
