// What exact.js and exact-bundle.js take and return.

/**
 * @typedef {object} Limits what a file may ask for; the defaults are those of docs/format.md
 * @property {number} [maxPixels]
 * @property {number} [maxFileBytes]
 * @property {number} [maxMetadataBytes] of ICC profile and EXIF together, inflated
 * @property {number} [maxMemoryBytes] of all buffers for one image; 0: no limit
 * @property {number} [maxSidePx]
 *
 * @typedef {object} Info the header of a file
 * @property {number} width in pixels
 * @property {number} height in pixels
 * @property {number} rate index in the bundle; the level, where the bundle has levels
 * @property {string} modelId of the entropy model that the file needs, 8 hexadecimal digits
 * @property {number} checksum the seed of the noise, unless another is given
 * @property {number} zBytes
 * @property {number} yBytes
 * @property {number} iccBytes 0: none
 * @property {number} exifBytes 0: none
 * @property {number} missingBytes of a truncated file
 *
 * @typedef {object} Tensor
 * @property {string} dtype "uint8", "int64" or "float32"
 * @property {number[]} dims
 * @property {Uint8Array | BigInt64Array | Float32Array} data in C order
 *
 * @typedef {object} Latents
 * @property {Info} info
 * @property {Rate} rate
 * @property {number} level the file's, where the bundle has levels
 * @property {number} completeSlices how many slices of the latents are as in the whole file
 * @property {number} nSlices
 * @property {number} missingBytes of a truncated file
 * @property {Record<string, Tensor>} tensors by name, exact
 * @property {{ icc: Uint8Array | null, exif: Uint8Array | null }} metadata
 *
 * @typedef {object} Rate one operating point of a bundle
 * @property {number} index
 * @property {number} number what a file stores: the level, where the bundle has levels, else the index
 * @property {string} label
 * @property {number} bpp bits per pixel of a typical photo
 * @property {string} modelId
 * @property {number} steps of its own schedule; 1 where there is none
 * @property {boolean} guided whether sharpness other than 1 is possible
 * @property {Record<string, string>} graphs role -> graph id
 * @property {string | null} schedule
 *
 * @typedef {object} TensorSpec
 * @property {string} name
 * @property {string} dtype
 * @property {(number | string)[]} shape as in bundle.json: numbers, "batch", "8*hz", "8*wz"
 *
 * @typedef {object} Graph one form of a graph
 * @property {string} path
 * @property {TensorSpec[]} inputs
 * @property {TensorSpec[]} outputs
 *
 * @typedef {object} Axis tiles along one side, in pixels
 * @property {number} length
 * @property {number} tile of every tile
 * @property {number[]} starts
 * @property {number} ramp over which two neighbours are blended
 *
 * @typedef {{ rows: Axis, columns: Axis, unitPx: number, single: boolean }} Tiling
 */

/** @param {ArrayBuffer | ArrayBufferView} data */
export function bytesOf(data) {
  return ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
}

/** @param {number} id */
const modelIdText = (id) => id.toString(16).padStart(8, "0");

/**
 * @param {number[]} numbers
 * @returns {Info}
 */
export function infoOf(numbers) {
  const [width, height, rate, modelId, checksum, zBytes, yBytes, iccBytes, exifBytes, missingBytes] = numbers;
  const sizes = { zBytes, yBytes, iccBytes, exifBytes, missingBytes };
  return { width, height, rate, modelId: modelIdText(modelId), checksum, ...sizes };
}
