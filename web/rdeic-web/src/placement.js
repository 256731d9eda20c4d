// Where a family's stages run: on a whole image, or on tiles of it. A family sees no difference.
//
//   Whole   a stage runs once
//   Tiled   a stage runs tile by tile, and what the tiles give is blended before the next stage (docs/tiling.md)

import { RdcError } from "./errors.js";
import { count, gridOf } from "./shapes.js";
import { isFinite } from "./tensors.js";

class Placement {
  /** Returns the outputs of a stage for these inputs; those that are undefined are left out. */
  async each(stage, inputs) {
    const given = Object.fromEntries(Object.entries(inputs).filter(([, value]) => value !== undefined));
    if (stage.finite !== null && !isFinite(given[stage.finite], stage.finite)) {
      throw new RdcError(
        "bundle_corrupt",
        "denoising returned values that are not finite: the bundle's weights or its schedule are unusable, or the " +
          "sharpness is far too large",
      );
    }
    return this.run(stage, given);
  }
}

/** An image in one piece. */
export class Whole extends Placement {
  constructor(progress) {
    super();
    this.progress = progress;
  }

  async run(stage, inputs) {
    if (stage.graphs.length > 0) await this.progress.begin(stage.name);
    return stage.run(inputs);
  }
}

/** An image in tiles. */
export class Tiled extends Placement {
  /** `canvas`: makes the canvas of a graph's output, by id and name. */
  constructor(canvas, tiling, progress) {
    super();
    this.canvas = canvas;
    this.tiling = tiling;
    this.progress = progress;
  }

  async run(stage, inputs) {
    // What is computed element by element is the same in tiles.
    if (stage.graphs.length === 0) return stage.run(inputs);
    const { rows, columns } = this.tiling;
    const { id } = stage.graphs.at(-1).spec;
    const canvases = [];
    try {
      for (const { name } of stage.outputs) canvases.push(this.canvas(id, name));
      for (let row = 0; row < rows.starts.length; ++row) {
        for (let column = 0; column < columns.starts.length; ++column) {
          await this.progress.begin(stage.name, row + column > 0);
          const pieces = Object.entries(inputs).map(([name, value]) => [
            name,
            crop(value, stage.inputs[name], this.tiling, row, column),
          ]);
          const made = await stage.run(Object.fromEntries(pieces));
          canvases.forEach((canvas, index) => canvas.add(row, column, made[index].data));
        }
      }
      return canvases.map((canvas) => canvas.take());
    } finally {
      for (const canvas of canvases) canvas.free();
    }
  }
}

/** Returns a tile of a tensor of the whole image; the tensor itself if it is the same for all sizes. */
function crop(whole, spec, tiling, row, column) {
  const grid = gridOf(spec.shape);
  if (grid === null) return whole;
  const px = tiling.unitPx / grid.perUnit;
  const height = tiling.rows.tile / px,
    width = tiling.columns.tile / px;
  const top = tiling.rows.starts[row] / px,
    left = tiling.columns.starts[column] / px;
  const [wholeHeight, wholeWidth] = whole.dims.slice(grid.axis);
  const outer = count(whole.dims.slice(0, grid.axis)),
    inner = count(whole.dims.slice(grid.axis + 2));
  const data = new whole.data.constructor(outer * height * width * inner);
  let to = 0;
  for (let o = 0; o < outer; ++o) {
    for (let y = 0; y < height; ++y) {
      const from = ((o * wholeHeight + top + y) * wholeWidth + left) * inner;
      data.set(whole.data.subarray(from, from + width * inner), to);
      to += width * inner;
    }
  }
  const dims = whole.dims.with(grid.axis, height).with(grid.axis + 1, width);
  return { dtype: whole.dtype, dims, data };
}
