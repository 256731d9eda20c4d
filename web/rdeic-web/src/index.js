// rdeic-web decodes .rdc files in the browser.

export { RdcDecoder } from "./decoder.js";
export { RdcError } from "./errors.js";
export { pngOf } from "./png.js";
export { prefersReducedData } from "./reduced-data.js";
export { RdcImg } from "./element.js"; // defines <rdc-img>
