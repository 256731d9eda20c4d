// What librdeic asks of JavaScript (runtime/cpp/wasm/imports.h): SHA-256 and decompression. Both are synchronous, as
// WebCrypto and DecompressionStream are not. Nothing here throws.

import { sha256 } from "./vendor/noble-hashes/sha2.js";
import { Inflate } from "./vendor/pako/inflate.js";

/** SHA-256 of bytes that come in pieces, several at once, each with a number. */
export class Sha256 {
  #hashes = new Map();
  #last = 0;

  begin() {
    this.#hashes.set(++this.#last, sha256.create());
    return this.#last;
  }

  update(hash, data) {
    this.#hashes.get(hash).update(data);
  }

  finish(hash) {
    return this.#hashes.get(hash).digest();
  }

  abandon(hash) {
    this.#hashes.delete(hash);
  }
}

// Inflated::End of runtime/cpp/src/inflate.h.
const END = { whole: 0, tooLong: 1, damaged: 2, unending: 3 };
// Of zlib.
const NEEDS_DICTIONARY = 2;
const BUFFER_ERROR = -5;

class TooLong extends Error {}

/** Decompresses one stream at a time, with pako, which is zlib in JavaScript: it finds the same faults. */
export class Inflater {
  bytes = 0;
  left = 0;
  #problem = "";
  #blocks = [];

  /**
   * @param {Uint8Array} input
   * @param {number} limit of the output, in bytes
   * @param {boolean} raw a deflate stream, and not a zlib stream
   * @returns {number} one of `END`; output is what comes before the limit, the damage or the end
   */
  run(input, limit, raw) {
    this.bytes = this.left = 0;
    this.#problem = "";
    this.#blocks = [];
    const chunkSize = Math.min(Math.max(limit, 1), 1 << 16);
    const inflate = new Inflate({ raw, windowBits: raw ? -15 : 15, chunkSize });
    inflate.onData = (block) => {
      const kept = block.subarray(0, limit - this.bytes);
      this.#blocks.push(kept);
      this.bytes += kept.length;
      if (kept.length < block.length) throw new TooLong();
    };
    try {
      inflate.push(input, true);
    } catch (error) {
      if (error instanceof TooLong) return END.tooLong;
      this.#problem = String(error.message);
      return END.damaged;
    }
    const { avail_in: left, next_out: made, output } = inflate.strm;
    this.left = left;
    if (inflate.err === 0) return END.whole;
    if (inflate.err === BUFFER_ERROR) return END.unending;
    // What came before the damage, which pako does not hand over.
    if (made > 0) inflate.onData(output.subarray(0, Math.min(made, limit - this.bytes)));
    this.#problem = inflate.err === NEEDS_DICTIONARY ? "it needs a dictionary" : inflate.msg;
    return END.damaged;
  }

  /** Writes what zlib says of a damaged stream, in ASCII with a NUL after it. */
  tellProblem(target) {
    const { written } = new TextEncoder().encodeInto(this.#problem, target.subarray(0, target.length - 1));
    target[written] = 0;
  }

  /** Writes the result, and forgets it. */
  take(target) {
    let at = 0;
    for (const block of this.#blocks) {
      target.set(block, at);
      at += block.length;
    }
    this.#blocks = [];
  }
}
