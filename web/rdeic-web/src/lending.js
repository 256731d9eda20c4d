// One decoder for all who use a bundle in this page, whose worker ends when it has had nothing to do for a while.

import { RdcDecoder } from "./decoder.js";

// A worker holds some hundred MB and takes seconds to be ready, so it is kept for the next image for a while.
const IDLE_MS = 10_000;

/** By address and options of a bundle: { decoder: Promise<RdcDecoder>, users, timer }. */
const lent = new Map();

/**
 * Returns what `work` returns, which is given the page's decoder of a bundle.
 *
 * One that cannot be loaded is loaded anew the next time. `options` are those of `RdcDecoder.load` but `signal`: the
 * decoder belongs to all.
 */
export async function withDecoder(bundleUrl, options, work) {
  const url = new URL(bundleUrl, document.baseURI).href;
  const key = JSON.stringify([url, options]);
  if (!lent.has(key)) {
    const decoder = RdcDecoder.load(url, options);
    lent.set(key, { decoder, users: 0, timer: 0 });
    decoder.catch(() => lent.delete(key));
  }
  const loan = lent.get(key);
  clearTimeout(loan.timer);
  loan.users += 1;
  try {
    return await work(await loan.decoder);
  } finally {
    loan.users -= 1;
    if (loan.users === 0) loan.timer = setTimeout(async () => (await loan.decoder).trim(), IDLE_MS);
  }
}
