// Files, bundles and archives that are damaged or hostile, the same on every run.

import { deflateRawSync, deflateSync } from "node:zlib";

/** @param {number} seed */
export function randomOf(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let value = Math.imul(state ^ (state >>> 15), state | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (n) => Math.floor(next() * n);
  return {
    below,
    choice: (items) => items[below(items.length)],
    bytes: (n) => Buffer.from(Array.from({ length: n }, () => below(256))),
  };
}

/** Returns a checksum by its polynomial, bit by bit. */
function crcOf(data, polynomial) {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? polynomial : 0);
  }
  return ~crc >>> 0;
}

const crc32 = (data) => crcOf(data, 0xedb88320);
const crc32c = (data) => crcOf(data, 0x82f63b78);

/** Returns the file with a checksum that fits. */
function resealed(file) {
  const sealed = Buffer.from(file);
  if (sealed.length >= 4) sealed.writeUInt32LE(crc32c(sealed.subarray(0, -4)), sealed.length - 4);
  return sealed;
}

function varint(number) {
  const bytes = [];
  for (; number > 127; number = Math.floor(number / 128)) bytes.push((number % 128) | 128);
  return Buffer.from([...bytes, number]);
}

/** Returns a file with this z section and no other. */
export function file({ modelId, rate, width, height, z }) {
  const head = [Buffer.from([0x89, 0x52, 0x44, 0x43, 1, 0]), Buffer.from(modelId, "hex"), Buffer.from([rate])];
  const lengths = [width, height, z.length, 0].map(varint);
  return resealed(Buffer.concat([...head, ...lengths, z, Buffer.alloc(4)]));
}

/** Returns a file without metadata with this as its metadata section. */
export function withMetadata(file, section) {
  let at = 11;
  for (let left = 4; left > 0; at++) left -= file[at] < 128 ? 1 : 0;
  const head = Buffer.from(file.subarray(0, at));
  head[5] |= 1;
  return resealed(Buffer.concat([head, varint(section.length), file.subarray(at, -4), section, Buffer.alloc(4)]));
}

/** Returns a metadata section of records, each a tag and its bytes. */
export function metadataSection(records, options) {
  return deflateSync(
    Buffer.concat(records.flatMap(([tag, data]) => [Buffer.from([tag]), varint(data.length), data])),
    options,
  );
}

/** Returns the bytes with one to four random changes. */
function changed(random, data, from = 0) {
  let bytes = Buffer.from(data);
  for (let n = 1 + random.below(4); n > 0; n--) {
    const at = from + random.below(Math.max(bytes.length - from, 1));
    const kind = random.below(6);
    if (kind < 3) bytes[at] ^= 1 << random.below(8);
    else if (kind === 3) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + random.below(8))]);
    else if (kind === 4)
      bytes = Buffer.concat([bytes.subarray(0, at), random.bytes(1 + random.below(8)), bytes.subarray(at)]);
    else bytes[at] = random.choice([0, 1, 0x7f, 0x80, 0xff]);
  }
  return bytes;
}

/** Yields damage to a file: cuts, changes, and changes with a checksum that fits. */
export function* files(file, random, count) {
  for (let length = 0; length < file.length; length += 1 + (length > 40 ? random.below(20) : 0))
    yield file.subarray(0, length);
  for (let bit = 0; bit < 8 * 20; bit++) {
    const flipped = Buffer.from(file);
    flipped[bit >> 3] ^= 1 << (bit & 7);
    yield flipped;
    yield resealed(flipped);
  }
  for (let n = 0; n < count; n++) {
    yield changed(random, file);
    yield resealed(changed(random, file, 14));
  }
  const text = Buffer.from("profile".repeat(40));
  const sections = [
    metadataSection([
      [1, text],
      [2, text],
    ]),
    metadataSection(
      [
        [1, random.bytes(300)],
        [7, text],
      ],
      { level: 0 },
    ),
    metadataSection([
      [1, text],
      [1, text],
    ]),
    metadataSection([[2, Buffer.alloc(0)]]),
    metadataSection(Array(1025).fill([9, Buffer.alloc(0)])),
    metadataSection([[1, Buffer.alloc(2 ** 22 + 1)]]),
    metadataSection([[1, text]], { dictionary: text }),
    Buffer.concat([metadataSection([[1, text]]), Buffer.from([1, 2, 3])]),
    metadataSection([[1, text]]).subarray(0, -3),
    Buffer.alloc(0),
  ];
  for (const section of sections) {
    yield withMetadata(file, section);
    for (let n = 0; n < count / 4; n++) yield withMetadata(file, changed(random, section.subarray(0, 400)));
  }
}

