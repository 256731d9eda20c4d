// Decoding in this tab, for the viewer of `rdeic-rt serve` and the demo (web/demo), with the package of web/rdeic-web.

/** Decodes files with the bundle that each was encoded with; of several decoders, only the last one used keeps its memory. */
export class Here {
  #package;
  #bundles;
  #decoders = new Map(); // address of a bundle -> promise
  #options;
  #last = null;

  /** `rdeicWeb`: the imported package; `bundles`: a list of { url, model_ids }; `options`: of `RdcDecoder.load`. */
  constructor(rdeicWeb, bundles, options = {}) {
    this.#package = rdeicWeb;
    this.#bundles = bundles;
    this.#options = options;
  }

  /** Returns what a file's header says, { width, height, modelId, rate, ... }; no bundle is needed. */
  info(data, options) {
    return this.#package.RdcDecoder.info(data, options);
  }

  /** Returns the decoder for a file, and the rate of its bundle that the file is nearest to from below. */
  async decoderOf({ modelId, rate }) {
    const bundle = this.#bundles.find(({ model_ids }) => model_ids.includes(modelId));
    if (!bundle) throw new Error(`the file needs model ${modelId}, which no bundle has that is offered here`);
    const decoder = await this.#loaded(bundle.url);
    if (this.#last !== decoder) this.#last?.trim();
    this.#last = decoder;
    const rates = decoder.bundle.rates.filter((one) => one.modelId === modelId);
    return { decoder, rate: rates.findLast(({ number }) => number <= rate) ?? rates[0] };
  }

  #loaded(url) {
    if (!this.#decoders.has(url)) {
      const decoder = this.#package.RdcDecoder.load(url, this.#options);
      this.#decoders.set(url, decoder);
      decoder.catch(() => this.#decoders.delete(url)); // the next file tries again
    }
    return this.#decoders.get(url);
  }

  /** Returns the result of `decodeWithDetails`, and the image as a PNG file. */
  async decode(decoder, data, options) {
    const decoded = await decoder.decodeWithDetails(data, options);
    return { ...decoded, png: await this.#package.pngOf(decoded) };
  }
}
