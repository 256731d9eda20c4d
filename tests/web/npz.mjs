// Reads .npz files with node alone, so that what the package reads of them has something to be compared with.

import { inflateRawSync } from "node:zlib";

const TYPES = {
  "<f4": Float32Array,
  "<i4": Int32Array,
  "<i8": BigInt64Array,
  "|u1": Uint8Array,
  "|i1": Int8Array,
  "<u2": Uint16Array,
};

/**
 * @param {Buffer} file
 * @returns {Record<string, { dims: number[], data: ArrayLike<number | bigint> }>}
 */
export function readNpz(file) {
  const arrays = {};
  const end = file.lastIndexOf("PK\x05\x06", undefined, "latin1");
  let entry = file.readUInt32LE(end + 16);
  for (let left = file.readUInt16LE(end + 10); left > 0; left--) {
    const [method, packedBytes] = [file.readUInt16LE(entry + 10), file.readUInt32LE(entry + 20)];
    const nameEnd = entry + 46 + file.readUInt16LE(entry + 28);
    const local = file.readUInt32LE(entry + 42);
    const at = local + 30 + file.readUInt16LE(local + 26) + file.readUInt16LE(local + 28);
    const packed = file.subarray(at, at + packedBytes);
    const name = file.toString("latin1", entry + 46, nameEnd).replace(/\.npy$/, "");
    arrays[name] = readNpy(method === 0 ? packed : inflateRawSync(packed));
    entry = nameEnd + file.readUInt16LE(entry + 30) + file.readUInt16LE(entry + 32);
  }
  return arrays;
}

/** @param {Buffer} file of version 1, in C order */
function readNpy(file) {
  const start = 10 + file.readUInt16LE(8);
  const header = file.toString("latin1", 10, start);
  const dims = header
    .match(/'shape': \(([^)]*)\)/)[1]
    .split(",")
    .filter((side) => side.trim())
    .map(Number);
  return { dims, data: new TYPES[header.match(/'descr': '([^']*)'/)[1]](Uint8Array.from(file.subarray(start)).buffer) };
}
