// A decoded image as a PNG file, with the colour profile and EXIF of the .rdc file. A canvas would lose both, and some
// browsers change what is read from one.

const SIGNATURE = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const RGB = 2;
const FILTER_SUB = 1;

/** Returns a PNG file (RGB, 8 bits) of what `decodeWithDetails` returned, as a Blob. */
export async function pngOf({ image, metadata }) {
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, image.width);
  header.setUint32(4, image.height);
  header.setUint8(8, 8);
  header.setUint8(9, RGB);
  const chunks = [chunk("IHDR", new Uint8Array(header.buffer))];
  if (metadata.icc) chunks.push(chunk("iCCP", joined([ascii("profile"), new Uint8Array(2), await deflated(metadata.icc)])));
  if (metadata.exif) chunks.push(chunk("eXIf", metadata.exif));
  chunks.push(chunk("IDAT", await deflated(filtered(image))), chunk("IEND", new Uint8Array(0)));
  return new Blob([SIGNATURE, ...chunks], { type: "image/png" });
}

/** Returns the rows of an RGBA image as RGB, each value less that of the pixel to its left. */
function filtered({ width, height, data }) {
  const rows = new Uint8Array(height * (1 + 3 * width));
  let [from, to] = [0, 0];
  for (let y = 0; y < height; ++y) {
    rows[to++] = FILTER_SUB;
    for (let x = 0; x < width; ++x, from += 4) {
      for (let c = 0; c < 3; ++c) rows[to++] = data[from + c] - (x ? data[from - 4 + c] : 0);
    }
  }
  return rows;
}

async function deflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function chunk(type, content) {
  const made = new DataView(new ArrayBuffer(12 + content.length));
  const bytes = new Uint8Array(made.buffer);
  made.setUint32(0, content.length);
  bytes.set(ascii(type), 4);
  bytes.set(content, 8);
  made.setUint32(8 + content.length, crc32(bytes.subarray(4, 8 + content.length)));
  return bytes;
}

const ascii = (text) => Uint8Array.from(text, (character) => character.charCodeAt(0));

function joined(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
  return all;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; ++bit) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
