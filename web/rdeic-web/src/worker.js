// The worker of an RdcDecoder: it runs one codec, and answers { id, call, argument } with { id, progress }, any number
// of them, and then { id, result } or { id, error }. { id, abort: true } ends a call at its next part.

import { Codec } from "./codec.js";
import { RdcError } from "./errors.js";

let codec = null;
const aborts = new Map(); // id -> AbortController

const calls = {
  async open({ url, options }) {
    codec = await Codec.open(url, options);
    return { manifest: codec.manifest, stats: codec.stats };
  },
  async decode({ data, options }) {
    const result = await codec.decode(data, options);
    return { ...result, stats: { ...codec.stats, seconds: result.seconds } };
  },
  async prepare({ options }) {
    await codec.prepare(options);
    return { stats: codec.stats };
  },
};

self.onmessage = async ({ data: { id, call, argument, abort } }) => {
  if (abort) return aborts.get(id)?.abort();
  const controller = new AbortController();
  aborts.set(id, controller);
  argument.options.signal = controller.signal;
  argument.options.report = (progress) => self.postMessage({ id, progress });
  try {
    const result = await calls[call](argument);
    self.postMessage({ id, result }, result.image ? [result.image.data.buffer] : []);
  } catch (error) {
    self.postMessage({ id, error: described(error) });
  } finally {
    aborts.delete(id);
  }
};

/** Returns an error as something that can be sent. */
function described(error) {
  if (error instanceof RdcError) return { code: error.code, message: error.message };
  if (error?.name === "AbortError") return { code: "cancelled", message: error.message };
  const { code, message } = new RdcError("internal", `${error?.stack ?? error}`);
  return { code, message };
}
