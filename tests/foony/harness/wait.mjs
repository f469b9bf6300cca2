// Waiting, always with a limit and always saying for what.

import { setTimeout as sleep } from 'node:timers/promises';

const PATIENCE_MS = 6_000;
const LOOK_AGAIN_MS = 5;

let breakage = null;
const breakable = new Set();

/** Fails every wait of this process, present and future: what is waited for cannot come. */
export function breakWaits(error) {
  breakage ??= error;
  for (const reject of breakable) reject(breakage);
}

/** The outcome of `promise`, or an error naming `what` after `ms`. */
export async function within(what, promise, ms = PATIENCE_MS) {
  if (breakage) throw breakage;
  let timer;
  let onBreakage;
  const limit = new Promise((_, reject) => {
    onBreakage = reject;
    breakable.add(reject);
    timer = setTimeout(() => reject(tooLate(what, ms)), ms);
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
    breakable.delete(onBreakage);
  }
}

/** Looks again and again until `check` gives something true, and gives that. */
export async function until(what, check, ms = PATIENCE_MS) {
  const end = Date.now() + ms;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (breakage) throw breakage;
    if (Date.now() > end) throw tooLate(what, ms);
    await sleep(LOOK_AGAIN_MS);
  }
}

/** Lets time pass, for tests of time itself. */
export async function pass(ms) {
  await sleep(ms);
  if (breakage) throw breakage;
}

/** `what` is text, or a function that tells what there is so far. */
function tooLate(what, ms) {
  return new Error(`after ${ms} ms still no ${typeof what === 'function' ? what() : what}`);
}
