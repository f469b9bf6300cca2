// Tokens made by hand, so that the wrong ones can be made too (foony.md section 4).

import { createHmac } from 'node:crypto';
import { KEYS } from './server.mjs';

const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const sign = (input, secret) => createHmac('sha256', secret).update(input).digest('base64url');

export const nowSeconds = () => Math.floor(Date.now() / 1000);

/**
 * A compact JWT of `subject`. `header` and `claims` replace what they name; `secret` signs
 * whatever the header says.
 */
export function token(subject, options = {}) {
  const { key = KEYS.main, capability = { '*': ['*'] }, seconds = 3600 } = options;
  const header = { alg: 'HS256', typ: 'JWT', kid: key.name, ...options.header };
  const iat = nowSeconds() + Math.min(0, seconds - 1);
  const exp = nowSeconds() + seconds;
  const claims = { sub: subject, cap: JSON.stringify(capability), iat, exp, ...options.claims };
  const input = `${part(header)}.${part(claims)}`;
  return `${input}.${header.alg === 'none' ? '' : sign(input, options.secret ?? key.secret)}`;
}

/** The claims of a token; throws unless `key` signed it. */
export function claimsOf(jwt, key) {
  const [header, claims, signature] = jwt.split('.');
  if (signature !== sign(`${header}.${claims}`, key.secret)) throw new Error('bad signature');
  return JSON.parse(Buffer.from(claims, 'base64url'));
}
