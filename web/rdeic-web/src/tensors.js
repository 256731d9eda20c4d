// Tensors: { dtype, dims, data }, in C order on the host. Nothing changes one once it is made.

import { RdcError } from "./errors.js";

/** The typed array of each element type that tensors of a bundle may have; ONNX Runtime takes float16 as bits. */
export const ARRAYS = { uint8: Uint8Array, int64: BigInt64Array, float16: Uint16Array, float32: Float32Array };

/** Returns zeros of the type and shape of a tensor. */
export function zerosLike({ dtype, dims, data }) {
  return { dtype, dims, data: new ARRAYS[dtype](data.length) };
}

/** Returns numbers as float32 [1, N], or [N] with `dims`. */
export function row(numbers, dims = [numbers.length]) {
  return { dtype: "float32", dims, data: Float32Array.from(numbers) };
}

/** Returns w[0] x + w[1] y in float32, each product and the sum rounded, as every runtime does. */
export function weightedSum(x, y, weights) {
  const [first, second] = weights;
  const xs = elements(x, "z"),
    ys = elements(y, "z");
  const data = new Float32Array(xs.length);
  for (let i = 0; i < data.length; ++i) data[i] = Math.fround(first * xs[i]) + Math.fround(second * ys[i]);
  return { dtype: "float32", dims: x.dims, data };
}

/** Returns whether all elements of a float32 tensor are finite; `name` is for the error. */
export const isFinite = (tensor, name) => elements(tensor, name).every(Number.isFinite);

function elements({ dtype, data }, name) {
  if (dtype !== "float32") throw new RdcError("bundle_corrupt", `${name} is ${dtype}, should be float32`);
  return data;
}
