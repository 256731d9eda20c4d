/** Results of librdeic by number (runtime/cpp/include/rdeic/rdeic.h), in lower case. */
const CODES = {
  10: "internal",
  20: "invalid_argument",
  21: "cancelled",
  30: "io",
  40: "not_rdc",
  41: "truncated",
  42: "unsupported_version",
  43: "limit_exceeded",
  44: "checksum",
  45: "bitstream",
  50: "bundle",
  51: "bundle_not_found",
  52: "bundle_corrupt",
  53: "bundle_mismatch",
  60: "backend",
  61: "backend_unavailable",
  62: "out_of_memory",
};

/** What bad input, a bad bundle, a missing device or a caller's mistake ends in. The message is one line. */
export class RdcError extends Error {
  /**
   * @param {string} code librdeic's result in lower case, such as "truncated" or "bundle_mismatch"
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.name = "RdcError";
    this.code = code;
  }

  /**
   * @param {number} result a number of librdeic's results
   * @param {string} message
   */
  static ofResult(result, message) {
    return new RdcError(CODES[result] ?? "internal", message);
  }
}
