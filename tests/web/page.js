// What tests call in the page: results and errors as JSON.

import * as exact from "/modules/rdeic-web/src/exact.js";
import * as rdeic from "/modules/rdeic-web/src/index.js";

const bytesOf = async (url) => new Uint8Array(await (await fetch(url)).arrayBuffer());

function base64(data) {
  let text = "";
  for (let at = 0; at < data.length; at += 0x8000) text += String.fromCharCode(...data.subarray(at, at + 0x8000));
  return btoa(text);
}

const described = (error) => ({ error: error.code ?? error.name, message: error.message });

async function sha256(data) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const decoders = {};

globalThis.page = {
  rdeic,
  decoders,

  /** Loads a decoder under a name. */
  async load(name, bundle, options) {
    try {
      decoders[name] = await rdeic.RdcDecoder.load(bundle, options);
      return decoders[name].bundle;
    } catch (error) {
      return described(error);
    }
  },

  /** Decodes a file at an address. */
  async decode(name, file, { seed, ...options } = {}) {
    const progress = [];
    options.onProgress = (one) => progress.push([one.stage, one.done, one.total]);
    if (seed !== undefined) options.seed = BigInt(seed);
    try {
      const { image, metadata, ...details } = await decoders[name].decodeWithDetails(await bytesOf(file), options);
      const isImageData = image instanceof ImageData;
      return {
        ...{ width: image.width, height: image.height, data: base64(image.data), isImageData },
        ...{ icc: metadata.icc?.length ?? null, exif: metadata.exif?.length ?? null },
        ...{ ...details, progress, stats: decoders[name].stats },
      };
    } catch (error) {
      return described(error);
    }
  },

  /** Returns the SHA-256 of each of a file's latents. */
  async latents(bundle, file) {
    const found = await exact.loadExact();
    const model = found.openBundle(await bytesOf(`${bundle}/bundle.json`));
    const data = await bytesOf(file);
    const { modelId, rate: number } = found.readInfo(data);
    const rate = model.rateOf(modelId, number);
    model.loadEntropy(rate, await bytesOf(`${bundle}/${model.entropyPath(rate)}`));
    const { tensors } = model.decodeLatents(data);
    const hashes = {};
    for (const [name, { dims, data: elements }] of Object.entries(tensors)) {
      hashes[name] = { dims: [...dims], sha256: await sha256(elements) };
    }
    model.free();
    return hashes;
  },

  /** Returns what a file's header says. */
  async info(file, options) {
    try {
      return await rdeic.RdcDecoder.info(await bytesOf(file), options);
    } catch (error) {
      return described(error);
    }
  },
};