/** Yields damage to a bundle.json: to its text, and to what it says. */
export function* manifests(text, random, count) {
  yield Buffer.from(text);
  yield Buffer.from(`\ufeff${text}`);
  yield Buffer.from(text + " ".repeat(2 ** 20));
  yield Buffer.from("[".repeat(100));
  for (let n = 0; n < count; n++) yield changed(random, Buffer.from(text));
  const values = [
    null,
    true,
    -1,
    0,
    1,
    255,
    256,
    1e300,
    0.5,
    "",
    "x",
    "../x",
    "batch",
    "8*hz",
    "f\u00e9",
    [],
    {},
    ["x"],
    { x: 1 },
  ];
  for (let n = 0; n < 2 * count; n++) {
    const document = JSON.parse(text);
    let place = document;
    for (;;) {
      const key = random.choice(Object.keys(place));
      const deeper = typeof place[key] === "object" && place[key] !== null && Object.keys(place[key]).length > 0;
      if (deeper && random.below(5) > 0) {
        place = place[key];
        continue;
      }
      const change = random.below(5);
      if (change === 0) delete place[key];
      else if (change === 1 && !Array.isArray(place)) place[`${key}x`] = place[key];
      else place[key] = random.choice(values);
      break;
    }
    yield Buffer.from(JSON.stringify(document));
  }
}

/**
 * Returns a zip archive of members, each { name, data } and what is not as it should be.
 *
 * @param {{ name: string, data: Buffer, method?: number, flags?: number, bytes?: number, crc?: number, inLocal?: object,
 *   extra?: Buffer }[]} members
 */
export function zip(members, { before = Buffer.alloc(0), comment = Buffer.alloc(0), ...end } = {}) {
  const parts = [],
    entries = [];
  let at = 0;
  for (const { name, data, extra = Buffer.alloc(0), inLocal = {}, ...said } of members) {
    const method = said.method ?? 8;
    const packed = method === 8 ? deflateRawSync(data) : data;
    const facts = { flags: 0, method, crc: crc32(data), packedBytes: packed.length, bytes: data.length, at, ...said };
    const fields = ({ flags, method: how, crc, packedBytes, bytes }, extraBytes) => {
      const buffer = Buffer.alloc(26);
      for (const [index, value] of [20, flags, how, 0, 0].entries()) buffer.writeUInt16LE(value, 2 * index);
      for (const [index, value] of [crc, packedBytes, bytes].entries()) buffer.writeUInt32LE(value, 10 + 4 * index);
      buffer.writeUInt16LE(name.length, 22);
      buffer.writeUInt16LE(extraBytes, 24);
      return buffer;
    };
    const local = [Buffer.from("PK\x03\x04", "latin1"), fields({ ...facts, ...inLocal }, 0), Buffer.from(name), packed];
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(facts.at, 10);
    entries.push(
      Buffer.from("PK\x01\x02\x14\x00", "latin1"),
      fields(facts, extra.length),
      tail,
      Buffer.from(name),
      extra,
    );
    parts.push(...local);
    at += local.reduce((sum, part) => sum + part.length, 0);
  }
  const directory = Buffer.concat(entries);
  const last = Buffer.alloc(22);
  last.write("PK\x05\x06", "latin1");
  last.writeUInt16LE(end.entries ?? members.length, 8);
  last.writeUInt16LE(end.entries ?? members.length, 10);
  last.writeUInt32LE(directory.length, 12);
  last.writeUInt32LE(end.at ?? at, 16);
  last.writeUInt16LE(comment.length, 20);
  return Buffer.concat([before, ...parts, directory, last, comment]);
}

