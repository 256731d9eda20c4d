// Symbolic shapes of bundle.json (docs/bundle.md, "Shapes"): a dimension is a number, or a multiple of `batch`, `hz` or
// `wz`, such as "8*hz". `sizes` are { batch, hz, wz } of an image.

function dim(symbol) {
  if (typeof symbol === "number") return { name: null, factor: symbol };
  const [name, factor] = symbol.split("*").reverse();
  return { name, factor: Number(factor ?? 1) };
}

/** Returns the shape for these sizes. */
export function resolve(shape, sizes) {
  return shape.map(dim).map(({ name, factor }) => (name === null ? factor : factor * sizes[name]));
}

/** Returns how a tensor lies over the image: the axis of its rows (columns are the next), and its positions per unit;
 * null if it is the same for all sizes. */
export function gridOf(shape) {
  const dims = shape.map(dim);
  const axis = dims.findIndex(({ name }) => name === "hz");
  return axis < 0 ? null : { axis, perUnit: dims[axis].factor };
}

/** Returns the sizes that arrays have, as far as their shapes tell: [[shape, dims], ...] -> { batch, hz, wz }. */
export function sizesOf(arrays) {
  const sizes = { batch: 1, hz: 1, wz: 1 };
  for (const [shape, dims] of arrays) {
    shape.map(dim).forEach(({ name, factor }, axis) => {
      if (name !== null) sizes[name] = Math.trunc(dims[axis] / factor);
    });
  }
  return sizes;
}

/** Returns the number of elements. */
export const count = (dims) => dims.reduce((product, side) => product * side, 1);
