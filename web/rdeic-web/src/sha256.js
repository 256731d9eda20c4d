// SHA-256, by the browser where the page is in a secure context.

import { sha256 as byHand } from "./vendor/noble-hashes/sha2.js";

/** Returns the SHA-256 of bytes in hexadecimal digits. */
export async function sha256(data) {
  const { subtle } = globalThis.crypto ?? {};
  const digest = subtle ? new Uint8Array(await subtle.digest("SHA-256", data)) : byHand(data);
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