/** Returns the members of an .npz file's arrays. */
function npy(array, { descr = "<f4", order = "False", shape } = {}) {
  const dims = shape ?? `(${array.dims.join(", ")}${array.dims.length === 1 ? "," : ""})`;
  let header = `{'descr': '${descr}', 'fortran_order': ${order}, 'shape': ${dims}, }`;
  header += `${" ".repeat(63 - ((header.length + 10) % 64))}\n`;
  const start = Buffer.from("\x93NUMPY\x01\x00\x00\x00", "latin1");
  start.writeUInt16LE(header.length, 8);
  return Buffer.concat([start, Buffer.from(header), Buffer.from(array.data.buffer)]);
}

/** Yields archives of an .npz file's arrays: as they should be, contradictory, and damaged. */
export function* archives(arrays, random, count) {
  const good = Object.entries(arrays).map(([name, array]) => ({ name: `${name}.npy`, data: npy(array) }));
  const first = (change) => good.map((member, index) => (index === 0 ? { ...member, ...change } : member));
  const [name, array] = Object.entries(arrays)[0];
  const field64 = Buffer.alloc(28);
  field64.writeUInt16LE(1, 0);
  field64.writeUInt16LE(24, 2);
  field64.writeBigUInt64LE(BigInt(good[0].data.length), 4);
  field64.writeBigUInt64LE(BigInt(deflateRawSync(good[0].data).length), 12);
  const made = [
    zip(good),
    zip(good.map((member) => ({ ...member, method: 0 }))),
    zip(good, { before: Buffer.from("before"), comment: Buffer.from("after") }),
    zip(good, { entries: 1 }),
    zip(good, { entries: 3 }),
    zip(good, { at: 7 }),
    zip([...good, ...good]),
    zip([]),
    zip(first({ method: 12 })),
    zip(first({ flags: 1 })),
    zip(first({ flags: 8, inLocal: { crc: 0, packedBytes: 0, bytes: 0 } })),
    zip(first({ crc: 1 })),
    zip(first({ inLocal: { crc: 1 } })),
    zip(first({ inLocal: { method: 0 } })),
    zip(first({ inLocal: { bytes: 1 } })),
    zip(first({ bytes: good[0].data.length - 1 })),
    zip(first({ bytes: good[0].data.length + 1 })),
    zip(first({ bytes: 2 ** 31 })),
    zip(first({ bytes: 0xffffffff, packedBytes: 0xffffffff, at: 0xffffffff, extra: field64 })),
    zip(first({ bytes: 0xffffffff, extra: field64 })),
    zip(first({ packedBytes: 5 })),
    zip(first({ at: 1 })),
    zip(first({ name: "x".repeat(256) })),
    zip(first({ name: "x".repeat(257) })),
    zip(first({ name: `${name}.npy\0x` })),
    zip(first({ name })),
    zip(first({ data: npy(array, { descr: ">f4" }) })),
    zip(first({ data: npy(array, { descr: "<f8" }) })),
    zip(first({ data: npy(array, { order: "True" }) })),
    zip(first({ data: npy(array, { shape: "(3,)" }) })),
    zip(first({ data: npy(array, { shape: "(18446744073709551616,)" }) })),
    zip(first({ data: npy({ dims: array.dims, data: new Float32Array(array.data.length).fill(NaN) }) })),
    zip(first({ data: Buffer.alloc(0) })),
    zip([...good, { name: "more.npy", data: npy({ dims: [1], data: Float32Array.of(1) }) }]),
    zip(good.slice(1)),
    Buffer.alloc(0),
    Buffer.from("PK"),
  ];
  yield* made;
  for (let n = 0; n < count; n++) yield changed(random, random.choice(made.slice(0, 4)));
}

/** Yields random changes to bytes. */
export function* changes(data, random, count) {
  for (let n = 0; n < count; n++) yield changed(random, data);
}
