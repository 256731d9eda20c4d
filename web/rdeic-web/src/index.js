// rdeic-web decodes .rdc files in the browser.

export { RdcDecoder } from "./decoder.js";
export { RdcError } from "./errors.js";
